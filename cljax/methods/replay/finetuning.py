"""Training on the stored rows alone, when a task ends or now and then."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.memory import slots
from cljax.methods.replay.buffers import drawn


def on_stored(
  key, learner, spec: Spec, memory, state, visit, loss: Callable, *, passes: int, rate, trains: Callable, size: int,
  momentum: float = 0.9, shows: Callable | None = None,
):  # fmt: skip
  """The learner after ``passes`` over all rows of a memory, each shuffled, in batches of ``size``, by SGD at ``rate``
  (a number, or a function of the pass) with momentum from rest. Only leaves of which ``trains(name)`` holds move.

  ``loss(key, params, model_state, batch) -> (loss, model_state)``; the batch's x is as its rows' tasks show it, or as
  ``shows(x, task)`` does.
  """
  rows, there = memory.contents(state)
  total = there.shape[0]
  size = min(size, total)
  count = jnp.sum(there > 0, dtype=jnp.int32)
  place = jnp.argsort(there <= 0, stable=True).astype(jnp.int32)  # those that are stored, first

  def one_pass(p, fitted):
    own, size_of_step = jax.random.fold_in(key, p), rate(p) if callable(rate) else rate
    bits = jax.random.bits(fold(own, "order"), (total,), jnp.uint32)
    order = place[jnp.lexsort((bits, jnp.arange(total) >= count))]

    def step(i, fitted):
      params, model_state, velocity = fitted
      at = i * size + jnp.arange(size, dtype=jnp.int32)
      inside = at < count
      at = jnp.where(inside, order[jnp.minimum(at, total - 1)], total)
      batch = drawn(spec, slots.read(rows, at), inside.astype(jnp.float32), visit)
      batch = batch._replace(x=(shows or spec.view)(batch.x, batch.task), visit=visit)
      of = lambda params: loss(jax.random.fold_in(own, i), params, model_state, batch)
      grads, model_state = jax.grad(of, has_aux=True)(params)
      velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, grads)
      move = lambda n, w, v: (w - size_of_step * v).astype(w.dtype) if trains(n) else w
      return tree.map_named(move, params, velocity), model_state, velocity

    return jax.lax.fori_loop(0, (count + size - 1) // size, step, fitted)

  start = (learner.params, learner.model_state, jax.tree.map(jnp.zeros_like, learner.params))
  params, model_state, _ = jax.lax.fori_loop(0, passes, one_pass, start)
  return learner._replace(params=params, model_state=model_state)


def steps_on_stored(key, learner, spec: Spec, memory, state, visit, loss: Callable, *, steps, rate, moves, size: int):
  """The learner after ``steps`` (may be traced) of plain SGD at ``rate`` on ``size`` rows each that are drawn from a
  memory; none where it is empty. Leaves move of which ``moves {name: bool}``, traced, holds.

  ``loss(key, params, model_state, batch, rows) -> (loss, model_state)``; the batch's x is as its rows' tasks show it,
  ``rows`` are what was stored.
  """

  def step(i, fitted):
    params, model_state = fitted
    own = jax.random.fold_in(key, i)
    rows, weight = memory.sample(fold(own, "rows"), state, size)
    batch = drawn(spec, rows, weight, visit)
    batch = batch._replace(x=spec.view(batch.x, batch.task), visit=visit)
    grads, model_state = jax.grad(lambda p: loss(own, p, model_state, batch, rows), has_aux=True)(params)
    move = lambda name, w, g: jnp.where(moves[name], w - rate * g, w).astype(w.dtype)
    return tree.map_named(move, params, grads), model_state

  count = jnp.where((memory.contents(state)[1] > 0).any(), steps, 0)
  params, model_state = jax.lax.fori_loop(0, count, step, (learner.params, learner.model_state))
  return learner._replace(params=params, model_state=model_state)
