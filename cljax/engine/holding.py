"""A member whose loss is no number stays as it was."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import memory
from cljax.core.types import Learner

_MEMORIES = (memory.ClassBalancedState, memory.ReservoirState, memory.RingState)


def _holds_memory(node) -> bool:
  """A memory's state, or a tuple with one as its own field (which then holds the rows that wait for it, too)."""
  return isinstance(node, _MEMORIES) or (hasattr(node, "_fields") and any(isinstance(n, _MEMORIES) for n in node))


def select(alive, new, old):
  return jax.tree.map(lambda n, o: jnp.where(alive, n, o), new, old)


def held(alive, new: Learner, old: Learner) -> Learner:
  """``new`` where the member lives, ``old`` where it died, but for memories: a select over one copies all of it in each
  step, and rows of weight 0 leave it as it is."""
  keep = lambda n, o: n if _holds_memory(n) else select(alive, n, o)
  state = jax.tree.map(keep, new.method_state, old.method_state, is_leaf=_holds_memory)
  rest = select(alive, new._replace(method_state=()), old._replace(method_state=()))
  return rest._replace(method_state=state)
