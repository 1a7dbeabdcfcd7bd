"""Buffers in plain Python: the ring's slots, and what each reads and erases."""

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
