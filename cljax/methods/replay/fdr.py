"""FDR: the function's distance from what it was at the ends of tasks, on rows of each, is kept small."""

from __future__ import annotations

import jax.numpy as jnp

from cljax import losses
from cljax import memory as memories
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay.buffers import append, at_places, drawn, example_row, places
from cljax.models import heads


def distance(logits, target, class_mask=None):
  """``|softmax(logits) - softmax(target)|`` of each row over the classes of the mask, not squared
  (:func:`cljax.models.heads.distance`)."""
  mask = jnp.broadcast_to(True if class_mask is None else class_mask, logits.shape)
  p, q = (jnp.where(mask, jnp.exp(losses.masked_log_softmax(z, mask)), 0.0) for z in (logits, target))
  return heads.distance(p, q)


def fdr(model, spec: Spec, *, alpha, capacity: int, replay_batch: int = 0) -> Method:
  """Function distance regularisation: ``mean CE(current) + alpha mean_B |softmax(f(x)) - softmax(z)|``.

  z are the outputs of the network at the end of the row's own task, in eval mode and without augmentation, never
  refreshed; labels of stored rows have no part. When a task ends rows of it are drawn uniformly, and each task met has
  ``M // t`` of them, t the tasks met with it: Mammoth counts one fewer the first time it cuts. The first task is plain.

  Deviation: both terms make one step, as in the paper's objective; Mammoth takes a second one of plain SGD. Raises
  UsageError for a capacity below the number of tasks. Spec A12; Benjamin et al., 2019.
  """
  if capacity < spec.num_tasks:
    raise UsageError(f"method.capacity: got {capacity}; expected at least one row for each of {spec.num_tasks} tasks")
  memory = memories.exemplars(capacity, spec.num_tasks)
  size = min(replay_batch or spec.batch_size, capacity)

  def prepare(key, learner, batch):
    rows, weight = memory.sample(fold(key, "sample"), learner.method_state, size)
    some = drawn(spec, rows, weight, batch.visit)
    batch = batch._replace(extra={**batch.extra, "fdr": (rows["logits"], some, places(batch, size))})
    return learner, append(batch, some, scale=0.0)

  def term(key, params, learner, batch, outputs):
    del key, params, learner
    target, rows, at = batch.extra["fdr"]
    gap = distance(at_places(outputs.logits, at), target, rows.class_mask)
    return alpha * losses.reduce(gap, rows.weight)

  def end_task(key, learner, task):
    def said(start, block):
      batch = task.rows.batch(start, block)
      told = {"task": model.task_for(batch.task), "mask": None}
      out, _ = model.apply(learner.params, learner.model_state, batch.x, train=False, key=learner.key, **told)
      return out.logits.astype(jnp.float32)

    logits = sets.in_blocks(said, task.rows.capacity)
    rows = task.rows.as_read().batch(0, task.rows.capacity)
    there = rows.weight > 0
    group = jnp.where(there, rows.task, spec.num_tasks)
    stored = {**sets.stored_rows(rows), "logits": jnp.where(there[:, None], logits, 0.0)}
    filled = memory.add(learner.method_state, stored, group, sets.drawn_ranks(fold(key, "rows"), group), there)
    return learner._replace(method_state=filled)

  def scrub(learner, request):
    kept = memory.remove(learner.method_state, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=kept)

  row = example_row(spec, logits=jnp.zeros(spec.num_classes, jnp.float32))
  return Method(
    init=lambda key, learner: memory.init(row),
    prepare=prepare,
    terms={"distance": term},
    end_task=end_task,
    scrub=scrub,
  )


register(
  "fdr",
  Entry(
    fdr,
    {"alpha": Option(1.0, 0), "capacity": Option(200, 1), "replay_batch": Option(0, 0)},
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Benjamin et al. 2019",
  ),
)
