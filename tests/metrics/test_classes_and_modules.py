"""Confusions, accuracy by class, parameters by module: by hand, and against scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from cljax import metrics
from cljax.core.types import UsageError


def test_confusion_is_scikit_learns():
  rng = np.random.default_rng(0)
  y, p = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
  counts = metrics.confusion(y, p, 6)
  np.testing.assert_array_equal(counts, sklearn.metrics.confusion_matrix(y, p, labels=range(6)))
  np.testing.assert_allclose(
    metrics.per_class_accuracy(counts)[:5], sklearn.metrics.recall_score(y, p, average=None, labels=range(5))
  )
  assert np.isnan(metrics.per_class_accuracy(counts)[5])


def test_forgetting_by_class_is_from_the_best_before():
  def at(*rates):  # counts of ten rows a class; None: no rows
    out = np.zeros((3, 3))
    for c, rate in enumerate(rates):
      if rate is not None:
        out[c, c], out[c, (c + 1) % 3] = 10 * rate, 10 - 10 * rate
    return out

  got = metrics.per_class_forgetting([at(0.9, None, None), at(1.0, 0.5, None), at(0.2, 0.7, 0.8)])
  np.testing.assert_allclose(got[:2], [0.8, -0.2])
  assert np.isnan(got[2])
  assert np.isnan(metrics.per_class_forgetting([at(1, 1, 1), at(1, 1, None)])[2])


def test_recency_bias_counts_errors_on_old_classes_only():
  counts = np.array([[5, 1, 3, 1], [0, 6, 2, 2], [4, 4, 1, 1], [9, 0, 0, 1]])
  old, new = [True, True, False, False], [False, False, True, True]
  assert metrics.recency_bias(counts, old, new) == pytest.approx(8 / 9)
  assert np.isnan(metrics.recency_bias(np.eye(4), old, new))


def parameters(seed):
  rng = np.random.default_rng(seed)
  make = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  block = lambda: {"out": {"kernel": make(2, 2)}, "norm": make(2)}
  return {
    "head": {"kernel": make(2, 3), "bias": make(3)},
    **{f"block_{i}": block() for i in (10, 2)},
    "scale": make(1),
  }


def test_modules_are_in_their_natural_order():
  assert metrics.module_names(parameters(0)) == ["block_2", "block_2/out", "block_10", "block_10/out", "scale", "head"]


def test_sensitivity_is_the_mean_change_of_a_module():
  a, b = parameters(0), parameters(1)
  got = metrics.module_sensitivity(a, b)
  head = sum(np.abs(np.asarray(b["head"][k]) - np.asarray(a["head"][k])).sum() for k in ("kernel", "bias")) / 9
  assert got["head"] == pytest.approx(head, rel=1e-6)
  assert got["block_10"] == pytest.approx(np.abs(np.asarray(b["block_10"]["norm"] - a["block_10"]["norm"])).mean())
  assert list(got) == metrics.module_names(a)
  assert set(metrics.module_sensitivity(a, a).values()) == {0.0}


def test_one_module_of_another_time():
  a, b = parameters(0), parameters(1)
  got = metrics.with_module(a, b, "head")
  np.testing.assert_array_equal(got["head"]["kernel"], b["head"]["kernel"])
  np.testing.assert_array_equal(got["head"]["bias"], b["head"]["bias"])
  assert set(n for n, v in metrics.module_sensitivity(a, got).items() if v) == {"head"}
  whole = a
  for name in metrics.module_names(a):
    whole = metrics.with_module(whole, b, name)
  assert set(metrics.module_sensitivity(whole, b).values()) == {0.0}


@pytest.mark.parametrize(
  ("call", "said"),
  [
    (lambda: metrics.confusion([0, 1], [0], 2), "predicted: has shape (1,)"),
    (lambda: metrics.confusion([0, 2], [0, 1], 2), "labels: span 0..2; expected 0..1"),
    (lambda: metrics.per_class_accuracy(np.ones((2, 3))), "confusions: has shape (2, 3)"),
    (lambda: metrics.per_class_forgetting(np.ones((2, 2))), "expected [K, C, C]"),
    (lambda: metrics.with_module(parameters(0), parameters(1), "tail"), "module: no 'tail'; there are block_2"),
    (lambda: metrics.event_gap([1.0], np.ones((2, 2))), "inside: has shape (2, 2)"),
    (lambda: metrics.event_gap([np.nan], np.ones((2, 1))), "holds NaN"),
  ],
)
def test_wrong_arguments_are_refused(call, said):
  with pytest.raises(UsageError) as error:
    call()
  assert said in str(error.value)


def test_a_gap_is_a_fall_that_is_regained():
  gap = metrics.event_gap([0.9, 0.5, 0.2], [[0.4, 0.5, 0.3], [0.3, 0.2, 0.4], [0.8, 0.2, 0.6]])
  np.testing.assert_allclose(gap.depth, [0.6, 0.3, -0.1])
  np.testing.assert_allclose(gap.recovered, [0.5, 0.0, 0.3])
