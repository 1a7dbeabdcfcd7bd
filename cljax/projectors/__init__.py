"""Gradient and update projections as optax transforms."""

from cljax.projectors.agem import AGEMState, agem, current_weight, er_agem
from cljax.projectors.gpm import GPMState, gpm, gpm_bytes, gpm_extend

__all__ = ["AGEMState", "GPMState", "agem", "current_weight", "er_agem", "gpm", "gpm_bytes", "gpm_extend"]
