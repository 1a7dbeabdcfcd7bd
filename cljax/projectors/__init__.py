"""Gradient and update projections as optax transforms.

All of them: ``update(grads, state, params, references={name: tree}, **extra)``; ``owm`` reads ``layer_inputs=`` too.
``*_extend``, ``*_start_task`` and ``*_end_task`` are pure functions on the optimizer state, which find the projector's
state wherever it is nested.
"""

from cljax import _old_names
from cljax.projectors.agem import AGEMState, agem, current_weight, er_agem
from cljax.projectors.coso import CoSOHistory, CoSOKernel, CoSOState, coso, coso_end_task, coso_projection
from cljax.projectors.cuber import (
  CUBERBlocked,
  CUBERKernel,
  CUBERState,
  cuber,
  cuber_end_task,
  cuber_projection,
  cuber_pull,
  cuber_start_task,
  scaled_projection,
)
from cljax.projectors.gem import GEMState, er_gem, gem
from cljax.projectors.geometric import GeometricState, geometric_disentanglement
from cljax.projectors.gpm import GPMState, gpm, gpm_bytes, gpm_extend
from cljax.projectors.ncl import NCLState, ncl, ncl_end_task
from cljax.projectors.nscl import NSCLState, nscl, nscl_extend
from cljax.projectors.ogd import (
  OGDState,
  basis_bytes,
  ogd,
  ogd_extend,
  pca_ogd,
  pca_ogd_extend,
  principal_directions,
)
from cljax.projectors.orthogonality import adaptive_orthogonality, adaptive_orthogonality_grad
from cljax.projectors.owm import OWMState, owm, owm_extend
from cljax.projectors.sgp import SGPState, sgp, sgp_extend
from cljax.projectors.trgp import rescaled, trgp_extend, trust_regions
from cljax.projectors.update_space import on_update

__all__ = [
  "AGEMState",
  "CUBERBlocked",
  "CUBERKernel",
  "CUBERState",
  "CoSOHistory",
  "CoSOKernel",
  "CoSOState",
  "GEMState",
  "GPMState",
  "GeometricState",
  "NCLState",
  "NSCLState",
  "OGDState",
  "OWMState",
  "SGPState",
  "adaptive_orthogonality",
  "adaptive_orthogonality_grad",
  "agem",
  "basis_bytes",
  "coso",
  "coso_end_task",
  "coso_projection",
  "cuber",
  "cuber_end_task",
  "cuber_projection",
  "cuber_pull",
  "cuber_start_task",
  "current_weight",
  "er_agem",
  "er_gem",
  "gem",
  "geometric_disentanglement",
  "gpm",
  "gpm_bytes",
  "gpm_extend",
  "ncl",
  "ncl_end_task",
  "nscl",
  "nscl_extend",
  "ogd",
  "ogd_extend",
  "on_update",
  "owm",
  "owm_extend",
  "pca_ogd",
  "pca_ogd_extend",
  "principal_directions",
  "rescaled",
  "scaled_projection",
  "sgp",
  "sgp_extend",
  "trgp_extend",
  "trust_regions",
]

_LINEAR = "IdealState ideal_init ideal_learn ideal_member ntk_forgetting ntk_overlap"
__getattr__ = _old_names.from_package(__name__, {name: "cljax.theory" for name in _LINEAR.split()})
