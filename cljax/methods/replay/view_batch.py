"""View-batches: a row comes several times at once, in as many views, and then rests for as many passes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.memory import slots
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import at_places, drawn, example_row
from cljax.methods.replay.exemplars import stored_rows

OF_ROWS = ("x", "y", "weight", "id", "task", "class_mask", "fresh")


class ViewBatch(NamedTuple):
  """The rows of the current task, and how many presentations of the task there were."""

  rows: Any  # as a memory stores them, [task_rows, ...]; id -1 where there is none
  count: Any  # int32, how many were given
  shown: Any  # int32
  since: Any  # int32, the step at which the task began: by it the orders are drawn


def order_of(key, count, size: int):
  """``[size]`` int32: a random order of the first ``count`` places, these first."""
  bits = jax.random.bits(key, (size,), jnp.uint32)
  return jnp.lexsort((bits, jnp.arange(size, dtype=jnp.int32) >= count)).astype(jnp.int32)


def presentations(order, at, count, views: int):
  """``(row [B], run [B])`` of the presentations ``at [B]`` int32 of a cycle: each row of ``order``, the first ``count``
  of it, ``views`` times one behind the other; ``run`` is the place in the order."""
  run = (at // views) % jnp.maximum(count, 1)
  return order[run], run


def against_first(logits, run, weight, class_mask):
  """``(each [B], later [B])``: ``KL(softmax(z_first) || softmax(z))`` of each row whose ``run`` a row before it has,
  against the first of these, to which no gradient goes; ``later``: which rows are such ones."""
  there = weight > 0
  same = (run[:, None] == run[None]) & there[None] & there[:, None]
  first = jnp.argmax(same, axis=-1)  # the first that is true
  later = there & (first < jnp.arange(run.shape[0]))
  return losses.distillation(logits, logits[first], 1.0, class_mask), later


def view_batch(model, spec: Spec, *, alpha, views: int = 4, after: int = 0) -> Method:
  """View-batches: each row ``views`` V times in a run, in V passes, and ``L + alpha mean KL(first || view)``.

  A task's n rows are put into an order that holds for V passes; what these present are its rows, each V times one
  behind the other, so that a step has about B / V rows in V views each, a row rests for V passes on average, and the
  number of updates stays. The KL is of the softmax of a row's first view in a step, to which no gradient goes, and of
  its others; it counts behind ``after`` passes (the released code: 5), and ``alpha=0`` leaves it out. Views differ by
  the run's augmentation; without one they are copies. ``views=1`` is plain training. Beside another method, write this
  one first: ``compose(view_batch=..., icarl=...)``. Where the passes are no multiple of V, some rows come more often.

  The stream's own order has no part: the task's rows are kept from its beginning (``task_rows`` rows), and a step takes
  as many presentations as it has rows. Deviations: a view's first is of the same row, where the released code takes
  neighbours of one label for views; KL is summed over classes, not a mean; the end of a pass is not dropped, and no
  number of rows a step is fixed. With fewer rows at the boundary than the task has (train.boundary_limit), these alone
  are learned. Spec A10; Kang et al., 2025.
  """
  if views == 1:
    return Method(scrub=lambda learner, request: learner)  # nothing is kept
  size = spec.task_rows

  def start_task(key, learner, task):
    del key
    rows = stored_rows(task.rows.as_read().batch(0, size))
    zero = jnp.zeros((), jnp.int32)
    state = ViewBatch(rows, jnp.asarray(task.rows.count, jnp.int32), zero, jnp.asarray(learner.step, jnp.int32))
    return learner._replace(method_state=state)

  def prepare(key, learner, batch):
    del key
    state, own = learner.method_state, slice(0, spec.batch_size)
    there = batch.weight[own] > 0
    rank = jnp.cumsum(there, dtype=jnp.int32) - there.astype(jnp.int32)
    cycle = state.count * views
    turn = state.shown // jnp.maximum(cycle, 1)
    order = order_of(jax.random.fold_in(jax.random.fold_in(learner.key, state.since), turn), state.count, size)
    at = state.shown - turn * cycle + rank
    row, run = presentations(order, at, state.count, views)
    rows = slots.read(state.rows, jnp.where(there, row, size))
    weight = (there & (rows["id"] >= 0)).astype(jnp.float32)
    new = drawn(spec, rows, weight, batch.visit)
    first = batch.visit.first & (turn == 0) & (at % views == 0)
    new = new._replace(fresh=weight * first.astype(weight.dtype))
    late = state.shown >= after * state.count
    shown = {f: _put(getattr(batch, f), getattr(new, f)) for f in OF_ROWS}
    at = jnp.arange(spec.batch_size, dtype=jnp.int32)
    batch = batch._replace(extra={**batch.extra, "views": (run, new, at, late)}, **shown)
    state = state._replace(shown=state.shown + there.sum(dtype=jnp.int32))
    return learner._replace(method_state=state), batch

  def term(key, params, learner, batch, outputs):
    del key, params, learner
    run, rows, at, late = batch.extra["views"]
    each, later = against_first(at_places(outputs.logits, at), run, rows.weight, rows.class_mask)
    return jnp.where(late, alpha, 0.0) * losses.reduce(each, later.astype(jnp.float32))

  def scrub(learner, request):
    state = learner.method_state
    gone = request.names(state.rows["id"], state.rows["task"])
    clear = lambda a: jnp.where(gone.reshape(-1, *(1,) * (a.ndim - 1)), jnp.zeros_like(a), a)
    rows = {**jax.tree.map(clear, state.rows), "id": jnp.where(gone, -1, state.rows["id"])}
    return learner._replace(method_state=state._replace(rows=rows))

  def init(key, learner):
    del key, learner
    rows = slots.empty(example_row(spec), size)
    zero = jnp.zeros((), jnp.int32)
    return ViewBatch({**rows, "id": rows["id"] - 1}, zero, zero, zero)

  return Method(init=init, start_task=start_task, prepare=prepare, terms={"views": term}, scrub=scrub)


def _put(old, new):
  """The tree ``old [B, ...]`` whose first rows are ``new``; None stays."""
  if old is None:
    return None
  return jax.tree.map(lambda a, b: a.at[: b.shape[0]].set(b.astype(a.dtype)), old, new)


register(
  "view_batch",
  Entry(
    view_batch,
    {"alpha": Option(1.0, 0), "views": Option(4, 1), "after": Option(0, 0)},
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes",)),
    "Kang et al. 2025",
  ),
)
