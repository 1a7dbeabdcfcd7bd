"""Parameter-only penalties: pure functions, and optax transforms that add their gradients."""

from cljax.regularizers.boundary import attach, consolidate, export_state, find, follow_edit, import_state, state_bytes
from cljax.regularizers.bregman import bregman_penalty, fisher_potential, gaussian_log_partition
from cljax.regularizers.kronecker import KfacState, kfac_consolidate, kfac_ewc, kronecker_sum
from cljax.regularizers.path import HierarchicalState, SiState, hierarchical, layer_weights, si
from cljax.regularizers.penalties import ewc_penalty, hierarchical_penalty, importance_penalty, l2_penalty
from cljax.regularizers.quadratic import (
  EwcState,
  L2InitState,
  L2PreviousState,
  MasState,
  OnlineEwcState,
  ewc,
  l2,
  l2_init,
  l2_previous,
  mas,
  online_ewc,
)
from cljax.regularizers.structure import (
  SpectralState,
  WassersteinState,
  spectral,
  spectral_penalty,
  wasserstein,
  wasserstein_penalty,
)

__all__ = [
  "EwcState",
  "HierarchicalState",
  "KfacState",
  "L2InitState",
  "L2PreviousState",
  "MasState",
  "OnlineEwcState",
  "SiState",
  "SpectralState",
  "WassersteinState",
  "attach",
  "bregman_penalty",
  "consolidate",
  "ewc",
  "ewc_penalty",
  "export_state",
  "find",
  "fisher_potential",
  "follow_edit",
  "gaussian_log_partition",
  "hierarchical",
  "hierarchical_penalty",
  "import_state",
  "importance_penalty",
  "kfac_consolidate",
  "kfac_ewc",
  "kronecker_sum",
  "l2",
  "l2_init",
  "l2_penalty",
  "l2_previous",
  "layer_weights",
  "mas",
  "online_ewc",
  "si",
  "spectral",
  "spectral_penalty",
  "state_bytes",
  "wasserstein",
  "wasserstein_penalty",
]
