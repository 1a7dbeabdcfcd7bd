"""Maximally interfered retrieval: what is replayed are the stored rows whose loss the coming step would raise most."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import stored
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  append,
  drawn,
  example_row,
  insert_pending,
  make_memory,
  offered,
  rows_of,
  scrub_memory,
  start,
)
from cljax.objectives.objective import of_rows

AMONG, AGAINST = ("earlier_tasks", "all"), ("now", "best")


def interference(model, spec: Spec, learner, own, candidates, rate, key):
  """``(before [C], after [C])``: each candidate's loss at the parameters, and at ``theta - rate grad L(own)``."""
  params, state = learner.params, learner.model_state
  grads = jax.grad(lambda p: stored.train_loss(model, spec, p, state, own, fold(key, "virtual")))(params)
  moved = jax.tree.map(lambda p, g: (p - rate * g).astype(p.dtype), params, grads)
  of = lambda p: stored.row_losses(model, spec, p, state, candidates, key)
  return of(params), of(moved)


def mir(
  model, spec: Spec, *, beta, virtual_rate, capacity: int, policy: str = "reservoir", replay_batch: int = 0,
  candidates: int = 50, among: str = "earlier_tasks", against: str = "now", insert: str = "once",
) -> Method:  # fmt: skip
  """MIR: ``mean CE(current) + beta mean CE(the replay_batch of C drawn rows with the largest s_j)``.

  ``s_j = l_j(theta - virtual_rate g) - l_j(theta)``, g the gradient of the current rows' loss; both means are at theta,
  and their gradients are one step. ``candidates`` C rows are drawn uniformly from ``among`` the stored ones of earlier
  tasks, as released, or all. ``against`` 'best': ``l_j(theta - rate g) - min l_j`` over the times at which the row was
  trained on when it came, or was a candidate; a number beside each row. With C = ``replay_batch`` this is uniform
  replay whose means are added. ``virtual_rate`` is that of the run's SGD; the paper's step is plain.

  A step costs a gradient of the current rows and two passes over C rows more. The virtual step leaves parameters,
  moments and BatchNorm's statistics as they are; it sees rows without the run's augmentation, and scores are of
  networks in eval mode, so that a row's does not depend on the others. Raises UsageError for a ``replay_batch`` above
  ``candidates``. Spec A4; Aljundi et al., 2019.
  """
  memory, best = make_memory(spec, capacity, policy), against == "best"
  if replay_batch > candidates:
    raise UsageError(
      f"method.replay_batch: got {replay_batch}, above method.candidates, which is {candidates}; expected at most that"
    )
  count = min(candidates, capacity)
  size = min(replay_batch or spec.batch_size, count)

  def prepare(key, learner, batch):
    state = insert_pending(key, memory, learner.method_state)
    earlier = lambda rows: rows["task"] != batch.visit.task
    at, rows, weight = stored.draw_among(
      fold(key, "sample"), memory, state.memory, count, earlier if among == "earlier_tasks" else None
    )
    own = stored.own_rows(spec, batch)
    some = drawn(spec, rows, weight, batch.visit)
    before, after = interference(model, spec, learner, own, some, virtual_rate, fold(key, "scores"))
    if best:
      before = jnp.minimum(before, rows["best"])
      state = state._replace(memory=stored.with_numbers(state.memory, at, best=before))
    rows, weight = stored.highest(rows, weight, after - before, size)
    return learner._replace(method_state=state), append(batch, drawn(spec, rows, weight, batch.visit), scale=beta)

  def after_step(key, learner, info):
    del key
    more = {}
    if best:
      own = stored.own_rows(spec, info.batch)
      said = jax.tree.map(lambda a: a[: spec.batch_size], info.outputs.logits)
      each = of_rows(*spec.objective.each(said, own))
      more["best"] = jnp.where(own.weight > 0, each, 0.0).astype(jnp.float32)
    state = learner.method_state._replace(
      pending=rows_of(spec, info.batch, **more), weight=offered(spec, info.batch, insert)
    )
    return learner._replace(method_state=state)

  row = example_row(spec, **({"best": jnp.zeros((), jnp.float32)} if best else {}))
  return Method(
    init=lambda key, learner: start(memory, spec, row),
    prepare=prepare,
    after_step=after_step,
    scrub=scrub_memory(memory),
  )


register(
  "mir",
  Entry(
    mir,
    {
      "beta": Option(1.0, 0),
      "virtual_rate": Option(0.05, 0),
      "candidates": Option(50, 1),
      "among": Option(AMONG[0], choices=AMONG),
      "against": Option(AGAINST[0], choices=AGAINST),
      **BUFFER,
    },
    ACCESS._replace(task_boundaries=True, needs=("each", "plain_inputs")),
    "Aljundi et al. 2019",
  ),
)
