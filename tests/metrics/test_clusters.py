"""Accuracy of matched clusters, against all assignments."""

import itertools

import numpy as np
import pytest

from cljax import metrics
from cljax.core.types import UsageError


def best(labels, predicted, size):
  """The most rows that any one-to-one naming of the clusters makes right."""
  return max((np.array(p)[labels] == predicted).sum() for p in itertools.permutations(range(size)))


def test_matched_clusters_are_the_best_of_all_assignments():
  rng = np.random.default_rng(0)
  for _ in range(30):
    classes, clusters = rng.integers(2, 6, 2)
    labels, predicted = rng.integers(classes, size=40), rng.integers(clusters, size=40)
    right = metrics.matched_clusters(labels, predicted)
    assert right.dtype == bool
    assert right.sum() == best(labels, predicted, max(classes, clusters))
    for c in np.unique(labels):  # one cluster a class, and no cluster of two classes
      assert len(np.unique(predicted[right & (labels == c)])) <= 1
    for k in np.unique(predicted):
      assert len(np.unique(labels[right & (predicted == k)])) <= 1


def test_matched_clusters_do_not_know_names():
  rng = np.random.default_rng(1)
  labels, predicted = rng.integers(5, size=60), rng.integers(4, size=60)
  right = metrics.matched_clusters(labels, predicted)
  names = np.random.default_rng(2).permutation(9)
  np.testing.assert_array_equal(metrics.matched_clusters(labels, names[predicted]), right)
  assert metrics.matched_clusters(labels, (labels + 3) % 5).all()
  merged = metrics.matched_clusters([0, 0, 0, 1, 1], [7, 7, 7, 7, 7])
  np.testing.assert_array_equal(merged, [True, True, True, False, False])


def test_matched_clusters_say_what_they_need():
  with pytest.raises(UsageError, match=r"predicted: has shape \(2,\); labels has \(3,\); expected both \[N\]"):
    metrics.matched_clusters([0, 1, 2], [0, 1])
  with pytest.raises(UsageError, match=r"labels: span -1\.\.1; expected 0\.\.1"):
    metrics.matched_clusters([0, -1, 1], [0, 1, 1])
  assert metrics.matched_clusters(np.zeros(0, int), np.zeros(0, int)).shape == (0,)
