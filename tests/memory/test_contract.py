"""What every memory must do, over all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.memory import class_balanced, first_come_balanced, greedy_balanced, reservoir, ring, slots

M, B, D = 12, 16, 5
MEMORIES = {
  "reservoir": reservoir(M),
  "ring": ring(M, 3),
  "class_balanced": class_balanced(M, 3),
  "greedy_balanced": greedy_balanced(M, 3),
  "first_come_balanced": first_come_balanced(
    M, 5, lambda rows: rows["id"] % 5
  ),  # no multiple of it: else a full one is final
}
EXAMPLE = {
  "id": jnp.int32(0),
  "task": jnp.int32(0),
  "x": jnp.zeros(D, jnp.uint8),
  "y": jnp.int32(0),
  "z": jnp.zeros((2, 2), jnp.bfloat16),
}


def make(ids):
  ids = jnp.asarray(ids, jnp.int32)
  n = ids.shape[0]
  x = jnp.broadcast_to(ids[:, None], (n, D)).astype(jnp.uint8)
  z = jnp.broadcast_to(ids[:, None, None], (n, 2, 2)).astype(jnp.bfloat16)
  return {"id": ids, "task": ids % 3, "x": x, "y": ids % 3, "z": z}


def fill(memory, key, first=1):
  """Five calls, more rows than the capacity in each; every fourth row has weight 0."""

  def step(state, t):
    ids = first + t * B + jnp.arange(B)
    return memory.add(jax.random.fold_in(key, t), state, make(ids), (ids % 4 > 0).astype(jnp.float32)), None

  return jax.lax.scan(step, memory.init(EXAMPLE), jnp.arange(5))[0]


def use(memory, key):
  """Every function of a memory, in one program."""
  state = fill(memory, key)
  removed = memory.remove(state, lambda rows: rows["id"] % 2 == 1)
  none = memory.remove(state, lambda rows: rows["id"] >= 0)
  return {
    "state": state,
    "contents": memory.contents(state),
    "sample": memory.sample(jax.random.key(1), state, 8),
    "idle": memory.add(jax.random.key(5), state, make(jnp.arange(B) + 200), jnp.zeros(B)),
    "removed": memory.contents(removed),
    "removed_sample": memory.sample(jax.random.key(1), removed, M),
    "none": none,
    "again": memory.contents(memory.add(jax.random.key(2), none, make(jnp.array([5, 6, 7])), jnp.ones(3))),
  }


@pytest.fixture(scope="module", params=MEMORIES)
def case(request):
  memory = MEMORIES[request.param]
  return memory, jax.device_get(jax.jit(lambda key: use(memory, key))(jax.random.key(0)))


def equal(a, b):
  for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert u.dtype == v.dtype
    np.testing.assert_array_equal(np.asarray(u, np.float64), np.asarray(v, np.float64))


def whole(rows, weight=None):
  """The fields of each row belong together; a row of weight 0 is zero."""
  ids = rows["id"]
  weight = np.ones(len(ids)) if weight is None else weight
  assert np.all(ids[weight == 0] == 0)
  for name, value in jax.device_get(make(ids)).items():
    np.testing.assert_array_equal(rows[name].astype(np.float64), value.astype(np.float64))
    assert rows[name].dtype == EXAMPLE[name].dtype
  return ids[weight > 0]


def test_stored_rows_are_whole_distinct_and_real(case):
  _, got = case
  rows, weight = got["contents"]
  ids = whole(rows)
  assert weight.tolist() == [1.0] * M
  assert len(set(ids)) == M
  assert np.all(ids % 4 > 0)


def test_sampled_rows_are_whole_and_distinct(case):
  _, got = case
  rows, weight = got["sample"]
  assert weight.tolist() == [1.0] * 8
  assert len(set(whole(rows))) == 8
  assert set(rows["id"]) <= set(got["contents"][0]["id"])


def test_empty_rows_change_nothing(case):
  _, got = case
  equal(got["idle"], got["state"])


def test_remove_erases_and_packs(case):
  _, got = case
  even = sorted(i for i in got["contents"][0]["id"] if i % 2 == 0)
  assert 0 < len(even) < M
  assert sorted(whole(*got["removed"])) == even
  assert sorted(whole(*got["removed_sample"])) == even
  assert got["removed_sample"][1].tolist() == [1.0] * len(even) + [0.0] * (M - len(even))
  assert not any(v.astype(np.float64).any() for v in jax.tree.leaves(got["none"].rows))
  assert sorted(whole(*got["again"])) == [5, 6, 7]


def test_slots_written_in_one_call_are_distinct(case, monkeypatch):
  """A scatter with duplicates has no defined order on accelerators; on a CPU the last happens to win, hiding it."""
  memory, got = case
  state = jax.tree.map(jnp.asarray, got["state"])
  written = []
  write = slots.write
  monkeypatch.setattr(slots, "write", lambda rows, new, at: written.append(at) or write(rows, new, at))

  def slots_of(key):
    written.clear()
    memory.add(key, state, make(np.arange(B) + 100), jnp.ones(B))
    return jnp.stack(written)

  at = np.asarray(jax.jit(jax.vmap(slots_of))(jax.random.split(jax.random.key(0), 50)))
  assert at.shape[2] == B
  assert all(len(set(a.tolist())) == B for a in at.reshape(-1, B))
  assert (at < M).any()


def test_vmap_equals_a_single_run(case):
  memory, got = case
  many = jax.jit(jax.vmap(lambda k: fill(memory, k)))(jnp.stack([jax.random.key(3), jax.random.key(0)]))
  equal(jax.tree.map(lambda v: v[1], many), got["state"])


def test_a_scan_of_add_and_sample_does_not_copy_the_buffer(case):
  """The compiled loop holds no copy of a [capacity, D] leaf: writing before reading updates it in place."""
  memory, _ = case

  def run(key, state, ids):
    def step(state, i):
      state = memory.add(jax.random.fold_in(key, i[0]), state, make(i), jnp.ones(4))
      rows, weight = memory.sample(jax.random.fold_in(key, 7), state, 4)
      return state, (rows["x"].sum(), weight.sum())

    return jax.lax.scan(step, state, ids)

  args = (jax.random.key(0), memory.init(EXAMPLE), jnp.ones((5, 4), jnp.int32))
  text = jax.jit(run, donate_argnums=1).lower(*args).compile().as_text()
  assert f"u8[{M},{D}]" in text
  assert [line for line in text.splitlines() if " copy(" in line and f"= u8[{M},{D}]" in line] == []
