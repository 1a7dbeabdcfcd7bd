"""Optimizers, gradient estimators, schedules and weight edits of continual learning."""

from cljax.optimizers.activations import elephant
from cljax.optimizers.averaging import ema, ema_decay, lcia, reptile, reptile_every
from cljax.optimizers.classp import ClasspState, classp, scale_by_classp
from cljax.optimizers.continual_backprop import CbpState, continual_backprop_init, continual_backprop_step
from cljax.optimizers.editing import (
  fomo_forget,
  freeze,
  heterogeneous_averaging,
  lines,
  path_mask,
  project_ratios,
)
from cljax.optimizers.lifecycle import LifecycleState, lifecycle_epoch, lifecycle_init, lifecycle_mask
from cljax.optimizers.pruning import (
  ClnpState,
  clnp,
  clnp_consolidate,
  clnp_end_task,
  clnp_init,
  clnp_state,
  clnp_threshold,
  clnp_trainable,
)
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
  "ClnpState",
  "HistoryState",
  "LifecycleState",
  "MeanField",
  "TagState",
  "classp",
  "claw_adapt",
  "clnp",
  "clnp_consolidate",
  "clnp_end_task",
  "clnp_init",
  "clnp_state",
  "clnp_threshold",
  "clnp_trainable",
  "continual_backprop_init",
  "continual_backprop_step",
  "elephant",
  "ema",
  "ema_decay",
  "evolution_strategy",
  "fomo_forget",
  "forward_gradient",
  "freeze",
  "heterogeneous_averaging",
  "history",
  "hybrid",
  "infinite",
  "lcia",
  "lifecycle_epoch",
  "lifecycle_init",
  "lifecycle_mask",
  "lines",
  "mean_field",
  "mean_field_kl",
  "mean_field_sample",
  "natural_gradient",
  "natural_parameters",
  "path_mask",
  "project_ratios",
  "refresh",
  "reptile",
  "reptile_every",
  "rewarm_redecay",
  "scale_by_classp",
  "scale_by_tag",
  "tag",
  "tag_next_task",
  "zo_conserve",
  "zo_sgd",
  "zo_sign",
]
