"""What a network has left to learn with, at inputs that it has not learned yet."""

from __future__ import annotations

import jax
import numpy as np

from cljax import metrics
from cljax.core.checks import check_count
from cljax.core.types import Learn, UsageError
from cljax.evaluators.registry import Evaluator, Predict, register
from cljax.streams.requests import deleted_pairs

ROWS = 512


def plasticity(rows: int = ROWS) -> Evaluator:
  """Of each hidden layer, at up to ``rows`` training inputs of the task that comes next (after the last: of the last):
  ``dead_1``, ``dormant_1``, ``effective_rank_1``, ``rank_1`` (approximate), ..., and ``weight_magnitude`` of all.

  :func:`cljax.metrics.dead_units` and its like, in evaluation; layers as the model's ``Outputs.hidden`` has them, the
  first rows of a task in the order of its training rows, less those that were deleted by then; NaN of layers where no
  row is left. Raises UsageError for a wrong argument, and when it is called for a model that gives no hidden values.
  """
  check_count("plasticity: rows", rows)

  def plasticity(learner, predict: Predict, stream, event: int) -> dict[str, float]:
    learned = [i for i, e in enumerate(stream.events) if isinstance(e, Learn)]
    task = stream.events[next((i for i in learned if i > event), learned[-1])].task
    there = np.asarray(stream.train[task])[~deleted_pairs(stream, event + 1)[task]][:rows]
    shown = lambda a: np.stack([a[r] for r in there]) if len(there) else np.zeros_like(a[:1])
    hidden = predict.outputs(jax.tree.map(shown, stream.dataset.train.x), task).hidden
    if not hidden:
      raise UsageError("needs a model that gives its hidden values (Outputs.hidden is empty)")
    found = {"weight_magnitude": metrics.weight_magnitude(learner.params)}
    for i, h in enumerate(map(np.asarray, hidden), 1):
      h = h.astype(np.float64)
      found |= {f"dead_{i}": metrics.dead_units(h), f"dormant_{i}": metrics.dormant_units(h)}
      found |= {f"effective_rank_{i}": metrics.effective_rank(h), f"rank_{i}": metrics.approximate_rank(h)}
    return found if len(there) else {k: v if k == "weight_magnitude" else np.nan for k, v in found.items()}

  return Evaluator("plasticity", plasticity)


register(plasticity())
