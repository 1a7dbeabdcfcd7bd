"""The order law: through what a gradient passes on its way to the parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax

from cljax.core.dtypes import lenient
from cljax.core.method import Method
from cljax.engine import evaluation_parameters
from cljax.engine.recipe import rate_of


class OptState(NamedTuple):
  """Optimizer state in the order in which a gradient passes through it."""

  penalty: Any
  transform: Any
  optimizer: Any
  pull: Any = ()
  finalize: Any = ()


def chain(method: Method, optimizer) -> optax.GradientTransformationExtraArgs:
  """Penalties, projectors, the optimizer, decoupled pulls, then update-space projectors (the order law)."""
  adapted = evaluation_parameters.adapted(optimizer)
  parts = [method.penalty, method.transform, lenient(adapted), method.pull, method.finalize]
  parts = [optax.with_extra_args_support(p) if p is not None else None for p in parts]

  def init(params):
    state = OptState(*(() if p is None else p.init(params) for p in parts))
    if method.pull is not None:
      rate_of(optimizer, state.optimizer)  # refused before the first step where it has none
    return state

  def update(grads, state, params=None, **extra):
    new, raw = list(state), grads
    for i, part in enumerate(parts):
      if part is None:
        continue
      more = {"optimizer_state": new[2]} if i == 4 else {}
      if i == 3:
        more = {"rate": rate_of(optimizer, new[2], extra.get("progress")), "grad": raw}
      grads, new[i] = part.update(grads, state[i], params, **extra, **more)
    return grads, OptState(*new)

  return optax.GradientTransformationExtraArgs(init, update)
