"""Edits of weights between and beside steps: averages, sleeping units, pruning, edits by place, and edits of facts."""

from cljax.edits.alignment import match_units, permute_units
from cljax.edits.averaging import ema, ema_decay, lcia, reptile, reptile_every
from cljax.edits.editing import fomo_forget, freeze, heterogeneous_averaging, lines, path_mask, project_ratios
from cljax.edits.facts import Fact, ValueSearch, fact, key_moments
from cljax.edits.lifecycle import LifecycleState, lifecycle_epoch, lifecycle_init, lifecycle_mask
from cljax.edits.merging import dare, interpolate, lines_of_several, soup, task_arithmetic, task_vectors, ties
from cljax.edits.model_editing import emmet, least_squares_update, memit, r_rome, rank_one_update, rome
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
  "ClnpState", "ClnpUnits", "Fact", "LifecycleState", "ValueSearch", "clnp", "clnp_consolidate", "clnp_end_task",
  "clnp_init", "clnp_state", "clnp_threshold", "clnp_trainable", "clnp_units", "dare", "ema", "ema_decay", "emmet",
  "fact", "fomo_forget", "freeze", "heterogeneous_averaging", "interpolate", "key_moments", "lcia",
  "least_squares_update", "lifecycle_epoch", "lifecycle_init", "lifecycle_mask", "lines", "lines_of_several",
  "match_units", "memit", "path_mask", "permute_units", "project_ratios", "r_rome", "rank_one_update", "reptile",
  "reptile_every", "rome", "soup", "task_arithmetic", "task_vectors", "ties",
]  # fmt: skip
