"""The compiled evaluation: what each block of rows adds to the scores, and of a run that keeps a raw log what each row
adds."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import Batch, UsageError
from cljax.engine.step import LearnerFns, shown_rows, zero_absent_rows
from cljax.objectives import objective


class Kept(NamedTuple):
  """What an evaluation keeps of each row: of each score one bit (True) or numerator and denominator (False), and the
  class that it predicts, where that is asked for, as ``predictions``, the name of a type."""

  scores: Mapping[str, bool]
  predictions: str = ""


def made(parts_of: Callable[[Any], LearnerFns], view_apply, spec, place, kept: Kept | None) -> Callable:
  """``evaluate(hyper, learner, member, shared) -> (sums, rows)`` of one member, as programs want it.

  ``sums {score: [blocks, 2, 2]}``: what each block adds to its slot, over the judged classes and over the task's own;
  numerators and denominators. ``rows``: over the judged classes, of each place of a block, 0 where there is no row: of
  a score of bits ``[blocks, ceil(block / 8)]``, of others ``[blocks, 2, block]``, and ``predicted [blocks, block]``;
  nothing where nothing is ``kept``.
  """

  def evaluate(hyper, learner, member, shared):
    del member
    parts = parts_of(hyper)
    data, judged, (index, weight, block_task, count) = shared
    own = jnp.asarray(spec.classes_of_task)
    scores = parts.objective.scores

    def rows(a, at):
      return a[at] if at.ndim else jax.lax.dynamic_slice_in_dim(a, at, weight.shape[1])

    def body(i, carry):
      task = block_task[i]
      row_task = jnp.full(weight.shape[1:], task)
      x, y, ids = jax.tree.map(lambda a: rows(a, index[i]), (data.x, data.y, data.id))
      x, y = shown_rows(parts.objective, data, x, y, row_task, view_apply)
      # A block is filled up with rows of other tasks, which no score may meet.
      batch = zero_absent_rows(Batch(x, y, weight[i].astype(jnp.float32), ids, row_task))
      batch = batch if place is None else batch._replace(x=place.rows(batch.x))
      x = batch.x
      # Traced where it is asked for alone: not every objective looks at the rows as they are.
      shown = functools.cache(lambda: parts.predict(learner, x, task))
      predict = lambda batch: shown() if batch.x is x else parts.predict(learner, batch.x, task)
      key = jax.random.key(0)  # noise follows the rows: two evaluations see the same
      open_ = None if not parts.objective.classes else own[task] if spec.task_id_given else judged[task]

      def both(name):
        terms = lambda classes: objective.terms(scores[name], key, predict, batch._replace(class_mask=classes))
        summed = lambda terms: jnp.stack([jnp.sum(part) for part in terms])
        whole = terms(open_)
        alike = not parts.objective.classes or spec.task_id_given
        total = summed(whole)
        return jnp.stack([total, total if alike else summed(terms(own[task]))]), whole

      sums, each = carry
      found = {name: both(name) for name in scores}
      sums = {name: sums[name].at[i].set(total) for name, (total, _) in found.items()}
      said = {}
      for name, bits in (kept.scores if kept else {}).items():
        terms = found[name][1]
        said[name] = jnp.packbits(terms[0] > 0) if bits else jnp.stack(terms)
      if kept and kept.predictions:
        assert open_ is not None
        best = jnp.argmax(jnp.where(open_, shown(), -jnp.inf), -1)
        said[PREDICTED] = jnp.where(batch.weight > 0, best, 0).astype(kept.predictions)
      return sums, {name: each[name].at[i].set(value) for name, value in said.items()}

    zeros = jnp.zeros((block_task.shape[0], 2, 2), jnp.float32)
    return jax.lax.fori_loop(0, count, body, (dict.fromkeys(scores, zeros), _room(kept, *weight.shape)))

  return evaluate


PREDICTED = "predicted"


def _room(kept: Kept | None, blocks: int, block: int) -> dict[str, Any]:
  """Where the rows of every block go."""
  if kept is None:
    return {}
  out: dict[str, Any] = {
    name: jnp.zeros((blocks, -(-block // 8)), jnp.uint8) if bits else jnp.zeros((blocks, 2, block), jnp.float32)
    for name, bits in kept.scores.items()
  }
  return out | ({PREDICTED: jnp.zeros((blocks, block), kept.predictions)} if kept.predictions else {})


def prediction_type(classes: int) -> str:
  """The smallest type that holds a class number."""
  return next(np.dtype(t).name for t in (np.uint8, np.uint16, np.int32) if classes - 1 <= np.iinfo(t).max)


LOGS = ("none", "scores", "predictions")


def log_size(stream, population, kept: Kept) -> float:
  """Bytes of the log of one configuration: of its seeds, after each event and before the first."""
  seeds = max(Counter(tuple(sorted(m.hyper.items())) for m in population).values())
  entry = sum(1 / 8 if bits else 8 for bits in kept.scores.values())
  entry += np.dtype(kept.predictions).itemsize if kept.predictions else 0
  return entry * seeds * sum(map(len, stream.test)) * (len(stream.events) + 1)


def check_log(options, learned: objective.Objective) -> None:
  """Raises UsageError where the raw log that is asked for can not be."""
  if options.eval_log not in LOGS:
    raise UsageError(f"eval.log: unknown {options.eval_log!r}; allowed: {', '.join(LOGS)}")
  if options.eval_log != "predictions":
    return
  if not learned.classes:
    raise UsageError(f"eval.log: got 'predictions' under {learned.name!r}, which predicts no class; use 'scores'")
  if not options.checkpoint_keep_ids:
    raise UsageError(
      "eval.log: got 'predictions' with checkpoint.keep_ids=False, which keeps no log; one that lacks rows names them"
    )


def log_form(stream, population, learned: objective.Objective, options, num_classes: int) -> tuple[Kept | None, str]:
  """``(what evaluations keep, why nothing)``; the reason is '' where nothing was asked for."""
  if options.eval_log == "none" or not options.checkpoint_keep_ids:  # a log that lacks rows names them
    return None, ""
  if not options.eval_ahead:
    return None, "eval.log: off; with eval.ahead=False not every test row is evaluated each time"
  names = [learned.main, *(n for n in learned.scores if n != learned.main)]
  predictions = prediction_type(num_classes) if options.eval_log == "predictions" else ""
  kept = Kept({n: learned.scores[n].bits for n in names}, predictions)
  wanted = log_size(stream, population, kept) / 1e6
  if wanted > options.eval_log_limit:
    return None, (
      f"eval.log: off; it would take {wanted:,.0f} MB a run, and eval.log_limit is {options.eval_log_limit:,} MB"
    )
  return kept, ""
