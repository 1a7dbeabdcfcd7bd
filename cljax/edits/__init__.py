"""Edits of weights between and beside steps: averages, units that sleep, pruning, edits by place in the network."""

from cljax.edits.alignment import match_units, permute_units
from cljax.edits.averaging import ema, ema_decay, lcia, reptile, reptile_every
from cljax.edits.editing import fomo_forget, freeze, heterogeneous_averaging, lines, path_mask, project_ratios
from cljax.edits.lifecycle import LifecycleState, lifecycle_epoch, lifecycle_init, lifecycle_mask
from cljax.edits.merging import dare, interpolate, lines_of_several, soup, task_arithmetic, task_vectors, ties
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
  "clnp_threshold", "clnp_trainable", "clnp_units", "dare", "ema", "ema_decay", "fomo_forget", "freeze",
  "heterogeneous_averaging", "interpolate", "lcia", "lifecycle_epoch", "lifecycle_init", "lifecycle_mask", "lines",
  "lines_of_several", "match_units", "path_mask", "permute_units", "project_ratios", "reptile", "reptile_every", "soup",
  "task_arithmetic", "task_vectors", "ties",
]  # fmt: skip
