"""Edits of weights between and beside steps: averages, units that sleep, pruning, edits by place in the network."""

from cljax.edits.averaging import ema, ema_decay, lcia, reptile, reptile_every
from cljax.edits.editing import fomo_forget, freeze, heterogeneous_averaging, lines, path_mask, project_ratios
from cljax.edits.lifecycle import LifecycleState, lifecycle_epoch, lifecycle_init, lifecycle_mask
from cljax.edits.pruning import (
  ClnpState,
  ClnpUnits,
  clnp,
  clnp_consolidate,
  clnp_end_task,
  clnp_init,
  clnp_state,
  clnp_threshold,
  clnp_trainable,
  clnp_units,
)

__all__ = [
  "ClnpState", "ClnpUnits", "LifecycleState", "clnp", "clnp_consolidate", "clnp_end_task", "clnp_init", "clnp_state",
  "clnp_threshold", "clnp_trainable", "clnp_units", "ema", "ema_decay", "fomo_forget", "freeze",
  "heterogeneous_averaging", "lcia", "lifecycle_epoch", "lifecycle_init", "lifecycle_mask", "lines", "path_mask",
  "project_ratios", "reptile", "reptile_every",
]  # fmt: skip
