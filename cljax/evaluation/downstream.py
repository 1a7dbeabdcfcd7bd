"""What unlearned features are still good for: k-NN on classes that no task learned, and similarity to retrained ones.

The protocol of "Are We Truly Forgetting?" (arXiv 2503.06991; spec E11): methods that match the retrained model's logits
may keep the original's features, which a downstream set shows, most where the forgotten classes are the closest to it.
"""

from __future__ import annotations

import numpy as np

from cljax import streams
from cljax.core.types import UsageError
from cljax.evaluation.evidence import Answers, Sides, with_side
from cljax.metrics import unlearning as metrics

REST = "rest"
SIDE = "downstream"
NEIGHBOURS, FIT, SEED = 5, 0.8, 2  # of the released code
HEADINGS = {
  "downstream_knn": "k-NN downstream %",
  "downstream_cka": "CKA to retrained, downstream",
  "retrained_cka": "CKA to retrained, forget",
}
NOTE = (
  "Downstream: {count} rows of {classes} classes that no task learned; k-NN fits on four fifths of them (5 neighbours, "
  "cosine). CKA to retrained: of the features of the same rows, member by member; the row retrained has its ceiling."
)


def with_downstream(rows: Sides, stream, dataset=None, most: int = 2000) -> Sides:
  """``rows`` with the side 'downstream': training rows of ``dataset``, at most ``most``, evenly spread.

  Without ``dataset`` those of the stream's own data set whose classes no task shows. Its targets stay the data set's
  classes. Inputs are shown as the first learned task shows them. Raises UsageError where fewer than two classes, or
  fewer than ten rows are left; and for a data set whose inputs are of another shape, dtype or scale.
  """
  own = stream.dataset
  data = own if dataset is None else dataset
  told = lambda d: (d.train.x.shape[1:], str(d.train.x.dtype), d.scale)
  if not data.has_classes:
    raise UsageError(f"downstream: {data.name!r} has no classes")
  if told(data) != told(own):
    raise UsageError(f"downstream: inputs of {data.name!r} are {told(data)}; the stream's are {told(own)}")
  y = np.asarray(data.train.y)
  shown = np.isin(np.arange(len(y)), np.concatenate(stream.train))  # those without labels are of nobody's class too
  chosen = np.flatnonzero((stream.labels < 0).all(0)[y] & ~shown) if dataset is None else np.arange(len(y))
  if len(np.unique(y[chosen])) < 2 or len(chosen) < 10:
    raise UsageError(
      f"downstream: {len(np.unique(y[chosen]))} classes of {data.name!r} are shown by no task; expected 2 or more "
      "(leave some out by stream.classes_per_task, or name another data set)"
    )
  chosen = chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(int)]
  first = streams.learned_tasks(stream.events)[0]
  at = np.stack([chosen, np.full(len(chosen), first)], 1)
  return with_side(rows, SIDE, stream, data.train, at, classes=False)


def split(count: int) -> tuple[np.ndarray, np.ndarray]:
  """Places to fit on and to answer for, of ``count`` rows: four fifths and the rest, always the same."""
  order = np.random.default_rng(SEED).permutation(count)
  cut = int(FIT * count)
  return order[:cut], order[cut:]


def measure(ours: Answers, reference: Answers, rows: Sides) -> dict[str, np.ndarray]:
  """``{metric of HEADINGS: [S]}`` of features, member i beside the retrained member i; NaN where k-NN has too few
  neighbours because features are 0."""
  y = np.asarray(rows.y[SIDE])
  fit, answer = split(len(y))
  found: dict[str, list[float]] = {name: [] for name in HEADINGS}
  flat = lambda given, side, i: np.asarray(given.features[side][i], np.float64).reshape(len(rows.y[side]), -1)
  for i in range(len(ours.features[SIDE])):
    mine = flat(ours, SIDE, i)
    there = (np.abs(mine[fit]).max(1) > 0).sum() >= NEIGHBOURS
    probe = metrics.knn_probe(mine[fit], y[fit], mine[answer], y[answer], NEIGHBOURS) if there else float("nan")
    found["downstream_knn"].append(probe)
    found["downstream_cka"].append(metrics.feature_cka(mine, flat(reference, SIDE, i)))
    found["retrained_cka"].append(metrics.feature_cka(flat(ours, "forget", i), flat(reference, "forget", i)))
  return {name: np.asarray(v) for name, v in found.items()}


def note(rows: Sides) -> str:
  """What the columns are, of these rows."""
  return NOTE.format(count=len(rows.y[SIDE]), classes=len(np.unique(rows.y[SIDE])))
