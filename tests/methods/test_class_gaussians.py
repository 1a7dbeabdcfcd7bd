"""Class Gaussians of features, and a classifier learned on what is drawn of them, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians_by_hand import by_sgd

from cljax import losses
from cljax.core.types import Visit, rows_from_arrays
from cljax.methods.pretrained import gaussians
from cljax.models import heads


def rows(seed=0, n=60, width=4, classes=3):
  rng = np.random.default_rng(seed)
  y = rng.integers(0, classes, n).astype(np.int32)
  y[:classes] = np.arange(classes)
  f = rng.normal(size=(classes, width))[y] + rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
  return f.astype(np.float32), y


def measured(f, y, task=0, state=None, classes=4, weight=None):
  state = gaussians.none(classes, f.shape[1]) if state is None else state
  return gaussians.measured(state, lambda b: b.x, rows_from_arrays(f, y, weight), Visit.in_order(task, 3))


def test_gaussians_are_means_and_covariances_of_rows_that_are_there():
  """Over n - 1; a root of the covariance with its ridge; a row of weight 0 and a class without rows are as if absent;
  what an earlier task measured stands."""
  f, y = rows()
  weight = np.r_[np.ones(50), np.zeros(10)].astype(np.float32)
  f[50:] = np.nan
  state = measured(f, y, weight=weight)
  for c in range(3):
    mine = np.float64(f[:50][y[:50] == c])
    assert state.counts[c] == len(mine)
    np.testing.assert_allclose(state.means[c], mine.mean(0), atol=1e-5)
    root = np.float64(state.roots[c])
    np.testing.assert_allclose(root @ root.T, np.cov(mine.T) + 1e-4 * np.eye(4), rtol=1e-4, atol=1e-4)
  assert not any(np.asarray(leaf[3]).any() for leaf in state)
  assert state.order.tolist() == [1, 1, 1, 0]
  g, z = rows(1, n=20, classes=2)
  later = measured(g, z + 2, task=1, state=state)
  assert later.order.tolist() == [1, 1, 2, 2]
  for old, new in zip(state, later, strict=True):
    np.testing.assert_array_equal(old[:2], new[:2])
  np.testing.assert_allclose(later.means[2], g[z == 0].mean(0), atol=1e-5)


def test_a_root_is_one_and_the_same_whatever_the_rounding():
  """Of features that are equal in all rows, whose eigenvectors could be any, and of rows in another order; it is
  symmetric."""
  f, y = rows()
  f[:, 1:3] = 0.5
  order = np.random.default_rng(1).permutation(len(y))
  one, two = measured(f, y).roots, measured(f[order], y[order]).roots
  np.testing.assert_allclose(one, two, atol=1e-4)
  np.testing.assert_allclose(one, np.swapaxes(one, 1, 2), atol=1e-5)


def test_a_class_of_one_row_has_the_ridge_alone():
  """No covariance of one row, and of equal rows no NaN."""
  state = measured(np.float32([[3.0, 1, 2, 0], [1, 1, 1, 1], [1, 1, 1, 1]]), np.int32([0, 1, 1]))
  for c in range(2):
    root = np.float64(state.roots[c])
    np.testing.assert_allclose(root @ root.T, 1e-4 * np.eye(4), atol=1e-9)


def test_draws_have_the_mean_and_the_covariance():
  f, y = rows()
  state = measured(f, y)
  made = np.float64(gaussians.drawn(jax.random.key(1), state, 200_000))
  for c in range(3):
    mine = np.float64(f[y == c])
    np.testing.assert_allclose(made[c].mean(0), mine.mean(0), atol=0.03)
    scale = np.abs(np.cov(mine.T)).max()
    np.testing.assert_allclose(np.cov(made[c].T), np.cov(mine.T) + 1e-4 * np.eye(4), atol=0.02 * scale)
  assert not made[3].any()


def plain(head, f, y, there):
  return jnp.mean(losses.cross_entropy(heads.linear(head, f), y, there))


@pytest.mark.parametrize("classes", [3, 4])
def test_alignment_is_sgd_on_drawn_features(classes):
  """Of the classes there are, in as many batches; the rate falls along a cosine from pass to pass."""
  f, y = rows()
  state = measured(f, y, classes=classes)
  rng = np.random.default_rng(3)
  head = {"kernel": jnp.float32(rng.normal(size=(4, classes))), "bias": jnp.float32(rng.normal(size=classes))}
  given = {"passes": 3, "samples": 8}
  got = gaussians.aligned(jax.random.key(5), head, state, plain, learning_rate=0.2, **given)
  want = by_sgd(jax.random.key(5), head, state, rate=0.2, **given)
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)
  assert np.abs(want["kernel"] - np.asarray(head["kernel"])).max() > 0.1


def test_without_passes_or_classes_the_classifier_stands():
  f, y = rows()
  head = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}
  for state, passes in ((measured(f, y), 0), (gaussians.none(4, 4), 2)):
    got = gaussians.aligned(jax.random.key(0), head, state, plain, learning_rate=0.2, passes=passes, samples=2)
    for name, leaf in head.items():
      np.testing.assert_array_equal(got[name], leaf)


def test_cleared_classes_are_as_if_never_met():
  f, y = rows()
  state = measured(f, y)
  left = gaussians.cleared(state, jnp.arange(4) == 1)
  for old, new in zip(state, left, strict=True):
    assert not np.asarray(new[1]).any()
    np.testing.assert_array_equal(np.delete(old, 1, 0), np.delete(new, 1, 0))
