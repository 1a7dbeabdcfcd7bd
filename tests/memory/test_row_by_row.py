"""Buffers in plain Python: the greedy one row for row, the ring's slots, and what each reads and erases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.memory import class_balanced, greedy_balanced, ring

EXAMPLE = {"id": jnp.int32(0), "y": jnp.int32(0), "x": jnp.zeros(2)}


def make(ids, y):
  ids = np.asarray(ids)
  x = np.stack([10.0 * ids, 10.0 * ids + 1], -1)
  return {"id": jnp.asarray(ids, jnp.int32), "y": jnp.asarray(y, jnp.int32), "x": jnp.asarray(x, jnp.float32)}


def greedy(slots, key, ids, y, weight, capacity, classes):
  """All rows of positive weight and known class enter; then, while too many are held, the one with the least of this
  call's draws of the largest class goes (of equal classes the last). New rows take the free slots, then those left."""
  bits = np.asarray(jax.random.bits(key, (capacity + len(ids),), jnp.uint32)).astype(np.int64)
  held = {("old", s): (int(bits[s]), row[1]) for s, row in enumerate(slots)}
  entering = [i for i in range(len(ids)) if weight[i] > 0 and 0 <= y[i] < classes]
  held |= {("new", i): (int(bits[capacity + i]), int(y[i])) for i in entering}
  freed = []
  while len(held) > capacity:
    counts = [sum(c == g for _, c in held.values()) for g in range(classes)]
    largest = max(g for g in range(classes) if counts[g] == max(counts))
    victim = min((k for k in held if held[k][1] == largest), key=lambda k: held[k][0])
    held.pop(victim)
    freed += [victim[1]] if victim[0] == "old" else []
  slots = list(slots)
  for i in (i for i in entering if ("new", i) in held):
    row = (int(ids[i]), int(y[i]))
    if len(slots) < capacity:
      slots.append(row)
    else:
      slots[freed.pop(0)] = row
  return slots


def test_greedy_equals_row_by_row():
  """One class only while it fills, so that its largest class is seen to be another's later; rows without weight and of
  unknown classes; a removal on the way."""
  capacity, classes, rng = 7, 3, np.random.default_rng(0)
  memory = greedy_balanced(capacity, classes)
  add, state, slots = jax.jit(memory.add), memory.init(EXAMPLE), []
  for step in range(8):
    ids = 1 + 5 * step + np.arange(5)
    y = np.zeros(5, int) if step < 2 else rng.choice([-1, 0, 1, 2, 3], 5)
    weight = np.where(rng.random(5) < 0.8, 0.5, 0.0)
    key = jax.random.key(step)
    state = add(key, state, make(ids, y), jnp.asarray(weight, jnp.float32))
    slots = greedy(slots, key, ids, y, weight, capacity, classes)
    if step == 5:
      state = memory.remove(state, lambda rows: rows["id"] % 4 == 1)
      slots = [s for s in slots if s[0] % 4 != 1]
    rows, inside = memory.contents(state)
    n = len(slots)
    assert int(state.count) == n
    assert list(zip(rows["id"].tolist(), rows["y"].tolist(), strict=True)) == slots + [(0, 0)] * (capacity - n)
    np.testing.assert_array_equal(rows["x"][:n], [[10.0 * i, 10.0 * i + 1] for i, _ in slots])
    assert inside.tolist() == [1.0] * n + [0.0] * (capacity - n)
    assert state.group.tolist() == [c for _, c in slots] + [classes] * (capacity - n)
    assert state.floor.tolist() == [0] * classes
  assert n == capacity


@pytest.mark.parametrize("make_memory", [class_balanced, greedy_balanced])
def test_balanced_buffers_read_what_is_stored(make_memory):
  """A class by a function of one's own; a sample of all rows is a permutation; absent rows read as zeros."""
  memory = make_memory(6, 2, lambda rows: rows["id"] % 2)

  @jax.jit
  def run(new):
    state = memory.add(jax.random.key(0), memory.init(EXAMPLE), new, jnp.ones(4))
    return state, memory.sample(jax.random.key(1), state, 5)

  state, (rows, weight) = run(make([1, 2, 3, 4], [9, 9, 9, 9]))
  assert state.group.tolist() == [1, 0, 1, 0, 2, 2]
  assert weight.tolist() == [1, 1, 1, 1, 0]
  assert sorted(rows["id"].tolist()) == [0, 1, 2, 3, 4]
  assert rows["id"].tolist()[4] == 0
  np.testing.assert_array_equal(rows["x"][:4, 0], 10.0 * rows["id"][:4])
  with pytest.raises(UsageError, match="capacity"):
    make_memory(0, 2)
  with pytest.raises(UsageError, match="n:"):
    memory.sample(jax.random.key(1), state, 0)


def test_ring_equals_slots_by_hand():
  """``slot = g m + seen mod m`` a row, in order; removal packs a group oldest first."""
  memory, rng = ring(8, 3, lambda rows: rows["y"]), np.random.default_rng(2)  # portions of 2
  add, state = jax.jit(memory.add), memory.init(EXAMPLE)
  slots, seen = [0] * 6, [0] * 3
  for step in range(6):
    ids = 1 + 5 * step + np.arange(5)
    y, weight = rng.choice([-1, 0, 1, 1, 2, 3], 5), np.where(rng.random(5) < 0.8, 0.5, 0.0)
    state = add(jax.random.key(0), state, make(ids, y), jnp.asarray(weight, jnp.float32))
    for i, g, w in zip(ids, y, weight, strict=True):
      if w > 0 and 0 <= g < 3:
        slots[2 * g + seen[g] % 2] = int(i)
        seen[g] += 1
    if step == 3:
      state = memory.remove(state, lambda rows: rows["id"] % 3 == 0)
      for g in range(3):
        ages = [slots[2 * g + k % 2] for k in range(max(seen[g] - 2, 0), seen[g])]
        left = [i for i in ages if i % 3]
        slots[2 * g : 2 * g + 2], seen[g] = left + [0] * (2 - len(left)), len(left)
    rows, inside = memory.contents(state)
    assert rows["id"].tolist() == slots
    assert state.seen.tolist() == seen
    assert inside.tolist() == [float(k < seen[g]) for g in range(3) for k in range(2)]
    np.testing.assert_array_equal(rows["x"][:, 0], 10.0 * rows["id"])


def test_a_sample_of_a_ring_reads_the_slots_drawn():
  """The drawn numbers count stored rows only: 1 of group 0, none of group 1, 2 of group 2."""
  memory = ring(6, 3, lambda rows: rows["y"])

  @jax.jit
  def run(new, keys):
    state = memory.add(None, memory.init(EXAMPLE), new, jnp.ones(3))
    return state, jax.vmap(lambda key: memory.sample(key, state, 4))(keys)

  state, (rows, weight) = run(make([1, 2, 3], [2, 0, 2]), jax.random.split(jax.random.key(0), 40))
  assert np.all(np.asarray(weight) == [1, 1, 1, 0])
  assert {tuple(sorted(r[:3])) for r in rows["id"].tolist()} == {(1, 2, 3)}
  assert np.all(np.asarray(rows["id"])[:, 3] == 0)
  assert {r[0] for r in rows["id"].tolist()} == {1, 2, 3}
  np.testing.assert_array_equal(rows["x"][..., 1], np.where(weight > 0, 10.0 * rows["id"] + 1, 0))
  with pytest.raises(UsageError, match="n:"):
    memory.sample(jax.random.key(0), state, 0)
