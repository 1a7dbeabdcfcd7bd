"""Optimizers, gradient estimators and schedules of continual learning."""

from cljax import _old_names
from cljax.optimizers.classp import ClasspState, classp, scale_by_classp
from cljax.optimizers.continual_backprop import CbpState, continual_backprop_init, continual_backprop_step
from cljax.optimizers.flatness import c_flat, sam
from cljax.optimizers.refresh import refresh
from cljax.optimizers.schedules import infinite, rewarm_redecay
from cljax.optimizers.tag import TagState, scale_by_tag, tag, tag_next_task
from cljax.optimizers.variational import (
  MeanField,
  claw_adapt,
  mean_field,
  mean_field_kl,
  mean_field_sample,
  natural_gradient,
  natural_parameters,
)
from cljax.optimizers.zeroth import (
  HistoryState,
  evolution_strategy,
  forward_gradient,
  history,
  hybrid,
  zo_conserve,
  zo_sgd,
  zo_sign,
)

__all__ = [
  "CbpState",
  "ClasspState",
  "HistoryState",
  "MeanField",
  "TagState",
  "c_flat",
  "classp",
  "claw_adapt",
  "continual_backprop_init",
  "continual_backprop_step",
  "evolution_strategy",
  "forward_gradient",
  "history",
  "hybrid",
  "infinite",
  "mean_field",
  "mean_field_kl",
  "mean_field_sample",
  "natural_gradient",
  "natural_parameters",
  "refresh",
  "rewarm_redecay",
  "sam",
  "scale_by_classp",
  "scale_by_tag",
  "tag",
  "tag_next_task",
  "zo_conserve",
  "zo_sgd",
  "zo_sign",
]

_EDITS = """
  ema ema_decay lcia reptile reptile_every fomo_forget freeze heterogeneous_averaging lines path_mask
  project_ratios LifecycleState lifecycle_epoch lifecycle_init lifecycle_mask ClnpState clnp clnp_consolidate
  clnp_end_task clnp_init clnp_state clnp_threshold clnp_trainable
"""
_MOVED = {name: "cljax.edits" for name in _EDITS.split()} | {"elephant": "cljax.models"}
__getattr__ = _old_names.from_package(__name__, _MOVED)
