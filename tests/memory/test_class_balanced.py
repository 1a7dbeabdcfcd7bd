"""Balanced buffers against plain Python, the law of keys run row by row, and quotas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.core.types import UsageError
from cljax.memory import class_balanced, greedy_balanced
from cljax.memory.class_balanced import leveled

EXAMPLE = {"id": jnp.int32(0), "y": jnp.int32(0)}
MEMORY = class_balanced(10, 4)
ADD = jax.jit(MEMORY.add)
REMOVE = jax.jit(lambda state: MEMORY.remove(state, lambda rows: (rows["y"] == 1) | (rows["id"] % 5 == 0)))


def make(ids, y):
  return {"id": jnp.asarray(ids, jnp.int32), "y": jnp.asarray(y, jnp.int32)}


def unit(bits):
  return np.float32(bits) * np.float32(2.0**-32)


def by_hand(slots, rate, key, items, capacity, greedy):
  """One call of ``add`` in plain Python: ``slots`` is a list of (id, class), ``rate`` of each class; ``items`` are
  (id, class, weight). Sizes go down one by one, places are looked at one by one."""
  size, classes = len(items), len(rate)
  looks = min(256, max(4 * size, 2 * classes))
  bits = np.asarray(jax.random.bits(key, (2 * size + looks,), jnp.uint32))
  entering = [
    n for n, (_, c, w) in enumerate(items) if w > 0 and 0 <= c < classes and unit(bits[n]) <= np.float32(rate[c])
  ]
  places = [("old", s) for s in range(len(slots))] + [("new", n) for n in entering]
  held = {place: slots[place[1]][1] if place[0] == "old" else int(items[place[1]][1]) for place in places}
  sizes, over = [sum(c == g for c in held.values()) for g in range(classes)], [0] * classes
  before = list(sizes)
  while sum(sizes) > capacity:
    largest = max(g for g in range(classes) if sizes[g] == max(sizes))
    sizes[largest], over[largest] = sizes[largest] - 1, over[largest] + 1
  if not greedy:
    least = iter(unit(bits[size : 2 * size] | 1))
    for g in range(classes):
      for n in range(over[g]):
        rate[g] *= float(next(least)) ** (1 / (before[g] - n))
  freed, turn, draws = [], 0, bits[2 * size :]
  while any(over):
    for b in draws:
      place = places[int(b) % len(places)]
      if place in held and over[held[place]]:
        over[held.pop(place)] -= 1
        freed += [place[1]] if place[0] == "old" else []
    turn += 1
    draws = np.asarray(jax.random.bits(jax.random.fold_in(key, turn), (looks,), jnp.uint32))
  for n in (n for n in entering if ("new", n) in held):
    row = (int(items[n][0]), int(items[n][1]))
    if len(slots) < capacity:
      slots.append(row)
    else:
      slots[freed.pop(0)] = row


def assert_state(memory, state, slots, rate, capacity):
  rows, inside = memory.contents(state)
  n, classes = len(slots), len(rate)
  assert int(state.count) == n
  assert inside.tolist() == [1.0] * n + [0.0] * (capacity - n)
  assert list(zip(rows["id"].tolist(), rows["y"].tolist(), strict=True)) == slots + [(0, 0)] * (capacity - n)
  assert state.group.tolist() == [c for _, c in slots] + [classes] * (capacity - n)
  assert state.sizes.tolist() == [sum(c == g for _, c in slots) for g in range(classes)]
  np.testing.assert_allclose(state.rate, rate, rtol=1e-5)


ROWS = st.tuples(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, -1]), st.booleans() | st.just(True))


@pytest.mark.parametrize("greedy", [False, True], ids=["uniform", "greedy"])
def test_balanced_buffers_equal_plain_python(greedy):
  """Row for row and slot for slot, with a removal on the way: group, sizes and rates follow the rows."""
  memory = greedy_balanced(10, 4) if greedy else MEMORY
  add = jax.jit(memory.add)

  @settings(deadline=None, max_examples=40)
  @given(st.lists(ROWS, min_size=48, max_size=48), st.integers(0, 10**6), st.integers(0, 7))
  def check(items, seed, removed_at):
    state, slots, rate = memory.init(EXAMPLE), [], [1.0] * 4
    for step in range(6):
      ids = 1 + 8 * step + np.arange(8)
      y, weight = (np.array(v) for v in zip(*items[8 * step : 8 * step + 8], strict=True))
      key = jax.random.key(seed + step)
      state = add(key, state, make(ids, y), jnp.asarray(weight, jnp.float32))
      by_hand(slots, rate, key, list(zip(ids, y, weight, strict=True)), 10, greedy)
      if step == removed_at:
        state = REMOVE(state)
        slots = [s for s in slots if s[1] != 1 and s[0] % 5]
        rate = [r if any(c == g for _, c in slots) else 1.0 for g, r in enumerate(rate)]
      assert_state(memory, state, slots, rate, 10)

  check()


def test_a_large_buffer_equals_plain_python():
  """More rows to evict in a call than one turn of the search looks at."""
  capacity, rng = 700, np.random.default_rng(0)
  memory = class_balanced(capacity, 4)
  add, state, slots, rate = jax.jit(memory.add), memory.init(EXAMPLE), [], [1.0] * 4
  for step in range(3):
    ids, y = 1 + 500 * step + np.arange(500), rng.choice(4, 500, p=[0.6, 0.2, 0.1, 0.1])
    key = jax.random.key(step)
    state = add(key, state, make(ids, y), jnp.ones(500))
    by_hand(slots, rate, key, list(zip(ids, y, np.ones(500), strict=True)), capacity, greedy=False)
  assert_state(memory, state, slots, rate, capacity)


def row_by_row(rng, capacity, y, removed_at, gone):
  """The law, with keys: which rows of classes ``y`` are held in the end; those of ``gone`` are erased on the way."""
  held, floor = [], [0.0] * (max(y) + 1)
  for n, c in enumerate(y):
    if n == removed_at:
      held = [h for h in held if h[0] not in gone]
      floor = [f if any(h[1] == g for h in held) else 0.0 for g, f in enumerate(floor)]
    key = rng.random()
    if key < floor[c]:
      continue
    held.append((n, c, key))
    if len(held) > capacity:
      counts = [sum(h[1] == g for h in held) for g in range(len(floor))]
      largest = max(g for g in range(len(floor)) if counts[g] == max(counts))
      victim = min((h for h in held if h[1] == largest), key=lambda h: h[2])
      held.remove(victim)
      floor[largest] = max(floor[largest], victim[2])
  return frozenset(h[0] for h in held)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_has_the_law_of_keys_row_by_row(batch):
  """The chance of each set of rows that may be held in the end, over 20,000 trials, against keys drawn and kept."""
  y, capacity, removed_at, gone, trials = [0, 0, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0], 4, 8, (1, 5), 20_000
  memory, rng = class_balanced(capacity, 2), np.random.default_rng(0)

  def run(key):
    state = memory.init(EXAMPLE)
    for at in range(0, len(y), batch):
      if at == removed_at:
        state = memory.remove(state, lambda rows: (rows["id"] == 1 + gone[0]) | (rows["id"] == 1 + gone[1]))
      part = slice(at, at + batch)
      rows = make(1 + np.arange(len(y))[part], y[part])
      state = memory.add(jax.random.fold_in(key, at), state, rows, jnp.ones(batch))
    return jnp.sum(jnp.where(state.rows["id"] > 0, 2 ** (state.rows["id"] - 1), 0))

  got = np.asarray(jax.jit(lambda keys: jax.lax.map(run, keys))(jax.random.split(jax.random.key(1), trials)))
  want = [sum(2**n for n in row_by_row(rng, capacity, y, removed_at, gone)) for _ in range(trials)]
  sets = sorted(set(want))
  assert set(got.tolist()) <= set(sets)
  assert len(sets) > 20
  mine, law = (np.array([np.sum(np.asarray(v) == s) for s in sets], float) for v in (got, want))
  often = mine + law >= 20
  chi2 = np.sum((mine - law)[often] ** 2 / (mine + law)[often])
  assert chi2 < often.sum() + 4.5 * np.sqrt(2 * often.sum())


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=5, max_size=5), st.integers(0, 50))
def test_levels_are_those_of_taking_one_by_one(sizes, total):
  want = list(sizes)
  while sum(want) > total:
    want[max(g for g in range(len(want)) if want[g] == max(want))] -= 1
  assert leveled(jnp.asarray(sizes, jnp.int32), jnp.int32(min(total, sum(sizes)))).tolist() == want


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
