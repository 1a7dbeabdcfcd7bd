"""How many units of each layer a network that is given out to tasks has left."""

from __future__ import annotations

import jax
import numpy as np

from cljax import edits
from cljax.core.types import UsageError
from cljax.evaluators.registry import Evaluator, register


def clnp_units() -> Evaluator:
  """Of each hidden layer of a ``clnp`` run, after each event: the units that are free, that the last task used, and
  of these the ones that earlier tasks own: ``free_1``, ``used_1``, ``reused_1``, ...

  Before the first event all are free. UsageError for a run without ``clnp``.
  """

  def clnp_units(learner, predict, stream, event: int) -> dict[str, int]:
    del predict, stream, event
    is_units = lambda s: isinstance(s, edits.ClnpUnits)
    found = [s for s in jax.tree.leaves(learner.method_state, is_leaf=is_units) if is_units(s)]
    if not found:
      raise UsageError("needs a run of the method clnp")
    named = zip(edits.ClnpUnits._fields, map(np.asarray, found[0]), strict=True)
    return {f"{name}_{i}": int(n) for name, counts in named for i, n in enumerate(counts, 1)}

  return Evaluator("clnp_units", clnp_units)


register(clnp_units())
