"""MER: one row at a time between replayed ones, and two steps back towards where the parameters were."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  append,
  drawn,
  example_row,
  make_memory,
  offered,
  places,
  rows_of,
)
from cljax.methods.replay.inner import loss_of, no_gradient, rows_at


def walk(slope, params, at, ends, done, there, rate, beta, gamma):
  """The parameters behind the rows ``at [L]``, one SGD step each, in one scan.

  ``slope(params, place, number)`` is the gradient of the row at a place; ``ends [L]`` bool where a draw of rows ends,
  ``done [L]`` where those of a new row do, ``there [L]`` whether that row is there: else nothing moved.
  """
  toward = lambda share, start, now: jax.tree.map(lambda s, p: (s + share * (p - s)).astype(p.dtype), start, now)
  choose = lambda which, a, b: jax.tree.map(lambda x, y: jnp.where(which, x, y), a, b)

  def step(carry, given):
    params, draw, row = carry
    number, place, ends, done, there = given
    params = jax.tree.map(lambda p, g: (p - rate * g).astype(p.dtype), params, slope(params, place, number))
    params = choose(ends, toward(beta, draw, params), params)
    params = choose(done, choose(there, toward(gamma, row, params), row), params)
    return (params, choose(ends, params, draw), choose(done, params, row)), None

  numbers = jnp.arange(at.shape[0])
  return jax.lax.scan(step, (params,) * 3, (numbers, at, ends, done, there))[0][0]


def mer(
  model, spec: Spec, *, beta, gamma, capacity: int, policy: str = "reservoir", replay_batch: int = 9, draws: int = 1,
  insert: str = "once",
) -> Method:  # fmt: skip
  """MER: for each new row in turn, ``draws`` times: SGD on ``replay_batch`` stored rows and on the new one, one by one,
  then ``theta <- theta_W + beta (theta - theta_W)``; behind all of them ``theta <- theta_A + gamma (theta - theta_A)``.

  ``theta_W`` is where a draw began, ``theta_A`` where the new row did (algorithm 1). A row is stored behind its own
  steps, so that those of one batch are drawn for later ones of it. SGD's rate is that of the run, which has to be an
  optimizer by name; its momentum sees no slope of the loss. A step of B new rows takes ``B draws (replay_batch + 1)``
  gradients, one behind the other, and one forward pass for the loss that is told, which is that of the new rows before
  them. ``beta = gamma = 1`` is SGD on the sequence of rows; 0 of either moves nothing.

  Gradients of single rows are in eval mode: BatchNorm's statistics of one row say nothing; they move by the forward
  pass over all rows. In a hybrid penalties act beside the walk by the run's optimizer; terms of other parts do not.
  Scrub erases stored rows. Errors: an optimizer without a rate. Riemer et al. 2019; spec A9.
  """
  memory, size = make_memory(spec, capacity, policy), min(replay_batch, capacity)
  rows, each = spec.batch_size, draws * size
  # Of each new row: places among [new rows, drawn rows] in the order of its steps.
  block = lambda i, d: [*range(rows + i * each + d * size, rows + i * each + (d + 1) * size), i]
  order = np.asarray([block(i, d) for i in range(rows) for d in range(draws)]).reshape(rows, draws, size + 1)
  ends = np.zeros(order.shape, bool)
  done = ends.copy()
  ends[:, :, -1], done[:, -1, -1] = True, True
  owner = np.repeat(np.arange(rows), draws * (size + 1))

  def prepare(key, learner, batch):
    own, weight = rows_of(spec, batch), offered(spec, batch, insert)

    def one(state, given):
      number, row, weight = given
      key_of = jax.random.fold_in(key, number)
      found = [memory.sample(fold(key_of, f"draw_{d}"), state, size) for d in range(draws)]
      state = memory.add(fold(key_of, "add"), state, jax.tree.map(lambda a: a[None], row), weight[None])
      return state, jax.tree.map(lambda *a: jnp.concatenate(a), *found)

    state, found = jax.lax.scan(one, learner.method_state, (jnp.arange(rows), own, weight))
    found_rows, found_weight = jax.tree.map(lambda a: a.reshape(rows * each, *a.shape[2:]), found)
    more = drawn(spec, found_rows, found_weight, batch.visit)
    batch = batch._replace(extra={**batch.extra, "from": places(batch, rows * each)})
    return learner._replace(method_state=state), append(batch, more, scale=0.0)

  def observe(key, learner, batch):
    return {"walked": (key, learner.model_state, batch._replace(visit=None, scale=None, group=None))}

  def update(updates, state, params=None, *, rate, walked, **extra):
    del extra
    key, model_state, batch = walked
    at = jnp.asarray(order.reshape(-1), jnp.int32)
    at = jnp.where(at < rows, at, at - rows + batch.extra["from"][0])

    def slope(params, place, number):
      row = rows_at(batch, place[None])
      return jax.grad(lambda p: loss_of(model, spec, model_state, jax.random.fold_in(key, number), p, row, False))(
        params
      )

    last, whole = (jnp.asarray(f.reshape(-1)) for f in (ends, done))
    after = walk(slope, params, at, last, whole, batch.weight[owner] > 0, rate, beta, gamma)
    return jax.tree.map(lambda u, a, p: u + (a - p).astype(u.dtype), updates, after, params), state

  def scrub(learner, request):
    gone = lambda rows: request.names(rows["id"], rows["task"])
    return learner._replace(method_state=memory.remove(learner.method_state, gone))

  return Method(
    init=lambda key, learner: memory.init(example_row(spec)),
    prepare=prepare,
    gradient=no_gradient,
    observe=observe,
    pull=optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update),
    scrub=scrub,
  )


register(
  "mer",
  Entry(
    mer,
    {
      "beta": Option(0.1, 0),
      "gamma": Option(1.0, 0),
      **BUFFER,
      "replay_batch": Option(9, 1),
      "draws": Option(1, 1),
    },
    ACCESS._replace(needs=()),
    "Riemer et al. 2019",
  ),
)
