"""GDumb's sampler against the same draws row by row, and its sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.memory import first_come_balanced

M, C, B = 7, 3, 10
MEMORY = first_come_balanced(M, C)
ADD = jax.jit(MEMORY.add)


def make(ids, y):
  return {"id": jnp.asarray(ids, jnp.int32), "y": jnp.asarray(y, jnp.int32)}


def row_by_row(held, bits, ids, y, weight):
  """``held``: slot by slot (id, class). The paper's rule; the victim is the n-th of the largest class's slots."""
  for b, i, c, w in zip(bits, ids, y, weight, strict=True):
    counts = np.bincount([h[1] for h in held], minlength=C)
    if not w or not 0 <= c < C:
      continue
    if len(held) < M:
      held.append((int(i), int(c)))
    elif counts[c] < counts.max():
      largest = [k for k, h in enumerate(held) if h[1] == counts.argmax()]
      held[largest[int(b) % len(largest)]] = (int(i), int(c))


def test_first_come_equals_row_by_row():
  """Skewed classes, rows that are absent or of no class; rows are removed half-way."""
  rng, state, held, evicted = np.random.default_rng(0), MEMORY.init({"id": jnp.int32(0), "y": jnp.int32(0)}), [], 0
  for t in range(12):
    ids, y = (
      1 + t * B + np.arange(B),
      rng.choice([0, 1, 2, 3, -1], B, p=[0.6 - 0.04 * t, 0.2, 0.1 + 0.04 * t, 0.05, 0.05]),
    )
    weight, key = (rng.random(B) < 0.8).astype(np.float32), jax.random.key(t)
    before = [h[0] for h in held]
    state = ADD(key, state, make(ids, y), weight)
    row_by_row(held, np.asarray(jax.random.bits(key, (B,), jnp.uint32)), ids, y, weight)
    evicted += len(set(before) - {h[0] for h in held})
    if t == 6:
      state = jax.jit(lambda s: MEMORY.remove(s, lambda rows: rows["id"] % 3 == 0))(state)
      held = [h for h in held if h[0] % 3]
    n = int(state.count)
    assert list(zip(state.rows["id"].tolist()[:n], state.rows["y"].tolist()[:n], strict=True)) == held
    assert state.group.tolist() == [h[1] for h in held] + [C] * (M - n)
    assert not np.asarray(state.rows["id"])[n:].any()
  assert evicted > 4


@pytest.mark.parametrize("y", [[0] * 8 + [1] * 8 + [2] * 8, [0, 1, 2] * 8, [2] * 12 + [0] * 3 + [1] * 9])
def test_sizes_differ_by_one_at_most(y):
  """Whatever the order."""
  state = MEMORY.init({"id": jnp.int32(0), "y": jnp.int32(0)})
  for t in range(0, 24, 8):
    state = ADD(jax.random.key(t), state, make(1 + t + np.arange(8), y[t : t + 8]), jnp.ones(8))
  sizes = np.bincount(np.asarray(state.group), minlength=C)
  assert sizes.sum() == M
  assert np.ptp(sizes) <= 1


def test_a_full_balanced_memory_takes_no_more():
  """Six slots for three classes that come in turn: the first six rows, of which :func:`greedy_balanced` evicts some."""
  memory = first_come_balanced(6, C)
  state = memory.init({"id": jnp.int32(0), "y": jnp.int32(0)})
  state = jax.jit(memory.add)(jax.random.key(0), state, make(1 + np.arange(24), [0, 1, 2] * 8), jnp.ones(24))
  assert state.rows["id"].tolist() == [1, 2, 3, 4, 5, 6]


def test_first_come_s_arguments():
  with pytest.raises(UsageError, match="capacity: got 0"):
    first_come_balanced(0, 3)
