"""Moments of features against NumPy in float64: in any batches, in any order, with rows taken out again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import estimators
from cljax.core.types import UsageError

CLASSES, WIDTH, ROWS = 5, 7, 60


@pytest.fixture(scope="module")
def rows():
  rng = np.random.default_rng(0)
  y = np.r_[rng.integers(0, CLASSES - 1, ROWS - 1), CLASSES - 1].astype(np.int32)  # of the last class a single row
  return 3.0 + rng.normal(size=(ROWS, WIDTH)) * (1 + y[:, None]), y


def by_hand(f, y, scatter):
  counts = np.bincount(y, minlength=CLASSES).astype(float)
  means = np.stack([f[y == c].mean(0) if (y == c).any() else np.zeros(f.shape[1]) for c in range(CLASSES)])
  each = np.stack([(f[y == c] - means[c]).T @ (f[y == c] - means[c]) for c in range(CLASSES)])
  return counts, means, {"none": (), "shared": each.sum(0), "class": each}[scatter]


def taken(statistics, f, y, size, change="add", state=None):
  """The state after the rows in batches of ``size``, the last of which has rows that are not there and hold NaN."""
  step = jax.jit(getattr(statistics, change))
  state = statistics.start(CLASSES, f.shape[1], f.dtype) if state is None else state
  for at in range(0, len(y), size):
    some, label = f[at : at + size], y[at : at + size]
    short = size - len(label)
    weight = jnp.asarray(np.r_[np.ones(len(label)), np.zeros(short)])
    some = np.concatenate([some, np.full((short, f.shape[1]), np.nan)])
    state = step(state, jnp.asarray(some), jnp.asarray(np.pad(label, (0, short))), weight)
  return state


def assert_close(state, want, tolerance=1e-13):
  """Relative to the largest entry of each."""
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(want), strict=True):
    assert a.dtype == np.float64
    assert np.abs(np.asarray(a) - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("scatter", ["none", "shared", "class"])
def test_moments_of_rows_in_any_batches_and_order_are_those_of_all_at_once(scatter, rows):
  f, y = rows
  with jax.enable_x64(True):
    statistics = estimators.class_moments(scatter)
    want = by_hand(f, y, scatter)
    orders = [np.arange(ROWS), np.random.default_rng(1).permutation(ROWS), np.argsort(y)]
    for size, order in zip((1, 7, ROWS), orders, strict=True):
      assert_close(taken(statistics, f[order], y[order], size), want)


@pytest.mark.parametrize("scatter", ["none", "shared", "class"])
def test_rows_that_are_taken_out_leave_the_moments_of_the_others(scatter, rows):
  """In other batches than they came in; of a class that goes whole nothing is left, to the bit."""
  f, y = rows
  gone = (np.arange(ROWS) % 3 == 0) | (y == 2) | (y == CLASSES - 1)
  with jax.enable_x64(True):
    statistics = estimators.class_moments(scatter)
    state = taken(statistics, f, y, 7)
    left = taken(statistics, f[gone], y[gone], 4, "subtract", state)
    assert_close(left, by_hand(f[~gone], y[~gone], scatter), 1e-12)
  np.testing.assert_array_equal(left.counts, np.bincount(y[~gone], minlength=CLASSES))
  own = [left.means, left.scatter] if scatter == "class" else [left.means]
  assert not any(np.asarray(a)[[2, CLASSES - 1]].any() for a in own)


def test_the_second_moment_is_the_sum_of_outer_products(rows):
  f, y = rows
  with jax.enable_x64(True):
    got = estimators.second_moment(taken(estimators.class_moments(), f, y, 16))
    assert_close(got, f.T @ f)


def test_moments_in_float32_do_not_cancel(rows):
  """Features far from 0: the scatter keeps its digits, of which ``sum f f^T - n mu mu^T`` leaves none."""
  f, y = rows
  far = (f + 3000.0).astype(np.float32)
  state = taken(estimators.class_moments(), far, y, 8)
  want = by_hand(far.astype(np.float64), y, "shared")[2]
  error = lambda s: np.abs(np.asarray(s, np.float64) - want).max() / np.abs(want).max()
  n, means = np.float32(np.bincount(y, minlength=CLASSES)), np.asarray(state.means)
  assert error(state.scatter) < 1e-4
  assert error(far.T @ far - (n[:, None] * means).T @ means) > 1e-2


def test_cleared_classes_leave_what_is_kept_by_class(rows):
  f, y = rows
  gone = jnp.arange(CLASSES) == 1
  for scatter in ("shared", "class"):
    statistics = estimators.class_moments(scatter)
    state = taken(statistics, np.float32(f), y, 16)
    left = statistics.clear(state, gone)
    for name in ("counts", "means", *(["scatter"] if scatter == "class" else [])):
      a, b = np.asarray(getattr(left, name)), np.asarray(getattr(state, name))
      np.testing.assert_array_equal(a, np.where(np.reshape(gone, (-1, *(1,) * (a.ndim - 1))), 0, b))
    if scatter == "shared":
      np.testing.assert_array_equal(left.scatter, state.scatter)


def test_labels_outside_the_classes_are_as_if_absent(rows):
  f, y = rows
  statistics = estimators.class_moments()
  odd = np.where(np.arange(ROWS) % 2 == 0, y, np.where(np.arange(ROWS) % 4 == 1, -1, CLASSES)).astype(np.int32)
  state = taken(statistics, np.float32(f), odd, ROWS)
  want = taken(statistics, np.float32(f)[::2], y[::2], ROWS // 2)
  for a, b in zip(state, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_an_unknown_scatter_is_refused():
  with pytest.raises(UsageError, match="class_moments: scatter"):
    estimators.class_moments("both")
