"""GSS's memory against its formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.memory import diverse

EXAMPLE = {"id": jnp.int32(0), "x": jnp.zeros(2)}


def make(ids):
  ids = np.asarray(ids, np.int32)
  return {"id": jnp.asarray(ids), "x": jnp.asarray(np.stack([ids, ids], 1), jnp.float32)}


def filled(memory, score):
  n = len(score)
  rows = make(1 + np.arange(n))
  return memory.add(jax.random.key(0), memory.init(EXAMPLE), rows, jnp.asarray(score), jnp.ones(n), True)


SCORES = np.array([0.5, -0.4, 0.1, 0.8, -0.9])


def test_one_row_against_a_full_memory():
  """``P(slot) = p_slot s / (s + t)``: p proportional to scores scaled to [0, 1], so that the least is never drawn."""
  memory, score = diverse(5), 0.2
  state = filled(memory, SCORES)
  add = lambda key: memory.add(key, state, make([9]), jnp.array([score]), jnp.ones(1), True)
  ids = np.asarray(jax.jit(jax.vmap(add))(jax.random.split(jax.random.key(1), 20000)).rows["id"])
  p = (SCORES - SCORES.min()) / (SCORES - SCORES.min()).sum()
  s, t = (SCORES + 1) / 2, (score + 1) / 2
  want = p * s / (s + t)
  np.testing.assert_allclose((ids == 9).mean(0), want, atol=0.012)
  assert want[4] == (ids[:, 4] == 9).sum() == 0
  assert ((ids == 9).sum(1) <= 1).all()


def test_rows_enter_while_there_is_room():
  """In order, at their scores, clipped; rows of weight 0 do not; those for which no room is left do not either,
  whatever their scores."""
  memory = diverse(4)
  rows, weight = make(1 + np.arange(6)), jnp.array([1.0, 0, 1, 1, 1, 1])
  state = memory.add(
    jax.random.key(0), memory.init(EXAMPLE), rows, jnp.array([0.1, np.nan, 2, -3, 0, -1]), weight, False
  )
  np.testing.assert_array_equal(state.rows["id"], [1, 3, 4, 5])
  np.testing.assert_allclose(state.score, [0.1, 1, -1, 0])
  np.testing.assert_array_equal(memory.contents(state)[1], np.ones(4))
  part = memory.add(jax.random.key(0), memory.init(EXAMPLE), make([7, 8]), jnp.zeros(2), jnp.ones(2), False)
  assert int(part.count) == 2
  drawn, inside = memory.sample(jax.random.key(2), part, 3)
  assert sorted(np.asarray(drawn["id"])) == [0, 7, 8]
  np.testing.assert_array_equal(inside, [1, 1, 0])
  with pytest.raises(UsageError, match="capacity: got 0"):
    diverse(0)


def test_a_row_like_others_is_the_least_wanted():
  """t = 1 of a row of score 1, 0 of one of score -1, which takes its slot always; all scores equal: any slot."""
  memory = diverse(4)
  for stored, score, low, high in ((0.0, -1.0, 1.0, 1.0), (0.0, 1.0, 0.3, 0.37), (-1.0, 1.0, 0.0, 0.0)):
    state = filled(memory, np.full(4, stored))
    add = lambda key, state=state, score=score: memory.add(key, state, make([9]), jnp.array([score]), jnp.ones(1), True)
    ids = np.asarray(jax.vmap(add)(jax.random.split(jax.random.key(1), 4000)).rows["id"])
    assert low <= (ids == 9).any(1).mean() <= high
    if high == 1:
      np.testing.assert_allclose((ids == 9).mean(0), 0.25, atol=0.03)


def test_a_closed_memory_stays_and_a_request_opens_it():
  memory = diverse(5)
  state = filled(memory, SCORES)
  same = memory.add(jax.random.key(3), state, make(10 + np.arange(4)), jnp.full(4, -1.0), jnp.ones(4), False)
  for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(a, b)
  left = memory.remove(state, lambda rows: rows["id"] % 2 == 1)
  np.testing.assert_array_equal(left.rows["id"], [2, 4, 0, 0, 0])
  np.testing.assert_allclose(left.score, [-0.4, 0.8, 0, 0, 0])
  assert not np.asarray(left.rows["x"])[2:].any()
  again = memory.add(jax.random.key(3), left, make([30]), jnp.ones(1), jnp.ones(1), False)
  np.testing.assert_array_equal(again.rows["id"], [2, 4, 30, 0, 0])


def test_slots_of_one_call_differ():
  """Each row of a call is set against a slot of its own; more rows than slots leave some without."""
  memory = diverse(5)
  state = filled(memory, SCORES)
  add = lambda key: memory.add(key, state, make(10 + np.arange(7)), jnp.full(7, -1.0), jnp.ones(7), True)
  got = jax.vmap(add)(jax.random.split(jax.random.key(1), 200))
  ids = np.asarray(got.rows["id"])
  np.testing.assert_array_equal(np.sort(ids, axis=1)[:, 1:], np.tile([10, 11, 12, 13], (200, 1)))  # the least stays
  assert (ids[:, 4] == 5).all()
  assert (np.asarray(got.count) == 5).all()
