"""The ring against lists that are cut to their last rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.core.types import UsageError
from cljax.memory import ring

EXAMPLE = {"id": jnp.int32(0), "task": jnp.int32(0)}
MEMORY = ring(10, 3)  # portions of 3; the tenth slot is not allocated
ADD = jax.jit(lambda state, rows, weight: MEMORY.add(jax.random.key(0), state, rows, weight))
REMOVE = jax.jit(lambda state: MEMORY.remove(state, lambda rows: rows["id"] % 3 == 0))


def make(ids, task):
  return {"id": jnp.asarray(ids, jnp.int32), "task": jnp.asarray(task, jnp.int32)}


def stored(state):
  rows, weight = MEMORY.contents(state)
  return [[int(i) for i, t, w in zip(rows["id"], rows["task"], weight, strict=True) if w and t == g] for g in range(3)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(-1, 3), st.booleans()), min_size=40, max_size=40), st.integers(0, 4))
def test_keeps_the_last_rows_of_every_task(items, removed_at):
  state, reference = MEMORY.init(EXAMPLE), [[], [], []]
  for step in range(5):
    part = items[8 * step : 8 * step + 8]
    ids = 1 + 8 * step + np.arange(8)
    task, weight = np.array([t for t, _ in part]), np.array([float(w) for _, w in part])
    state = ADD(state, make(ids, task), weight)
    for i, t, w in zip(ids, task, weight, strict=True):
      if w and 0 <= t < 3:
        reference[t] = [*reference[t], int(i)][-3:]
    if step == removed_at:
      state = REMOVE(state)
      reference = [[i for i in g if i % 3] for g in reference]
    assert [sorted(g) for g in stored(state)] == [sorted(g) for g in reference]
    # A slot that holds nothing is zero.
    rows, weight = MEMORY.contents(state)
    assert np.all(np.asarray(rows["id"])[np.asarray(weight) == 0] == 0)


def test_slots_are_those_of_the_formula():
  state = ADD(MEMORY.init(EXAMPLE), make([1, 2, 3, 4, 5, 6, 7, 8], [1] * 5 + [2, 2, 0]), jnp.ones(8))
  assert state.rows["id"].tolist() == [8, 0, 0, 4, 5, 3, 6, 7, 0]
  assert state.seen.tolist() == [1, 5, 2]
  # After a removal the oldest row comes first, and the next row does not overwrite a younger one.
  state = REMOVE(state)
  assert state.rows["id"].tolist() == [8, 0, 0, 4, 5, 0, 7, 0, 0]


def test_sample_is_uniform_over_uneven_groups():
  state = ADD(MEMORY.init(EXAMPLE), make(np.arange(8) + 1, [2, 2, 2, 2, 0, 2, 0, 5]), jnp.ones(8))
  # Task 0 holds rows 5 and 7; task 1 nothing; task 2 its last three, rows 3, 4 and 6.
  trials = 4000
  rows, weight = jax.jit(jax.vmap(lambda k: MEMORY.sample(k, state, 3)))(jax.random.split(jax.random.key(0), trials))
  ids = np.asarray(rows["id"])
  assert np.all(np.asarray(weight) == 1)
  assert all(len(set(r)) == 3 for r in ids)
  counts = np.array([(ids == i).mean(0) for i in (3, 4, 5, 6, 7)])
  np.testing.assert_allclose(counts, 0.2, atol=4.5 * np.sqrt(0.2 * 0.8 / trials))
  rows, weight = MEMORY.sample(jax.random.key(1), state, 7)
  assert weight.tolist() == [1] * 5 + [0] * 2
  assert sorted(rows["id"].tolist()) == [0, 0, 3, 4, 5, 6, 7]


def test_rows_as_tuples_and_own_groups():
  from cljax.core.types import Batch

  rows = Batch(*(jnp.arange(4) for _ in range(5)))
  example = jax.tree.map(lambda v: v[0], rows)
  by_task = ring(4, 4).add(None, ring(4, 4).init(example), rows, jnp.ones(4))
  assert by_task.rows.id.tolist() == [0, 1, 2, 3]
  parity = ring(4, 2, lambda r: r.y % 2)
  assert parity.add(None, parity.init(example), rows, jnp.ones(4)).rows.id.tolist() == [0, 2, 1, 3]


def test_bad_arguments():
  with pytest.raises(UsageError, match="capacity"):
    ring(3, 4)
  with pytest.raises(UsageError, match="num_groups"):
    ring(3, 0)
  with pytest.raises(UsageError, match="task"):
    ring(3, 2).add(None, ring(3, 2).init({"x": 0.0}), {"x": jnp.zeros(2)}, jnp.ones(2))


def test_a_group_s_number_is_a_name():
  """The same rows in groups of other numbers: the same draws, whatever order the groups come in."""
  rng, new = np.random.default_rng(2), np.asarray([2, 0, 1])
  one, two = MEMORY.init(EXAMPLE), MEMORY.init(EXAMPLE)
  for step in range(4):
    ids, task = 1 + 8 * step + np.arange(8), rng.integers(0, 3, 8) if step else np.repeat([1, 2], 4)
    one = ADD(one, make(ids, task), jnp.ones(8))
    two = ADD(two, make(ids, new[task]), jnp.ones(8))
    assert one.met.tolist() == [[3, 0, 1], [2, 0, 1]][min(step, 1)]
    drawn = [MEMORY.sample(jax.random.key(step), s, 5)[0]["id"].tolist() for s in (one, two)]
    assert drawn[0] == drawn[1]
    if step == 2:
      one, two = REMOVE(one), REMOVE(two)
