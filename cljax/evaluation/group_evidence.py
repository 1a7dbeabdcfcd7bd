"""What a request that falls on groups did to them: a population of models beside its retrained reference."""

from __future__ import annotations

import numpy as np

from cljax import streams
from cljax.core.types import Forget
from cljax.evaluation.evidence import SIDES, Answers, Sides
from cljax.metrics import unlearning as metrics

HEADINGS = {
  "group_accuracy": "GA %",
  "equalized_odds": "EO",
  "forest_attack": "MIA forest",
  "group_gap": "avg gap of six %",
}
NOTE = (
  "GA: accuracy on test rows of the forget group. EO: how far the answers' odds differ between groups, over test rows; "
  "0 is equal. MIA forest: share of the rows to forget that a random forest on losses calls members. Gap of six: the "
  "mean distance of RA, UA, TA, MIA forest, EO and GA to the retrained models."
)


def asked(request: Forget, stream) -> bool:
  """Whether a request names groups of data that have several and have classes."""
  return bool(request.groups) and len(stream.dataset.group_names) > 1 and stream.dataset.has_classes


def in_group(request: Forget, stream, place: np.ndarray) -> np.ndarray:
  """``[N] bool``: which of the test rows ``place [N]`` are of the forget group: of the groups that are named, and of
  the classes where ``match='all'`` names some too."""
  test = stream.dataset.test
  mine = np.isin(np.asarray(test.group)[place], request.groups)
  if request.match == "all" and request.classes:
    classes = streams.class_places(stream.dataset.class_names, request.classes, "forget request")
    mine &= np.isin(np.asarray(test.y)[place], classes)
  return mine


def measure(ours: Answers, reference: Answers, rows: Sides, request: Forget, stream) -> dict[str, np.ndarray]:
  """``{metric of HEADINGS: [S]}``; the gap is to the mean of the reference's members. NaN where no test row is of the
  forget group."""
  found = [six(ours, i, rows, request, stream) for i in range(len(ours.logits["forget"]))]
  base = [six(reference, i, rows, request, stream) for i in range(len(reference.logits["forget"]))]
  mean = {name: np.mean([b[name] for b in base]) for name in base[0]}
  out = {name: np.asarray([f[name] for f in found]) for name in found[0] if name in HEADINGS}
  return out | {"group_gap": np.asarray([metrics.average_gap(f, mean) for f in found])}


def six(given: Answers, i: int, rows: Sides, request: Forget, stream) -> dict[str, float]:
  """The six numbers of one member."""
  y = rows.y
  tests = [s for s in ("test", "forgotten_test") if s in y]
  join = lambda of: np.concatenate([of[s] for s in tests])
  z, labels, place = join({s: given.logits[s][i] for s in tests}), join(y), join(rows.id)
  own = {s: given.logits[s][i] for s in SIDES}
  accuracies = metrics.accuracies(*((own[s], y[s]) for s in SIDES))
  group = np.asarray(stream.dataset.test.group)[place]
  return {
    "retain_accuracy": accuracies.retain,
    "unlearning_accuracy": metrics.unlearning_accuracy(accuracies.forget),
    "test_accuracy": accuracies.test,
    "forest_attack": metrics.forest_attack(*(a for s in ("retain", "test", "forget") for a in (own[s], y[s]))),
    "equalized_odds": metrics.equalized_odds(z, labels, group),
    "group_accuracy": metrics.group_accuracies(z, labels, in_group(request, stream, place).astype(int), 2)[..., 1],
  }
