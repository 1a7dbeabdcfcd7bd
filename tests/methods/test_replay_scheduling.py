"""Replay scheduling against NumPy in float64, and the search among schedules."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves, near

from cljax import methods, models, streams
from cljax.core.types import Batch, UsageError
from cljax.methods.replay import replay_schedules as schedules

HYPER = {"capacity": 7, "replay_batch": 7, "history": 6, "schedule": "1/2-0"}


@pytest.fixture(scope="module")
def bench(make_blobs):
  stream = streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.125)
  return Bench("replay_scheduling", stream, models.mlp((4, 4, 1), 6, hidden=(8,)), HYPER)


@pytest.fixture(scope="module")
def begun(bench):
  """Learners where the second and the third task begin."""
  first = bench.train(3, (0,))
  second = bench.boundary("start_task", first, 1, (0,))
  third = bench.boundary("start_task", bench.boundary("end_task", second, 1, (0,)), 2, (0, 1))
  return second, third


def test_shares_are_all_multisets_and_schedules_have_numbers():
  """C(2 t - 1, t) shares; 1050 schedules of five tasks, each with its own number; equal shares are one of them."""
  assert [len(schedules.shares(t)) for t in range(1, 7)] == [math.comb(2 * t - 1, t) for t in range(1, 7)]
  for t in range(1, 5):
    every = {c for c in itertools.product(range(t + 1), repeat=t) if sum(c) == t}
    assert set(schedules.shares(t)) == every
    assert len(schedules.shares(t)) == len(every)
  whole = {schedules.schedule_of(n, 5) for n in range(1050)}
  assert len(whole) == 1050
  assert all(schedules.number_of(schedules.schedule_of(n, 5)) == n for n in range(1050))
  ets = tuple((1,) * t for t in range(1, 5))
  assert ets in whole
  np.testing.assert_array_equal(schedules.equal(5)[1:5], [[*s, *(0,) * (5 - len(s))] for s in ets])
  for n in (0, 7, 533, 1049):
    text = "/".join("-".join(map(str, s)) for s in schedules.schedule_of(n, 5))
    np.testing.assert_array_equal(
      jax.jit(schedules.numbered, static_argnums=1)(jnp.float32(n), 5), schedules.written(text, 5)
    )
  np.testing.assert_array_equal(schedules.equal(5)[[0, 5]], [np.zeros(5), np.ones(5)])


def by_hand(share, total, there):
  """Floors, then rounds of one row each to those of positive share that have more, the largest fraction first."""
  part = [s * total / sum(share) if sum(share) else 0 for s in share]
  count = [min(int(p + 1e-9), n) for p, n in zip(part, there, strict=True)]
  order = sorted(range(len(share)), key=lambda i: -(part[i] - int(part[i] + 1e-9)))
  while sum(count) < total:
    given = False
    for i in order:
      if share[i] > 0 and count[i] < there[i] and sum(count) < total:
        count[i] += 1
        given = True
    if not given:
      break
  return count


def test_the_memory_is_filled_by_shares():
  rng = np.random.default_rng(0)
  fill = jax.jit(schedules.filled, static_argnums=3)
  for _ in range(60):
    share, there = rng.integers(0, 4, 4), rng.integers(0, 9, 4)
    total = int(rng.integers(0, 14))
    got = fill(jnp.asarray(share, jnp.float32), total, jnp.asarray(there, jnp.int32), 14)
    assert got.tolist() == by_hand(share.tolist(), total, there.tolist())
    assert int(got.sum()) == min(total, int(there[share > 0].sum()))


def test_a_history_of_each_task_is_kept_class_by_class(bench, begun):
  """Its rows are the task's, as many of each class; drawn, not the first."""
  state, y = begun[1].method_state, bench.stream.dataset.train.y
  ids = np.asarray(state.rows["id"]).reshape(3, 6)
  assert (ids[2] == -1).all()
  np.testing.assert_array_equal(state.stored, [6, 6, 0])
  for t in (0, 1):
    pool = np.asarray(bench.stream.train[t])
    assert set(ids[t]) <= set(pool)
    assert len(set(ids[t])) == 6
    labels = y[ids[t]].reshape(3, 2)
    np.testing.assert_array_equal(np.sort(labels, 1), np.tile(np.unique(y[pool]), (3, 1)))
    assert set(ids[t]) != {i for c in np.unique(y[pool]) for i in pool[y[pool] == c][:3]}
  np.testing.assert_array_equal(np.asarray(state.rows["y"])[:12], y[ids[:2].ravel()])
  back = bench.boundary("end_task", begun[1], 0, (0, 1)).method_state  # a task that comes back keeps its block
  np.testing.assert_array_equal(back.stored, [6, 6, 0])
  np.testing.assert_array_equal(back.slots, state.slots)
  again = np.asarray(back.rows["id"]).reshape(3, 6)
  np.testing.assert_array_equal(again[1], ids[1])
  assert set(again[0]) <= set(np.asarray(bench.stream.train[0]))


def test_a_step_replays_what_the_schedule_has_in_memory(bench, begun):
  """'1/2-0': of the first task all six, then six and none of the second; the mean is over new and replayed rows."""
  second, third = begun
  for learner, task in ((second, 1), (third, 2)):
    state = learner.method_state
    np.testing.assert_array_equal(state.in_use, [6, 0, 0])
    ids = np.asarray(state.rows["id"])[:6]
    split = bench.stream.dataset.train
    own = batch_of(bench, task, 0)
    x, y = np.concatenate([own[0], split.x[ids]]), np.concatenate([own[1], split.y[ids]])
    after, _, loss = bench.step(learner, *bench.arguments(task, 0))
    np.testing.assert_allclose(float(loss), cross_entropy(forward(learner.params, x)[1], y).mean(), rtol=1e-5)
    slope = gradient(learner.params, x, y)
    near(after.params, {n: p - RATE * slope[n] for n, p in leaves(learner.params).items()})
  first = bench.start()
  _, _, loss = bench.step(first, *bench.arguments(0, 0))
  x, y = batch_of(bench, 0, 0)
  np.testing.assert_allclose(float(loss), cross_entropy(forward(first.params, x)[1], y).mean(), rtol=1e-5)


def test_numbers_texts_and_reserves_fill_the_memory(bench, begun):
  """A number is its text; rows of each class are set aside before, where there is room."""
  third = begun[1]

  def in_use(**given):
    own = methods.make("replay_scheduling", None, bench.spec, **{"history": 6, "capacity": 7, **given})
    task = bench.where(2, (0, 1))
    told = jax.jit(lambda l: own.start_task(jax.random.key(0), l, type("T", (), {"visit": task.visit})))(third)
    return told.method_state.in_use.tolist()

  assert in_use() == [4, 3, 0]
  assert in_use(schedule="1/0-2") == [0, 6, 0]
  number = float(schedules.number_of([(1,), (0, 2)]))
  assert in_use(schedule="numbered", number=number) == [0, 6, 0]
  assert in_use(schedule="1") == [4, 3, 0]
  assert in_use(schedule="1/0-2", reserve=True) == [2, 5, 0]
  assert in_use(schedule="1/0-2", reserve=True, capacity=3) == [0, 3, 0]
  assert in_use(schedule="1/0-2", reserve=True, capacity=4) == [2, 2, 0]
  spec = bench.spec
  for text in ("1/2", "1/0-0", "2-1", "1/x-1", "1/1-1/1-1-1", ""):
    with pytest.raises(UsageError, match=r"method\.schedule: got .*; expected 'equal', 'numbered' or counts such as"):
      methods.make("replay_scheduling", None, spec, schedule=text)
  with pytest.raises(UsageError, match=r"method\.schedule: got 'numbered' for 7 tasks; expected at most 6"):
    methods.make("replay_scheduling", None, spec._replace(num_tasks=7), schedule="numbered")
  assert methods.make("replay_scheduling", None, spec._replace(num_tasks=6), schedule="numbered").prepare
  with pytest.raises(UsageError, match=r"method\.number: got 3\.0, which 'replay_scheduling' does not read"):
    methods.make("replay_scheduling", None, spec, number=3.0)


def test_rows_in_memory_are_drawn_alike(bench, begun):
  """Without replacement, and none that the schedule leaves out; as many as are asked for, at most the memory."""
  third = begun[1]
  own = methods.make("replay_scheduling", None, bench.spec, history=6, capacity=7, replay_batch=3)
  state = third.method_state._replace(in_use=jnp.array([2, 3, 0], jnp.int32))
  learner = third._replace(method_state=state)
  number = jnp.full(8, 2, jnp.int32)
  batch = Batch(
    jnp.zeros((8, 4, 4, 1)), number, jnp.ones(8), number, number, visit=bench.where(2).visit, fresh=jnp.ones(8)
  )
  draw = lambda key: own.prepare(key, learner, batch)[1].id[8:]
  ids = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 3000)))
  assert ids.shape == (3000, 3)
  assert all(len(set(i)) == 3 for i in ids[:50])
  held = np.asarray(state.rows["id"])[[0, 1, 6, 7, 8]]
  np.testing.assert_allclose([(ids == i).sum() / 3000 for i in held], 0.6, atol=0.04)
  small = methods.make("replay_scheduling", None, bench.spec, history=6, capacity=2)
  assert small.prepare(jax.random.key(0), learner, batch)[1].weight.shape == (10,)
  plain = methods.make("replay_scheduling", None, bench.spec, history=6, capacity=30)
  assert plain.prepare(jax.random.key(0), learner, batch)[1].weight.tolist() == [1] * 13 + [0] * 3


def test_a_history_forgets_rows_and_closes_up(bench, begun):
  """In each block; the memory is what is left of it until the next task."""
  third = begun[1]
  state = third.method_state
  ids = np.asarray(state.rows["id"])
  out = ids[[0, 3, 7]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[out].set(True)
  left = jax.jit(bench.parts.scrub)(third, named, jnp.zeros(6, bool)).method_state
  np.testing.assert_array_equal(left.stored, [4, 5, 0])
  np.testing.assert_array_equal(left.in_use, [4, 0, 0])
  want = [[*(i for i in ids[6 * t : 6 * t + 6] if i not in out)] for t in (0, 1)]
  np.testing.assert_array_equal(np.asarray(left.rows["id"])[:4], want[0])
  np.testing.assert_array_equal(np.asarray(left.rows["id"])[6:11], want[1])
  assert (np.asarray(left.rows["id"])[[4, 5, 11]] == -1).all()
  assert not np.asarray(left.rows["x"])[[4, 5, 11]].any()
  np.testing.assert_array_equal(np.asarray(left.rows["x"])[6:11], bench.stream.dataset.train.x[want[1]])


def test_the_search_finds_the_best_schedule():
  """All 30 schedules of four tasks, in the end; the best so far never falls; each is asked for once, and as many
  together as are wanted. Shares are tried from the end of their list."""
  value = np.random.default_rng(0).uniform(size=30)
  for together in (1, 8):
    asked: list[list[int]] = []

    def reward(numbers, asked=asked):
      asked.append(numbers)
      return [float(value[n]) for n in numbers]

    number, best, path = schedules.tree_search(reward, 4, 400, exploration=2.0, together=together)
    flat = [n for a in asked for n in a]
    assert len(set(flat)) == len(flat) == 30
    assert max(map(len, asked)) <= together
    assert number == value.argmax()
    assert best == value.max() == path[-1]
    assert len(path) == 400
    assert (np.diff(path) >= 0).all()
    second = [schedules.shares(2).index(schedules.schedule_of(n, 4)[1]) for n in flat]
    if together == 1:
      assert second[1:4] == [2, 1, 0]  # behind the first, of which the shares behind one task are tried
  assert schedules.tree_search(lambda n: [0.0] * len(n), 2, 3)[2] == [0.0] * 3
  for tasks in (1, 7):
    with pytest.raises(UsageError, match=f"tasks: got {tasks}; expected 2 to 6, as a schedule is a number"):
      schedules.tree_search(lambda n: n, tasks, 1)


def test_the_search_follows_the_largest_reward_not_the_mean():
  """A share that was good once is followed, though it is bad otherwise."""
  assert schedules.upper_bound([0.1, 0.7, 0.2], 9, 3, 0.1) == pytest.approx(0.7 + 0.1 * np.sqrt(2 * np.log(9) / 3))
  walked: list[int] = []
  schedules.tree_search(lambda numbers: walked.extend(numbers) or [0.5] * len(numbers), 4, 4)
  good = walked[2]  # where the share behind two tasks that is tried second is tried
  inside = lambda n: schedules.schedule_of(n, 4)[1] == schedules.shares(2)[1]
  assert inside(good)
  asked: list[int] = []

  def reward(numbers):
    asked.extend(numbers)
    return [1.0 if n == good else 0.0 if inside(n) else 0.6 for n in numbers]

  number, best, path = schedules.tree_search(reward, 4, 40, exploration=0.01)
  assert (number, best) == (good, 1.0)
  assert asked[:4] == walked
  assert all(map(inside, asked[4:]))
  assert len({n for n in asked if inside(n)}) == 10  # all there are
  assert path == [0.6, 0.6, *[1.0] * 38]
