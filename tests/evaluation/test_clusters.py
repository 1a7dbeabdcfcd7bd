"""The evaluator of matched clusters, by hand on answers that are given."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cljax import evaluators, streams
from cljax.core.types import Forget, Learn, UsageError
from cljax.evaluators import Predict

PARTS = ("all", "old", "new", "seen", "unseen")


def answering(stream, seed=0, asked=None):
  """A learner that takes each test row for a cluster of its own mind: mostly its class under another name."""
  rng = np.random.default_rng(seed)
  split, names = stream.dataset.test, rng.permutation(stream.num_classes)
  said = np.where(rng.random(len(split.y)) < 0.7, names[split.y], rng.integers(stream.num_classes, size=len(split.y)))
  place = {x.tobytes(): i for i, x in enumerate(split.x)}

  def logits(x, task):
    if asked is not None:
      asked.append((len(x), task))
    return np.eye(stream.num_classes)[[said[place[np.asarray(r).tobytes()]] for r in x]]

  return said, Predict(logits, None)


def by_hand(labels, said, size):
  best = max(itertools.permutations(range(size)), key=lambda p: (np.array(p)[labels] == said).sum())
  return np.array(best)[labels] == said


def made(make_blobs, **options):
  return streams.build(
    make_blobs(classes=6, rows=12, test_rows=20), "class", **{"tasks": 3, "labelled": 1, "validation": 0.0, **options}
  )


@pytest.mark.parametrize("options", [{}, {"returning": 0.2}, {"order": (0, 2, 1)}, {"labelled": 2}])
def test_clusters_of_a_run_are_matched_over_all_rows(make_blobs, options):
  stream = made(make_blobs, **options)
  asked = []
  said, predict = answering(stream, asked=asked)
  judge = evaluators.clusters(block=7)
  assert set(judge.better) == set(PARTS)
  labelled, order = options.get("labelled", 1), options.get("order", (0, 1, 2))
  for event in range(3):
    done = order[: event + 1]
    rows = np.concatenate([stream.test[t] for t in done])
    y = stream.dataset.test.y[rows]
    right = by_hand(y, said[rows], 6)
    old, seen = np.isin(y // 2, [t for t in done if t < labelled]), np.isin(y // 2, done[:-1])
    found = judge.fn(None, predict, stream, event)
    for name, mine in zip(PARTS, (np.ones(len(y), bool), old, ~old, seen, ~seen), strict=True):
      np.testing.assert_allclose(found[name], right[mine].mean() if mine.any() else np.nan, err_msg=name)
  assert {size for size, _ in asked} == {7}, "one shape, one program"
  assert {task for _, task in asked} == set(order)
  before = judge.fn(None, predict, stream, -1)
  assert np.isnan([before[p] for p in PARTS]).all()


def test_clusters_where_every_class_has_labels(make_blobs):
  stream = made(make_blobs, labelled=0)
  found = evaluators.clusters().fn(None, answering(stream)[1], stream, 2)
  assert np.isnan(found["new"])
  assert found["old"] == found["all"]


def test_clusters_leave_out_deleted_rows(make_blobs):
  """Test rows that are training rows go with the request that names these."""
  source = make_blobs(classes=4, rows=6, test_rows=2)
  same = source._replace(test=source.train)
  stream = streams.build(same, "class", tasks=2, validation=0.0)
  gone = tuple(same.train.id[stream.train[0][:5]].tolist())
  stream = stream._replace(events=(Learn(0), Learn(1), Forget(ids=gone)))
  rows = np.concatenate([stream.test[0][~np.isin(stream.test[0], stream.train[0][:5])], stream.test[1]])
  said, predict = answering(stream)
  found = evaluators.clusters().fn(None, predict, stream, 2)
  np.testing.assert_allclose(found["all"], by_hand(same.test.y[rows], said[rows], 4).mean())


def test_clusters_say_what_they_need(class_stream):
  real = class_stream.dataset._replace(train=class_stream.dataset.train._replace(y=np.zeros((96, 2), np.float32)))
  with pytest.raises(UsageError, match="needs class labels, which the data do not have"):
    evaluators.clusters().fn(None, None, class_stream._replace(dataset=real), 0)
  with pytest.raises(UsageError, match="clusters: block: got 0; allowed: whole numbers >= 1"):
    evaluators.clusters(block=0)
