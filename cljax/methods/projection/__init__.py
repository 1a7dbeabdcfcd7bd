"""Methods that project gradients or updates."""

from cljax import _old_names
from cljax.methods.projection.gradients import (
  EPISODIC,
  ON_GRADIENT,
  ON_UPDATE,
  Episodes,
  agem,
  by_references,
  episodic,
  gem,
  gpm,
  layer_rows,
  standing,
  with_held,
)

__all__ = [
  "EPISODIC",
  "ON_GRADIENT",
  "ON_UPDATE",
  "Episodes",
  "agem",
  "by_references",
  "episodic",
  "gem",
  "gpm",
  "layer_rows",
  "standing",
  "with_held",
]
__getattr__ = _old_names.from_module(__name__)
