"""A network on a fixed choice of test rows: what it says, how it scores, what its layers hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax import streams
from cljax.core.judging import judged_classes
from cljax.core.types import Batch
from cljax.engine import restore
from cljax.objectives import objective
from cljax.streams.fates import deleted_tests


class Look(NamedTuple):
  """What is needed to look at one member at one moment: rows of each task, and compiled functions of a learner."""

  stream: Any
  rows: list[np.ndarray]  # of each task, into the test split
  probe: tuple[np.ndarray, np.ndarray]  # (row, task) of the rows on which representations are compared
  own: Any  # the objective
  predict: Any  # (values, learner, x, task) -> labels; of class numbers alone
  score: Any  # (values, learner, batch, task) -> numerator and denominator of the main score
  layers: Any  # (values, learner, batch) -> activations by layer
  size: int


def objective_of(history: restore.History, members: Sequence[int]) -> Any:
  """The objective of a run's members."""
  return history.parts(jax.tree.map(lambda a: a[members[0]], history.values)).objective


def look_at(history: restore.History, own, rows: int, order: Sequence[int]) -> Look:
  """At most ``rows`` test rows of each task, drawn once and less those that were deleted, and of the first tasks of
  ``order`` those on which representations are compared; ``own`` is the run's objective."""
  stream, tables = history.stream, jax.tree.map(jnp.asarray, history.stream.view.tables)
  chosen = np.random.default_rng(0)
  gone = deleted_tests(stream, len(stream.events))  # at whatever moment: the run keeps no number of theirs
  left = (np.asarray(t)[~out] for t, out in zip(stream.test, gone, strict=True))
  mine = [np.sort(chosen.permutation(t)[:rows]) for t in left]
  size = max(1, *(len(t) for t in mine))
  met = list(dict.fromkeys(order))[:16]
  share = max(1, min(rows, 256) // max(1, len(met)))
  probe_rows, probe_tasks = [], []
  for t in met:
    take = mine[t][np.linspace(0, len(mine[t]) - 1, min(share, len(mine[t]))).astype(int)]
    probe_rows.append(take)
    probe_tasks.append(np.full(len(take), t, np.int32))

  @jax.jit
  def answer(values, learner, x, task, classes):
    shown = stream.view.apply(tables, x, jnp.full(x.shape[0], task))
    return jnp.argmax(jnp.where(classes, history.parts(values).predict(learner, shown, task), -jnp.inf), -1)

  def predict(values, learner, x, task, event):
    """Judged as the run judged it after ``event`` events."""
    judged = judged_classes(stream, streams.learned_tasks(stream.events[:event]), history.trains_on)
    return answer(values, learner, x, task, judged[task])

  def batch_of(batch):
    y = jnp.asarray(stream.labels)[batch.task, batch.y] if own.classes else batch.y
    return batch._replace(x=stream.view.apply(tables, batch.x, batch.task), y=y)

  @jax.jit
  def score(values, learner, batch, task):
    parts = history.parts(values)
    sums = lambda predict, batch: objective.sums(parts.objective.scores[own.main], jax.random.key(0), predict, batch)
    return sums(lambda batch: parts.predict(learner, batch.x, task), batch_of(batch))

  @jax.jit
  def layers(values, learner, batch):
    parts = history.parts(values)
    model, learner = parts.method.model or history.model, parts.evaluated(learner)

    def apply(key, params, batch):
      task = batch.task if model.by_task else batch.task[0]
      given = {"train": False, "key": key, "task": task, "mask": None}
      return model.apply(params, learner.model_state, batch.x, **given)

    batch, key = batch_of(batch), jax.random.key(0)
    if own.classes:
      out, _ = apply(key, learner.params, batch)
    else:  # the objective knows what the model is shown
      out = parts.objective.loss(key, apply, learner.params, batch)[2]
    named = {f"hidden {i}": h for i, h in enumerate(out.hidden)} or {"features": out.features}
    # The mean over places, as a layer of 28 x 28 x 64 values would need a Gram matrix of 50,000 columns.
    flat = lambda h: h.reshape(h.shape[0], -1) if h.ndim < 3 else h.mean(tuple(range(1, h.ndim - 1)))
    return {name: flat(h) for name, h in {**named, "logits": out.logits}.items() if hasattr(h, "ndim")}

  probe = (np.concatenate(probe_rows), np.concatenate(probe_tasks)) if met else (np.zeros(0, int), np.zeros(0, int))
  return Look(stream, mine, probe, own, predict, score, layers, size)


def predicted(look: Look, values, learner, task: int, event: int) -> tuple[np.ndarray, np.ndarray]:
  """``(labels, predictions)`` on the chosen rows of one task, of a learner after ``event`` events."""
  rows, data = look.rows[task], look.stream.dataset.test
  at = np.resize(rows, look.size)  # one shape for all tasks: one program; zeros where no row is left
  found = np.asarray(look.predict(values, learner, np.stack([data.x[r] for r in at]), task, event))[: len(rows)]
  return look.stream.labels[task, data.y[rows]], found


def stored_batch(look: Look, rows, task, weight=None) -> Batch:
  """Stored test rows; ``task [B]``."""
  data = look.stream.dataset.test
  take = lambda tree: jax.tree.map(lambda a: np.stack([a[r] for r in rows]), tree)
  ids, here = np.asarray(rows, np.int32), np.ones(len(rows), np.float32) if weight is None else weight
  return Batch(take(data.x), take(data.y), here, ids, np.asarray(task, np.int32))


def score(look: Look, values, learner, task: int, event: int) -> float:
  """The main score on the chosen rows of one task, of a learner after ``event`` events."""
  if not look.own.classes:
    count = len(look.rows[task])
    at = np.resize(look.rows[task], look.size)
    weight = (np.arange(look.size) < count).astype(np.float32)
    batch = stored_batch(look, at, np.full(look.size, task), weight)
    above, below = np.asarray(look.score(values, learner, batch, np.int32(task)), np.float64)
    if not below:  # no row is left
      return np.nan
    return float(look.own.scores[look.own.main].finish(above / below))
  labels, found = predicted(look, values, learner, task, event)
  return float(np.mean(labels == found)) if len(labels) else np.nan
