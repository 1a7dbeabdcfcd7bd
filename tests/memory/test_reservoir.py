"""The reservoir against algorithm R run row by row, and against its inclusion probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.core.types import UsageError
from cljax.memory import reservoir


def rows_of(ids):
  ids = jnp.asarray(ids, jnp.int32)
  return {"id": ids, "x": jnp.stack([ids, ids * 2], -1).astype(jnp.float32)}


EXAMPLE = {"id": jnp.int32(0), "x": jnp.zeros(2)}


def algorithm_r(slots, count, seen, capacity, bits, ids, weight):
  """Row by row in NumPy; `slots` holds ids."""
  slots = list(slots)
  for b, i, w in zip(bits, ids, weight, strict=True):
    if w <= 0:
      continue
    if count < capacity:
      if seen <= capacity or int(b) % seen < capacity:
        slots[count] = i
        count += 1
        seen = max(seen, count)
    else:
      r = int(b) % (seen + 1)
      if r < capacity:
        slots[r] = i
      seen += 1
  return slots, count, seen


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.booleans(), min_size=40, max_size=40))
def test_equals_the_sequential_algorithm(seed, real):
  memory = reservoir(7)
  add = ADD[7]
  state, reference = memory.init(EXAMPLE), ([0] * 7, 0, 0)
  weight = np.asarray(real, np.float32)
  for step in range(5):
    key = jax.random.key(seed + step)
    ids = np.arange(8) + 8 * step + 1
    state = add(key, state, rows_of(ids), weight[8 * step : 8 * step + 8])
    bits = np.asarray(jax.random.bits(key, (8,), jnp.uint32))
    reference = algorithm_r(*reference, 7, bits, ids, weight[8 * step : 8 * step + 8])
    if step == 2:  # remove every third row: the rate must stand still until the buffer is full again
      state = memory.remove(state, lambda rows: rows["id"] % 3 == 0)
      kept = [i for i in reference[0][: reference[1]] if i % 3]
      seen = len(kept) if reference[2] <= 7 or not kept else reference[2]
      reference = (kept + [0] * (7 - len(kept)), len(kept), seen)
    assert state.rows["id"].tolist() == reference[0]
    assert (int(state.count), int(state.seen)) == reference[1:]
    np.testing.assert_array_equal(state.rows["x"][:, 1], 2 * state.rows["id"])


ADD = {m: jax.jit(reservoir(m).add) for m in (4, 7)}


def test_a_call_of_very_many_rows_equals_the_sequential_algorithm():
  memory, key, ids = reservoir(50), jax.random.key(3), 1 + np.arange(1500)
  state = memory.add(key, memory.init(EXAMPLE), rows_of(ids), jnp.ones(1500))
  bits = np.asarray(jax.random.bits(key, (1500,), jnp.uint32))
  assert state.rows["id"].tolist() == algorithm_r([0] * 50, 0, 0, 50, bits, ids, np.ones(1500))[0]


def test_every_row_is_stored_with_probability_m_over_n():
  """60 rows, capacity 10: 1/6 each, within 4.5 standard errors, also where batches cross the moment of filling."""
  trials, n, capacity = 4000, 60, 10
  memory = reservoir(capacity)

  def run(key):
    def step(state, t):
      ids = t * 6 + jnp.arange(6)
      return memory.add(jax.random.fold_in(key, t), state, rows_of(ids), jnp.ones(6)), None

    state = jax.lax.scan(step, memory.init(EXAMPLE), jnp.arange(n // 6))[0]
    return jnp.zeros(n).at[state.rows["id"]].add(1.0)

  hits = jax.jit(lambda keys: jax.vmap(run)(keys).sum(0))(jax.random.split(jax.random.key(0), trials))
  p = capacity / n
  error = np.sqrt(p * (1 - p) / trials)
  np.testing.assert_allclose(hits / trials, p, atol=4.5 * error)
  assert float(hits.sum()) == trials * capacity
  # Chi-square over the 60 rows, about n-1 = 59 degrees of freedom (negative correlation included): mean 59, sd 10.9.
  assert float(((hits / trials - p) ** 2).sum() / error**2) < 59 + 5 * 10.9


def test_after_a_removal_old_and_new_rows_are_kept_alike():
  """20 rows at capacity 10, half erased, 20 new rows: old and new rows are kept at the same rate."""
  trials, capacity = 6000, 10
  memory = reservoir(capacity)

  def run(key):
    state = memory.add(jax.random.fold_in(key, 0), memory.init(EXAMPLE), rows_of(jnp.arange(40)), jnp.ones(40))
    state = memory.remove(state, lambda rows: rows["id"] % 2 == 1)
    few = memory.add(jax.random.fold_in(key, 1), state, rows_of(40 + jnp.arange(8)), jnp.ones(8))
    rows, weight = memory.contents(few)
    return jnp.zeros(48).at[rows["id"]].add(weight), few.count < capacity

  hits, under = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), trials))
  rate = np.asarray(hits.mean(0))
  assert np.all(rate[1:40:2] == 0)
  # The keeping rate was 10/40; while the buffer is not full again it holds exactly for new rows.
  error = np.sqrt(0.25 * 0.75 / trials)
  assert float(under.mean()) > 0.9
  np.testing.assert_allclose(rate[:40:2], 0.25, atol=4.5 * error)
  np.testing.assert_allclose(rate[40:], 0.25, atol=4.5 * error)


def test_rows_of_weight_zero_are_as_if_absent():
  """Bit-equal: appended empty rows change nothing, and a call with empty rows only is the identity."""
  memory, key = reservoir(4), jax.random.key(3)
  state = ADD[4](key, memory.init(EXAMPLE), rows_of(np.arange(6) + 1), jnp.ones(6))
  same = ADD[4](jax.random.key(9), state, rows_of(np.arange(6) + 50), jnp.zeros(6))
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(same), strict=True):
    np.testing.assert_array_equal(a, b)
  # In the filling phase no draw matters, so gaps must not show either.
  gaps = ADD[4](key, memory.init(EXAMPLE), rows_of([1, 9, 2, 9, 9, 3]), jnp.array([1.0, 0, 1, 0, 0, 1]))
  dense = ADD[4](key, memory.init(EXAMPLE), rows_of([1, 2, 3]), jnp.ones(3))
  for a, b in zip(jax.tree.leaves(gaps), jax.tree.leaves(dense), strict=True):
    np.testing.assert_array_equal(a, b)
  assert gaps.rows["id"].tolist() == [1, 2, 3, 0]


def test_sample_is_without_replacement_and_uniform():
  memory = reservoir(12)
  state = memory.init(EXAMPLE)._replace(count=jnp.int32(9), rows=rows_of(np.arange(12) + 1))
  trials = 4000
  draw = jax.jit(jax.vmap(lambda key: memory.sample(key, state, 5)))
  rows, weight = draw(jax.random.split(jax.random.key(5), trials))
  ids = np.asarray(rows["id"])
  assert np.all(np.asarray(weight) == 1)
  assert all(len(set(r)) == 5 for r in ids)
  assert ids.min() >= 1
  assert ids.max() <= 9
  counts = np.array([(ids == i).mean(0) for i in range(1, 10)])  # per row, per place in the sample
  error = np.sqrt(1 / 9 * 8 / 9 / trials)
  np.testing.assert_allclose(counts, 1 / 9, atol=4.5 * error)
  # Pairs in the first and last place: a wrong chain of swaps shows here.
  pairs = np.zeros((9, 9))
  np.add.at(pairs, (ids[:, 0] - 1, ids[:, 4] - 1), 1 / trials)
  assert np.all(np.diag(pairs) == 0)
  np.testing.assert_allclose(pairs[~np.eye(9, dtype=bool)], 1 / 72, atol=4.5 * np.sqrt(1 / 72 / trials))


def test_draw_equals_a_fisher_yates_shuffle():
  from cljax.memory import slots

  draw = jax.jit(slots.draw, static_argnums=2)
  for count, n in [(40, 9), (9, 9), (3, 9), (0, 9), (17, 17)]:
    for seed in range(20):
      key = jax.random.key(seed)
      bits = np.asarray(jax.random.bits(key, (n,), jnp.uint32))
      places = np.arange(max(count, n))
      for i in range(min(n, count)):
        r = i + int(bits[i]) % (count - i)
        places[[i, r]] = places[[r, i]]
      at, inside = draw(key, count, n)
      assert np.asarray(at).tolist() == places[:n].tolist()
      assert np.asarray(inside).tolist() == (np.arange(n) < count).tolist()


def test_asking_for_more_than_is_stored_and_removal():
  memory, key = reservoir(6), jax.random.key(0)

  @jax.jit
  def run():
    empty = memory.init(EXAMPLE)
    state = memory.add(key, empty, rows_of(jnp.arange(5) + 1), jnp.ones(5))
    removed = memory.remove(state, lambda rows: rows["id"] % 2 == 1)
    twice = memory.remove(removed, lambda rows: rows["id"] == 0)  # an id that only the unfilled slots carry
    return memory.sample(key, state, 9), memory.sample(key, empty, 2), removed, twice.count

  (rows, weight), (_, none), removed, count = run()
  assert weight.tolist() == [1.0] * 5 + [0.0] * 4
  assert sorted(rows["id"][:5].tolist()) == [1, 2, 3, 4, 5]
  assert rows["id"][5:].tolist() == [0] * 4
  assert none.tolist() == [0, 0]
  assert removed.rows["id"].tolist() == [2, 4, 0, 0, 0, 0]
  assert removed.rows["x"].tolist() == [[2, 4], [4, 8]] + [[0, 0]] * 4
  assert (int(removed.count), int(removed.seen), int(count)) == (2, 2, 2)


@pytest.mark.parametrize("bad", [0, -3, 2.5, "8", True])
def test_bad_capacity(bad):
  with pytest.raises(UsageError, match="capacity"):
    reservoir(bad)


def test_bad_arguments():
  memory = reservoir(3)
  state = memory.init(EXAMPLE)
  with pytest.raises(UsageError, match="weight"):
    memory.add(jax.random.key(0), state, rows_of([1, 2]), jnp.ones(3))
  with pytest.raises(UsageError, match="gone"):
    memory.remove(state, lambda rows: jnp.ones(2, bool))
  with pytest.raises(UsageError, match="n:"):
    memory.sample(jax.random.key(0), state, 0)
