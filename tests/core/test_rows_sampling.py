"""Samples of a set of rows: without replacement, uniform, by class, blind to rows of weight 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core import rows as picking
from cljax.core.types import UsageError, rows_from_arrays


def ordered(per_class, weight=None):
  """Rows stored by class: x is the row's place."""
  y = np.repeat(np.arange(len(per_class)), per_class).astype(np.int32)
  x = np.arange(len(y), dtype=np.float32)[:, None]
  return rows_from_arrays(x, y, weight)


def hits(rows, size, trials, **options):
  """``[N]`` how often each row is in a sample, and whether every sample held distinct rows of weight 1."""

  def one(key):
    batch = picking.sample(key, rows, size, **options)
    return jnp.zeros(rows.capacity).at[batch.x[:, 0].astype(jnp.int32)].add(batch.weight), batch.weight

  counted, weight = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), trials))
  assert float(counted.max()) == 1
  return np.asarray(counted.mean(0)), np.asarray(weight)


def test_a_sample_is_uniform_and_without_replacement():
  """30 rows, 8 drawn: each with probability 8/30, each pair as often as drawing without replacement says."""
  rows, trials = ordered((10, 20)), 6000
  rate, weight = hits(rows, 8, trials)
  assert (weight == 1).all()
  error = np.sqrt(8 / 30 * 22 / 30 / trials)
  np.testing.assert_allclose(rate, 8 / 30, atol=4.5 * error)
  # 29 degrees of freedom, standard deviation 7.6
  assert ((rate - 8 / 30) ** 2).sum() / error**2 < 29 + 5 * 7.6
  pair = lambda key: picking.sample(key, rows, 2).x[:, 0].astype(jnp.int32)
  at = np.asarray(jax.jit(jax.vmap(pair))(jax.random.split(jax.random.key(1), trials)))
  assert (at[:, 0] < at[:, 1]).all()  # in the order of the set
  neighbours = (at[:, 1] == at[:, 0] + 1).mean()
  want = 29 / (30 * 29 / 2)
  np.testing.assert_allclose(neighbours, want, atol=4.5 * np.sqrt(want / trials))


def test_few_of_each_class_are_uniform_and_no_more():
  """Three, five and one row of a class, two of each asked for; a row of weight 0 is none."""
  rows, trials = ordered((3, 5, 1, 2), np.float32([1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1])), 4000

  def one(key):
    few = picking.few_of_each(key, rows, 2, 4)
    batch = few.batch(0, few.capacity)
    return jnp.zeros(11).at[batch.x[:, 0].astype(jnp.int32)].add(batch.weight), few.count

  counted, count = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), trials))
  assert (np.asarray(count) == 7).all()
  wanted = [2 / 3] * 3 + [1 / 2, 1 / 2, 0, 1 / 2, 1 / 2] + [1, 1, 1]
  np.testing.assert_allclose(np.asarray(counted).mean(0), wanted, atol=4.5 * np.sqrt(0.25 / trials))
  assert np.asarray(counted).max() == 1
  with pytest.raises(UsageError, match="each: got 0; must be at least 1"):
    picking.few_of_each(jax.random.key(0), rows, 0, 4)


def test_ordered_rows_give_every_class_its_share():
  """The case of the fault: labels 0, 1, 2, 3, 0, 1, ... of which a stride of 4 sees a single class."""
  y = np.tile(np.arange(4), 24).astype(np.int32)
  rows = rows_from_arrays(np.zeros((96, 1), np.float32), y)
  for seed in range(5):
    batch = picking.sample(jax.random.key(seed), rows, 8, by_class=True)
    assert np.bincount(batch.y, minlength=4).tolist() == [2, 2, 2, 2]
  drawn = np.concatenate([picking.sample(jax.random.key(s), rows, 8).y for s in range(100)])
  # plain sampling: 200 of each expected, and 12.2 the deviation of one
  assert np.abs(np.bincount(drawn, minlength=4) - 200).max() < 55


def test_by_class_shares_are_equal_as_far_as_rows_go():
  """Classes of 2, 9 and 30 rows, 10 drawn: 2, 4, 4; the rest of an uneven share goes to a class at random."""
  rate, _ = hits(ordered((2, 9, 30)), 10, 3000, by_class=True)
  np.testing.assert_allclose(rate[:2], 1.0)
  for rows_of, share in ((slice(2, 11), 4 / 9), (slice(11, 41), 4 / 30)):
    np.testing.assert_allclose(rate[rows_of], share, atol=4.5 * np.sqrt(share * (1 - share) / 3000))
  rate, _ = hits(ordered((5, 40)), 3, 6000, by_class=True)
  of_class = np.array([rate[:5].sum(), rate[5:].sum()])
  np.testing.assert_allclose(of_class, [1.5, 1.5], atol=4.5 * 0.5 / np.sqrt(6000))


@pytest.mark.parametrize("by_class", [False, True])
def test_fewer_rows_than_asked_for_come_once_each_in_order(by_class):
  rows = ordered((2, 3), [1.0, 0.0, 2.0, 1.0, 0.0])
  batch = picking.sample(jax.random.key(3), rows, 7, by_class)
  assert batch.weight.tolist() == [1.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0]
  assert batch.x[:3, 0].tolist() == [0.0, 2.0, 3.0]
  none = picking.sample(jax.random.key(3), ordered((2, 3), np.zeros(5)), 4, by_class)
  assert none.weight.tolist() == [0.0] * 4


@pytest.mark.parametrize("by_class", [False, True])
def test_rows_of_weight_zero_are_never_drawn(by_class):
  """Present rows are drawn as often as if the others were not there: 12 of 30, 6 drawn."""
  there = np.arange(30) % 5 < 2
  rows = ordered((15, 15), there.astype(np.float32))
  rate, _ = hits(rows, 6, 3000, by_class=by_class)
  assert (rate[~there] == 0).all()
  np.testing.assert_allclose(rate[there], 0.5, atol=4.5 * 0.5 / np.sqrt(3000))
  # behind the set they change no bit of a sample
  garbage = lambda a, v: np.concatenate([a, np.full((4, *a.shape[1:]), v, a.dtype)])
  x, y, w = np.arange(30, dtype=np.float32)[:, None], np.repeat([0, 1], 15).astype(np.int32), there.astype(np.float32)
  longer = rows_from_arrays(garbage(x, np.nan), garbage(y, 7), garbage(w, 0))
  for seed in range(4):
    a, b = (picking.sample(jax.random.key(seed), r, 6, by_class) for r in (rows, longer))
    assert a.x[:, 0].tolist() == b.x[:, 0].tolist()


def test_present_rows_stand_one_behind_the_other():
  rows = picking.present(ordered((3, 3), [0.0, 1.0, 0.5, 0.0, 0.0, 1.0]))
  batch = rows.batch(1, 4)
  assert int(rows.count) == 3
  assert batch.x[:2, 0].tolist() == [2.0, 5.0]
  assert batch.weight.tolist() == [0.5, 1.0, 0.0, 0.0]


def test_sampling_by_class_needs_one_label_a_row():
  tokens = rows_from_arrays(np.zeros((4, 3)), np.zeros((4, 3), np.int32))
  with pytest.raises(UsageError, match="one label a row"):
    picking.sample(jax.random.key(0), tokens, 2, by_class=True)
  with pytest.raises(UsageError, match="size: got 0"):
    picking.sample(jax.random.key(0), tokens, 0)


def test_sampling_under_careful_settings():
  rows = ordered((4, 9))
  want = picking.sample(jax.random.key(1), rows, 5, by_class=True).x
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
    got = jax.jit(lambda k: picking.sample(k, ordered((4, 9)), 5, by_class=True))(jax.random.key(1))
  np.testing.assert_array_equal(got.x, want)
  assert got.weight.dtype == jnp.float32
