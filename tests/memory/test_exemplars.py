"""Herding against NumPy and brute force; exemplar lists against lists in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.memory import exemplars, herding

RNG = np.random.default_rng(0)
N, D = 30, 4
FEATURES = RNG.normal(size=(N, D)).astype(np.float32) + 1
GROUP = np.r_[np.zeros(12), np.ones(9), np.full(5, 3), np.full(4, -1)].astype(np.int32)[RNG.permutation(N)]


def lists(rank, group, g):
  """The rows of one list, in its order."""
  picked = [i for i in np.flatnonzero(group == g) if rank[i] < len(rank)]
  assert sorted(rank[picked]) == list(range(len(picked)))
  return sorted(picked, key=lambda i: rank[i])


def by_hand(f, depth, repeats):
  """The released loop: w starts at the mean; ``repeats`` picks among all rows, else among those left."""
  f = np.asarray(f, np.float64)
  f = f / np.linalg.norm(f, axis=-1, keepdims=True)
  mean = f.mean(0)
  w, order, picks = mean.copy(), [], 0
  while len(order) < min(depth, len(f)) and picks < 1000:
    score = f @ w
    if not repeats:
      score[order] = -np.inf
    i = int(score.argmax())
    order += [i] if i not in order else []
    w, picks = w + mean - f[i], picks + 1
  return order


@pytest.mark.parametrize("repeats", [False, True])
def test_herding_is_the_greedy_list_of_each_group(repeats):
  rank = np.asarray(jax.jit(lambda f, g, d: herding(f, g, 4, d, repeats))(FEATURES, GROUP, 7))
  for g, size in ((0, 7), (1, 7), (2, 0), (3, 5)):
    rows = np.flatnonzero(g == GROUP)
    assert lists(rank, GROUP, g) == rows[by_hand(FEATURES[rows], 7, repeats)].tolist() if size else True
    assert len(lists(rank, GROUP, g)) == size
  assert (rank[GROUP < 0] == N).all()


def test_herding_without_repeats_is_the_nearest_mean_at_each_step():
  """Each row is that of the least ``|mu - mean of the picked|``, by trying all; lists with repeats lie further."""
  f = FEATURES[GROUP == 0]
  f = f / np.linalg.norm(f, axis=-1, keepdims=True)
  gap = lambda picked: np.linalg.norm(f.mean(0) - f[picked].mean(0))
  ranks = [np.asarray(herding(f, np.zeros(len(f), np.int32), 1, len(f), r)) for r in (False, True)]
  order = np.argsort(ranks[0])
  for k in range(len(f)):
    tried = [gap([*order[:k], i]) for i in range(len(f)) if i not in order[:k]]
    assert gap(order[: k + 1]) <= min(tried) + 1e-6
  # The bug of the released code: a row that repeats counts twice in the sum and once in the list.
  far = []
  for seed in range(40):
    f = np.random.default_rng(seed).normal(size=(40, 6)).astype(np.float32) + 0.5
    f = f / np.linalg.norm(f, axis=-1, keepdims=True)
    one, other = (by_hand(f, 12, r) for r in (False, True))
    far += [(gap(one), gap(other))] if one != other else []
  assert len(far) > 10
  assert np.mean(far, 0)[1] > 1.2 * np.mean(far, 0)[0]


def test_herding_knows_no_scale_and_no_absent_row():
  scale = np.random.default_rng(1).uniform(0.5, 2, (N, 1)).astype(np.float32)
  broken = np.where((GROUP < 0)[:, None], np.nan, FEATURES * scale)
  want, got = (np.asarray(herding(f, GROUP, 4, 5)) for f in (FEATURES, broken))
  np.testing.assert_array_equal(got, want)


EXAMPLE = {"id": jnp.int32(0), "x": jnp.zeros(2, jnp.uint8)}


def make(ids):
  ids = np.asarray(ids, np.int32)
  return {"id": jnp.asarray(ids), "x": jnp.asarray(np.stack([ids, ids], 1), jnp.uint8)}


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_lists_are_cut_to_the_quota_and_are_prefixes(rounding):
  """Groups come two at a time, one again; a request erases rows of a list and the whole of another."""
  made = exemplars(10, 4, rounding)
  add, state, held = jax.jit(made.add), made.init(EXAMPLE), {}
  rng = np.random.default_rng(0)
  for t, groups in enumerate([(0, 1), (2,), (1, 3), (0,)]):
    ids = 1 + 20 * t + np.arange(12)
    group = rng.choice(groups, 12).astype(np.int32)
    there = rng.random(12) < 0.9
    rank = np.full(12, 12)
    for g in groups:
      own = rng.permutation(np.flatnonzero((group == g) & there))[:9]
      rank[own] = np.arange(len(own))
      held.pop(g, None)  # made anew, it stands last
      held[g] = ids[own].tolist()
    quota = 10 // len(held) if rounding == "floor" else -(-10 // len(held))
    assert int(made.quota(state, group, there)) == quota
    state = add(state, make(ids), group, rank, there)
    held = {g: l[:quota] for g, l in held.items()}  # a prefix of what it was
    check(state, held, 10 + 3 * (rounding == "ceil"))
    if t == 2:
      gone = [held[0][0], *held[2]]
      state = jax.jit(lambda s, gone=gone: made.remove(s, lambda r: jnp.isin(r["id"], jnp.array(gone))))(state)
      held = {g: [i for i in l if i not in gone] for g, l in held.items() if g != 2}
      check(state, held, 10 + 3 * (rounding == "ceil"))
  rows, weight = made.sample(jax.random.key(0), state, 20)
  assert sorted(rows["id"][weight > 0].tolist()) == sorted(i for l in held.values() for i in l)
  assert not np.asarray(rows["x"])[np.asarray(weight) == 0].any()


def check(state, held, size):
  want = [(i, g) for g in held for i in held[g]]
  n = int(state.count)
  assert n == len(want)
  assert state.group.shape == (size,)
  assert list(zip(state.rows["id"].tolist()[:n], state.group.tolist()[:n], strict=True)) == want
  assert state.group.tolist()[n:] == [-1] * (size - n)
  np.testing.assert_array_equal(state.rows["x"][:, 0], state.rows["id"].astype(jnp.uint8))
  assert not np.asarray(state.rows["x"])[n:].any()


def test_exemplars_arguments():
  with pytest.raises(UsageError, match="capacity: got 3, below the 4 classes"):
    exemplars(3, 4)
  with pytest.raises(UsageError, match="rounding: got 'up'"):
    exemplars(4, 4, "up")
