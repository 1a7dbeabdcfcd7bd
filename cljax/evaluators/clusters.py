"""How well a model groups rows by class, whatever it calls the groups."""

from __future__ import annotations

import jax
import numpy as np

from cljax import metrics
from cljax.core.checks import check_count
from cljax.core.types import Learn, UsageError
from cljax.evaluators.registry import Evaluator, Predict, register
from cljax.streams.fates import deleted_tests
from cljax.streams.labels import withheld
from cljax.streams.requests import learned_tasks

BLOCK = 256


def clusters(block: int = BLOCK) -> Evaluator:
  """Accuracy of matched clusters: ``all``, ``old``, ``new``, ``seen`` and ``unseen``, each a number.

  Over the test rows of the tasks learned so far, what is predicted is matched with the labels once, one to one, so that
  most rows are right (:func:`cljax.metrics.matched_clusters`). ``all`` is the share of these; ``old`` of the rows whose
  class some learned task has labels for, ``new`` of the others; ``seen`` of the rows whose class a task has that was
  learned before the one learned last, ``unseen`` of the others (the released code's 'hard' and 'soft'). NaN where there
  is no such row. Predictions are ``block`` rows at a time. Raises UsageError for a wrong argument, and for data without
  classes. Generalised category discovery: Vaze et al. 2022; its continual form: Ma et al. 2024.
  """
  check_count("clusters: block", block)

  def clusters(learner, predict: Predict, stream, event: int) -> dict[str, float]:
    del learner
    if not stream.dataset.has_classes:
      raise UsageError("needs class labels, which the data do not have")
    done, test, hidden = learned_tasks(stream.events[: event + 1]), stream.dataset.test, withheld(stream)
    left = [np.asarray(r)[~gone] for r, gone in zip(stream.test, deleted_tests(stream, event + 1), strict=True)]
    labels, found = [np.zeros(0, int)], [np.zeros(0, int)]
    for task in done:
      for at in range(0, len(left[task]), block):
        part = left[task][at : at + block]
        padded = np.concatenate([part, np.repeat(part[:1], block - len(part))])
        logits = predict(jax.tree.map(lambda a, padded=padded: np.stack([a[r] for r in padded]), test.x), task)
        found.append(np.asarray(logits).argmax(-1)[: len(part)])
        labels.append(stream.labels[task][test.y[part]])
    y = np.concatenate(labels)
    right = metrics.matched_clusters(y, np.concatenate(found))
    last = next((e.task for e in reversed(stream.events[: event + 1]) if isinstance(e, Learn)), None)
    of = lambda tasks: stream.classes_of_task[[t for t in tasks]].any(0)[y]
    named, before = of(t for t in done if t not in hidden), of(t for t in done if t != last)
    parts = {"all": np.ones(len(y), bool), "old": named, "new": ~named, "seen": before, "unseen": ~before}
    return {name: float(right[mine].mean()) if mine.any() else np.nan for name, mine in parts.items()}

  return Evaluator("clusters", clusters, dict.fromkeys(("all", "old", "new", "seen", "unseen"), "higher"))


register(clusters())
