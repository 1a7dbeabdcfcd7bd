"""The class-balanced buffer against the same keys run row by row, its quotas and its sampling law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.core.types import UsageError
from cljax.memory import class_balanced, greedy_balanced

EXAMPLE = {"id": jnp.int32(0), "y": jnp.int32(0)}
MEMORY = class_balanced(10, 4)
ADD = jax.jit(MEMORY.add)
REMOVE = jax.jit(lambda state: MEMORY.remove(state, lambda rows: (rows["y"] == 1) | (rows["id"] % 5 == 0)))


def make(ids, y):
  return {"id": jnp.asarray(ids, jnp.int32), "y": jnp.asarray(y, jnp.int32)}


def row_by_row(held, floor, capacity, bits, ids, y, weight):
  """`held` is a list of (id, class, key), evicted one by one as rows come."""
  for b, i, c, w in zip(bits, ids, y, weight, strict=True):
    if not w or not 0 <= c < len(floor) or b < floor[c]:
      continue
    held.append((int(i), int(c), int(b)))
    if len(held) > capacity:
      counts = [sum(h[1] == g for h in held) for g in range(len(floor))]
      largest = max(g for g in range(len(floor)) if counts[g] == max(counts))
      victim = min((h for h in held if h[1] == largest), key=lambda h: h[2])
      held.remove(victim)
      floor[largest] = max(floor[largest], victim[2])


@settings(deadline=None, max_examples=40)
@given(
  st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, -1]), st.booleans() | st.just(True)), min_size=48, max_size=48
  ),
  st.integers(0, 10**6),
  st.integers(0, 7),
)
def test_a_batch_equals_row_by_row(items, seed, removed_at):
  state, held, floor = MEMORY.init(EXAMPLE), [], [0] * 4
  for step in range(6):
    part = items[8 * step : 8 * step + 8]
    ids = 1 + 8 * step + np.arange(8)
    y, weight = np.array([c for c, _ in part]), np.array([float(w) for _, w in part])
    key = jax.random.key(seed + step)
    state = ADD(key, state, make(ids, y), weight)
    row_by_row(held, floor, 10, np.asarray(jax.random.bits(key, (8,), jnp.uint32)), ids, y, weight)
    if step == removed_at:
      state = REMOVE(state)
      held = [h for h in held if h[1] != 1 and h[0] % 5]
      floor = [f if any(h[1] == g for h in held) else 0 for g, f in enumerate(floor)]
    rows, weight = MEMORY.contents(state)
    n = int(state.count)
    assert weight.tolist() == [1.0] * n + [0.0] * (10 - n)
    got = sorted(zip(rows["id"].tolist()[:n], rows["y"].tolist()[:n], state.key.tolist()[:n], strict=True))
    assert got == sorted(held)
    assert state.group.tolist() == rows["y"].tolist()[:n] + [4] * (10 - n)
    assert np.all(np.asarray(rows["id"])[n:] == 0)
    assert state.floor.tolist() == floor


def test_a_large_buffer_equals_row_by_row():
  """Its least keys are looked for in chunks, and in what no chunk holds."""
  capacity, rng = 2077, np.random.default_rng(0)
  memory = class_balanced(capacity, 4)
  add, state, held, floor = jax.jit(memory.add), memory.init(EXAMPLE), [], [0] * 4
  for step in range(6):
    ids, y = 1 + 500 * step + np.arange(500), rng.choice(4, 500, p=[0.6, 0.2, 0.1, 0.1])
    key = jax.random.key(step)
    state = add(key, state, make(ids, y), jnp.ones(500))
    row_by_row(held, floor, capacity, np.asarray(jax.random.bits(key, (500,), jnp.uint32)), ids, y, np.ones(500))
  got = zip(state.rows["id"].tolist(), state.rows["y"].tolist(), state.key.tolist(), strict=True)
  assert sorted(got) == sorted(held)
  assert state.floor.tolist() == floor


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=48, max_size=48))
def test_sizes_are_the_quotas(classes):
  """Sizes sum to min(seen, M); classes with more rows than they hold differ by at most one, the earlier not smaller."""
  state, seen = MEMORY.init(EXAMPLE), np.zeros(4, int)
  for step in range(6):
    y = np.array(classes[8 * step : 8 * step + 8])
    state = ADD(jax.random.key(step), state, make(np.arange(8), y), jnp.ones(8))
    seen += np.bincount(y, minlength=4)
    sizes = np.bincount(np.asarray(state.group)[: int(state.count)], minlength=4)
    assert sizes.sum() == min(seen.sum(), 10)
    cut = np.flatnonzero(sizes < seen)
    assert np.all(sizes[cut] >= sizes.max() - 1)
    assert np.all(np.diff(sizes[cut]) <= 0)
    if np.all(seen >= 3):
      assert sizes.tolist() == [3, 3, 2, 2]


def test_rows_of_a_class_are_kept_alike():
  """30 rows of class 0 in two portions, before and after class 1 comes: each is stored with probability 4/30."""
  memory, trials = class_balanced(8, 2), 4000
  y = jnp.array([0] * 12 + [1] * 10 + [0] * 18)

  def run(key):
    def step(state, t):
      at = t * 5 + jnp.arange(5)
      return memory.add(jax.random.fold_in(key, t), state, make(at, y[at]), jnp.ones(5)), None

    state = jax.lax.scan(step, memory.init(EXAMPLE), jnp.arange(8))[0]
    return jnp.zeros(40).at[state.rows["id"]].add(1.0)

  rate = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), trials)).mean(0))
  expected = np.where(np.asarray(y) == 0, 4 / 30, 4 / 10)
  np.testing.assert_allclose(rate, expected, atol=4.5 * np.sqrt(0.24 / trials))
  zeros = rate[np.asarray(y) == 0]
  np.testing.assert_allclose(zeros, 4 / 30, atol=4.5 * np.sqrt(4 / 30 * 26 / 30 / trials))


def test_after_a_removal_new_rows_enter_at_the_old_rate():
  memory, trials = class_balanced(8, 2), 4000

  def run(key):
    y = jnp.repeat(jnp.array([0, 1]), 20)
    state = memory.add(jax.random.fold_in(key, 0), memory.init(EXAMPLE), make(jnp.arange(40), y), jnp.ones(40))
    state = memory.remove(state, lambda rows: rows["y"] == 1)
    state = memory.add(jax.random.fold_in(key, 1), state, make(40 + jnp.arange(4), [0] * 4), jnp.ones(4))
    rows, weight = memory.contents(state)
    return jnp.zeros(44).at[rows["id"]].add(weight)

  rate = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), trials)).mean(0))
  error = np.sqrt(0.2 * 0.8 / trials)
  np.testing.assert_allclose(rate[:20], 0.2, atol=4.5 * error)
  assert np.all(rate[20:40] == 0)
  # A key passes the largest evicted of 20, the fifth largest, with probability 5/21: the rate to O(1/seen).
  np.testing.assert_allclose(rate[40:], 5 / 21, atol=4.5 * np.sqrt(5 / 21 * 16 / 21 / trials))


def test_greedy_evicts_any_row_of_the_largest_class():
  """Seven rows of class 0 at capacity 6 with two of class 1: one by one, the chance to stay is that of the formula."""
  memory, trials = greedy_balanced(6, 2), 4000

  def run(key):
    def step(state, t):
      row = make(t[None], jnp.where(t < 7, 0, 1)[None])
      return memory.add(jax.random.fold_in(key, t), state, row, jnp.ones(1)), None

    state = jax.lax.scan(step, memory.init(EXAMPLE), jnp.arange(9))[0]
    return jnp.zeros(9).at[state.rows["id"]].add(1.0)

  hits = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), trials)))
  assert np.all(hits[:, 7:] == 1)
  assert np.all(hits.sum(1) == 6)
  # Row 6 makes seven rows of class 0: one of seven goes; rows 7 and 8 each evict one of those left, of 6 and of 5.
  stays = 6 / 7 * 5 / 6 * 4 / 5
  np.testing.assert_allclose(hits[:, :7].mean(0), stays, atol=4.5 * np.sqrt(stays * (1 - stays) / trials))


def test_greedy_favours_recent_rows():
  """A stream of one class at capacity 4: row t stays with probability (4/5)^(rows after it), from the fifth on."""
  memory, trials, n = greedy_balanced(4, 2), 4000, 12

  def run(key):
    def step(state, t):
      return memory.add(jax.random.fold_in(key, t), state, make(t[None], [0]), jnp.ones(1)), None

    state = jax.lax.scan(step, memory.init(EXAMPLE), jnp.arange(n))[0]
    return jnp.zeros(n).at[state.rows["id"]].add(1.0)

  rate = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), trials)).mean(0))
  expected = 0.8 ** np.minimum(n - np.arange(n), n - 4)
  np.testing.assert_allclose(rate, expected, atol=4.5 * np.sqrt(0.25 / trials))


def test_rows_of_weight_zero_are_as_if_absent():
  rows = make(np.arange(8) + 1, [0, 0, 0, 0, 1, 2, 2, 3])
  state = ADD(jax.random.key(0), MEMORY.init(EXAMPLE), rows, jnp.ones(8))
  same = ADD(jax.random.key(1), state, rows, jnp.zeros(8))
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(same), strict=True):
    np.testing.assert_array_equal(a, b)


def test_bad_arguments():
  with pytest.raises(UsageError, match="num_classes"):
    class_balanced(3, 0)
  with pytest.raises(UsageError, match="'y'"):
    MEMORY.add(jax.random.key(0), MEMORY.init(EXAMPLE), {"id": jnp.zeros(2)}, jnp.ones(2))
