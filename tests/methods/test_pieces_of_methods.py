"""What methods are put together from, by hand: rows that are offered and appended, slots of tasks, the classifier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench

from cljax import memory as memories
from cljax import methods, models, streams
from cljax.core.types import Batch, UsageError, Visit
from cljax.engine.setup import spec_of
from cljax.methods import heads
from cljax.methods.masks import pruning
from cljax.methods.replay import buffers as replay
from cljax.methods.replay import unified
from cljax.methods.slots import no_slots, slot_of

BATCH = 8


def rows(n, **fields):
  whole = jnp.zeros(n, jnp.int32)
  return Batch(jnp.zeros((n, 4, 4, 1)), whole, jnp.ones(n), whole, whole)._replace(**fields)


def test_the_pieces_of_replay(class_stream):
  spec = spec_of(class_stream, BATCH)
  weight, fresh = jnp.float32([1, 1, 0, 0, 1, 1, 1, 1]), jnp.float32([1, 0, 1, 0, 1, 1, 0, 1])
  batch = replay.append(rows(BATCH, weight=weight, fresh=fresh), rows(2), scale=0.3)
  np.testing.assert_array_equal(replay.offered(spec, batch, "once"), [1, 0, 0, 0, 1, 1, 0, 1])
  np.testing.assert_array_equal(replay.offered(spec, batch, "every_pass"), weight)
  np.testing.assert_array_equal(batch.fresh, [*fresh, 0, 0])
  np.testing.assert_array_equal(batch.group, [0] * BATCH + [1, 1])
  np.testing.assert_allclose(batch.scale, [1, 0.3], rtol=1e-6)
  assert replay.grouped(batch) is batch
  np.testing.assert_array_equal(replay.places(batch, 3), [10, 11, 12])
  found = replay.at_places(jnp.arange(8, dtype=jnp.bfloat16).reshape(4, 2), jnp.int32([1, 2]))
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, [[2, 3], [4, 5]])
  stored = {
    "x": jnp.zeros((3, 2)),
    "y": jnp.zeros(3, jnp.int32),
    "id": jnp.int32([7, 8, 9]),
    "task": jnp.zeros(3, jnp.int32),
  }
  np.testing.assert_array_equal(replay.drawn(spec, stored, jnp.float32([1, 0, 1])).id, [7, -1, 9])
  memory = memories.ring(6, 2)
  state = replay.start(memory, spec, replay.example_row(spec))
  np.testing.assert_array_equal(state.pending["id"], -1)  # of no row
  empty = {k: v for k, v in state.pending.items() if k != "id"}
  for leaf in jax.tree.leaves((empty, state.weight, state.memory.rows, state.memory.seen)):
    np.testing.assert_array_equal(leaf, 0)
  state = state._replace(pending={**state.pending, "id": jnp.arange(8, dtype=jnp.int32)}, weight=fresh)
  filled = jax.jit(lambda s: replay.insert_pending(jax.random.key(0), memory, s))(state)
  np.testing.assert_array_equal(filled.weight, 0)
  np.testing.assert_array_equal(np.sort(np.asarray(filled.memory.rows["id"])[:3]), [4, 5, 7])


SMALL = [(n, 3) for n in ("er_ace", "er_aml", "mir", "gss", "scr", "cls_er", "hal", "fdr", "cal")]
SMALL += [(n, 4) for n in ("icarl", "wa", "lucir", "podnet", "eeil", "xder")]


@pytest.mark.parametrize(("name", "capacity"), SMALL)
def test_a_memory_smaller_than_the_batch_is_drawn_whole(name, capacity, class_stream, small_model):
  """A memory that is smaller than the batch is drawn whole, once, by xder twice; er_aml draws two partners for each row
  beside it."""
  bench = Bench(name, class_stream, small_model, {"capacity": capacity, "replay_batch": 0})
  batch = rows(BATCH)._replace(
    x=jnp.zeros((BATCH, 4, 4, 1)), visit=Visit.in_order(0, 2), fresh=jnp.ones(BATCH), task=jnp.zeros(BATCH, jnp.int32)
  )
  made = methods.make(name, small_model, bench.spec, capacity=capacity)
  more = jax.eval_shape(made.prepare, jax.random.key(0), bench.start(), batch)[1]
  assert more.weight.shape == (BATCH + capacity * (1 + (name == "xder")) + 2 * BATCH * (name == "er_aml"),)


def test_a_task_has_the_slot_in_which_it_was_met():
  slots, found = no_slots(type("", (), {"num_tasks": 4})), []
  nothing = jnp.zeros(4, bool)
  for task in (2, 0, 2, 3, 0):
    slot, slots = slot_of(slots, Visit(jnp.int32(task), nothing, nothing))
    found.append(int(slot))
  assert found == [0, 1, 0, 2, 1]
  np.testing.assert_array_equal(slots, [1, -1, 0, 2])


def test_which_leaves_are_the_classifier_and_when_they_are_held(dataset):
  """The last layer of the logits' shape, or the last unit's reader, or what is called head; left alone by 'auto', and
  held for other tasks, where each task has outputs of its own."""
  made = lambda kind, **fields: spec_of(streams.build(dataset, kind, tasks=2, **fields), BATCH)
  spec, shared = made("task"), made("class")
  assert heads.separate(spec)
  assert not heads.separate(shared)
  assert not heads.separate(spec._replace(objective=spec.objective._replace(classes=False)))
  own = {"head/kernel", "head/bias"}
  deep = models.mlp((4, 4, 1), 4, hidden=(4, 4))
  assert heads.classifier(deep, spec) == own
  assert heads.classifier(deep._replace(capture=None), spec) == own
  assert heads.classifier(deep._replace(capture=None, units=()), spec) == own
  assert [heads.separate(s) for s in (spec, shared, made("class", active="task"))] == [True, False, True]
  assert not heads.separate(made("domain", active="task"))
  assert not heads.separate(made("task", active="all"))
  overlap = np.array([[1, 1, 0, 0], [0, 1, 1, 1]], bool)
  assert not heads.separate(spec._replace(classes_of_task=overlap))
  names = ("hidden_0/kernel", "head/kernel", "head/bias")
  left = lambda spec, skip: [n for n in names if (f := heads.skipping(deep, spec, skip)) is not None and f(n)]
  assert [left(spec, s) for s in ("auto", "", "hid")] == [[*names[1:]], [], [names[0]]]
  assert left(shared, "auto") == []
  assert heads.hold_others(deep, spec, "") is None
  assert heads.hold_others(deep, shared, "auto") is None
  visit = Visit(jnp.int32(1), jnp.zeros(2, bool), jnp.zeros(2, bool))
  updates = {"head": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "hidden_0": {"bias": jnp.ones(4)}}
  moved = heads.hold_others(deep, spec, "auto").update(updates, None, visit=visit)[0]
  mine = spec.classes_of_task[1]
  np.testing.assert_array_equal(moved["head"]["bias"], mine)
  np.testing.assert_array_equal(moved["head"]["kernel"], np.broadcast_to(mine, (3, 4)))
  np.testing.assert_array_equal(moved["hidden_0"]["bias"], 1)


@pytest.mark.parametrize("name", ["er", "derpp", "unified", "agem", "gem", "er_agem", "er_gem"])
def test_as_many_rows_are_drawn_as_the_batch_has(name, class_stream, small_model):
  """Unless another number is given, and never more than the memory holds, whose size is ``capacity``."""
  spec = spec_of(class_stream, BATCH)
  visit = Visit.in_order(0, 2)
  for capacity, given, size in ((40, 0, 8), (40, 3, 3), (4, 0, 4)):
    options = {"capacity": capacity}
    key = "reference_batch" if name == "agem" else "replay_batch"
    options.update({key: given} if given and name != "gem" else {})
    bench = Bench(name, class_stream, small_model, options)
    method = methods.make(name, small_model, spec, **options)
    learner = jax.eval_shape(bench.parts.init, jax.random.key(0))
    state = learner.method_state.memory
    stored = getattr(state, "memory", state).rows["y"].shape  # a replay's state holds its memory
    assert stored == (capacity,)
    batch = rows(BATCH, visit=visit, fresh=jnp.ones(BATCH), id=jnp.arange(BATCH, dtype=jnp.int32))
    batch = batch._replace(group=jnp.zeros(BATCH, jnp.int32), scale=jnp.ones(1))
    if name not in ("agem", "gem"):
      prepared = jax.eval_shape(lambda l, m=method, b=batch: m.prepare(jax.random.key(0), l, b)[1], learner)
      assert prepared.y.shape == (BATCH + size * (2 if name == "derpp" else 1),)
    for reference in method.references.values():
      drawn = jax.eval_shape(lambda l, r=reference: r.batch(jax.random.key(0), l), learner).y.shape
      each = {"gem": (2, capacity // 2), "er_gem": (2, min(8, capacity // 2))}
      assert drawn == each.get(name, (size,))


@pytest.mark.parametrize("name", ["agem", "gem", "er_agem", "er_gem"])
def test_an_episodic_memory_holds_a_share_of_each_task(name, make_blobs, small_model):
  """``capacity // tasks`` rows of each finished task, balanced by class; a request erases its rows."""
  stream = streams.build(make_blobs(rows=10), "class", tasks=2, validation=0.0)
  hyper = {"balance": "task"} if name == "er_agem" else {}
  bench = Bench(name, stream, small_model, {"capacity": 13, **hyper})
  learner = bench.boundary("end_task", bench.start(), 1, ())
  learner = bench.boundary("end_task", learner, 0, (1,))
  stored = {k: np.asarray(v) for k, v in learner.method_state.memory.rows.items()}
  split = stream.dataset.train
  np.testing.assert_array_equal(np.bincount(stored["y"]), [3, 3, 3, 3])
  np.testing.assert_array_equal(stored["task"], np.repeat([1, 0], 6))  # in the order in which they were met
  np.testing.assert_array_equal(stored["x"], split.x[stored["id"]])
  np.testing.assert_array_equal(stored["y"], split.y[stored["id"]])
  np.testing.assert_array_equal(learner.method_state.slots, [1, 0])
  assert len(set(stored["id"].tolist())) == 12
  gone = stored["id"][[1, 2, 7]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(learner, named, jnp.zeros(4, bool)).method_state.memory
  np.testing.assert_array_equal(left.seen, [4, 5])
  held = np.r_[np.asarray(left.rows["id"])[:4], np.asarray(left.rows["id"])[6:11]]
  assert set(held.tolist()) == set(stored["id"].tolist()) - set(gone.tolist())
  for capacity in (0, 1):
    with pytest.raises(UsageError, match=r"method\.capacity"):
      methods.make(name, small_model, bench.spec, capacity=capacity, **hyper)


@pytest.mark.parametrize("kind", ["domain", "task"])
def test_a_class_balanced_memory_has_equal_quotas(kind, make_blobs, small_model):
  """Equal quotas for all classes of finished tasks (in task streams for each pair), each filled with rows of its own;
  a task that comes back offers none twice, and a request erases its rows."""
  stream = streams.build(make_blobs(rows=10), kind, tasks=2, validation=0.0)
  bench = Bench("er_agem", stream, small_model, {"capacity": 11})
  learner, offered, held = bench.start(), set(), set()
  for task, met in ((1, ()), (0, (1,)), (1, (1, 0))):
    learner = learner._replace(step=learner.step + 1)
    new = {(task, int(r)) for r in stream.train[task]} if task not in met else set()
    offered |= new
    learner = bench.boundary("end_task", learner, task, met)
    state = learner.method_state.memory
    ids, of = (np.asarray(state.rows[n])[: int(state.count)] for n in ("id", "task"))
    label = {r: int(stream.labels[t][stream.dataset.train.y[r]]) for t, r in offered}
    group = lambda t, r, label=label: (t, label[r]) if kind == "task" else label[r]
    np.testing.assert_array_equal(np.asarray(state.rows["y"])[: len(ids)], [label[r] for r in ids])
    np.testing.assert_array_equal(np.asarray(state.rows["x"])[: len(ids)], stream.dataset.train.x[ids])
    now = set(zip(of.tolist(), ids.tolist(), strict=True))
    assert len(now) == len(ids) == 11
    assert now <= held | new
    held, groups = now, sorted({group(*pair) for pair in offered})
    for i, g in enumerate(groups):
      assert sum(group(*pair) == g for pair in now) == 11 // len(groups) + (i < 11 % len(groups))
  gone = ids[[1, 2, 7]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(learner, named, jnp.zeros(bench.spec.num_classes, bool)).method_state.memory
  assert set(np.asarray(left.rows["id"])[: int(left.count)].tolist()) == set(ids.tolist()) - set(gone.tolist())


def test_er_gem_draws_each_task_s_own_rows(make_blobs, small_model):
  """All of a portion that is not full; of a full one others at each step; never a row that is not there."""
  stream = streams.build(make_blobs(rows=10), "class", tasks=2, validation=0.0)
  few = stream._replace(train=(stream.train[0][:3], stream.train[1]))
  options = {"capacity": 16, "reference_batch": 3}
  bench = Bench("er_gem", few, small_model, options)
  learner = bench.boundary("end_task", bench.start(), 0)
  learner = bench.boundary("end_task", learner, 1)
  method = methods.make("er_gem", small_model, bench.spec, **options)
  draw = jax.jit(lambda key: method.references["replay"].batch(key, learner))
  batches = [draw(jax.random.key(k)) for k in range(4)]
  held = np.asarray(learner.method_state.memory.rows["id"]).reshape(2, 8)
  for b in batches:
    np.testing.assert_array_equal(b.weight, 1)
    assert set(np.asarray(b.id)[0].tolist()) == set(few.train[0].tolist())
    assert len(set(np.asarray(b.id)[1].tolist()) & set(held[1].tolist())) == 3
  assert len({tuple(sorted(np.asarray(b.id)[1].tolist())) for b in batches}) > 1
  with pytest.raises(UsageError, match=r"method\.reference_batch: got 9; the memory holds 8"):
    methods.make("er_gem", small_model, bench.spec, capacity=16, reference_batch=9)


@pytest.mark.parametrize("name", ["er_agem", "er_gem"])
def test_the_mixture_s_scales(name, class_stream, small_model):
  """``w`` for the mean of the current rows and ``1 - w`` for that of stored ones, ``w = 1/2`` beside one other task;
  without stored rows the plain mean, whatever was met."""
  hyper = {"capacity": 10, "replay_batch": 7} | ({"balance": "task"} if name == "er_agem" else {})
  bench = Bench(name, class_stream, small_model, hyper)
  method = methods.make(name, small_model, bench.spec, **hyper)
  weight = jnp.float32([1, 1, 0, 1, 1, 1, 0, 1])
  batch = rows(BATCH, weight=weight, fresh=jnp.ones(BATCH), visit=bench.where(1).visit)
  prepare = jax.jit(lambda l: method.prepare(jax.random.key(0), l, batch)[1])
  start = bench.start()
  found = prepare(start)
  np.testing.assert_array_equal(found.group, [0] * BATCH + [1] * 7)
  np.testing.assert_allclose(found.scale, [1, 0])
  found = prepare(bench.boundary("end_task", start, 0))  # five rows of a task: two of seven are absent
  np.testing.assert_allclose(found.scale, [0.5, 0.5])
  np.testing.assert_array_equal(found.weight, [*np.asarray(weight), *[1] * 5, 0, 0])


def test_no_more_than_samples_rows_are_looked_at(class_stream, small_model):
  """GPM's rank and CUBER's span are those of three rows; CUBER's gradient at both boundaries is of three."""
  gpm = Bench("gpm", class_stream, small_model, {"samples": 3, "threshold": 1.0, "threshold_step": 0.5})
  state = gpm.boundary("end_task", gpm.start(), 1).opt_state.finalize
  assert int(state.ranks["hidden_0/kernel"]) == 3
  sizes = []

  def apply(params, state, x, **kwargs):
    sizes.append(len(x))
    return small_model.apply(params, state, x, **kwargs)

  bench = Bench("cuber", class_stream, small_model._replace(apply=apply), {"samples": 3, "threshold": 1.0})
  start, seen = bench.start(), []
  for hook in ("start_task", "end_task"):
    sizes.clear()
    learner = bench.boundary(hook, start, 0)
    seen.append(set(sizes))
  assert seen == [{3}, {3}]
  kernels = learner.opt_state.transform.kernels
  assert kernels["hidden_0/kernel"].spans.shape == (2, 16, 16)
  assert np.linalg.matrix_rank(np.asarray(kernels["hidden_0/kernel"].spans[0])) == 3
  narrow = jax.eval_shape(
    Bench("cuber", class_stream, small_model, {"max_rank": 5}).parts.init, jax.random.key(0)
  ).opt_state.transform
  assert narrow.kernels["hidden_0/kernel"].spans.shape == (2, 16, 5)


def test_coso_takes_kernels_both_of_whose_sides_are_large_enough(class_stream):
  """``[16, 3]`` and ``[3, 8]`` are too small for a sketch of four, ``[8, 4]`` is not; a bias goes with its kernel."""
  model = models.mlp((4, 4, 1), 4, hidden=(3, 8))
  bench = Bench("coso", class_stream, model, {"rank": 2, "sketch_rank": 4})
  state = jax.eval_shape(bench.parts.init, jax.random.key(0)).opt_state.transform[0]
  assert set(state.kernels) == {"head/kernel"}
  assert state.kernels["head/kernel"].sketch.shape == (4, 4)
  assert state.kernels["head/kernel"].axes.shape == (4, 2)


@pytest.mark.parametrize("on", ["gradient", "update"])
def test_coso_holds_every_bias_once_one_kernel_has_a_direction(on, class_stream, small_model):
  """And the stored kernel's update has nothing along it: here the first output's column."""
  method = methods.make("coso", small_model, spec_of(class_stream, BATCH), rank=2, sketch_rank=3, on=on)
  part = method.transform if on == "gradient" else method.finalize
  params = jax.jit(small_model.init)(jax.random.key(0))[0]
  ones = jax.tree.map(jnp.ones_like, params)
  state, update = part.init(params), jax.jit(lambda s: part.update(ones, s, params)[0])
  first = lambda basis: basis.at[0, 0].set(1.0)
  if on == "gradient":
    kernels = state[0].kernels
    kernel = kernels["head/kernel"]._replace(history=first(kernels["head/kernel"].history), rank=jnp.int32(1))
    stored = (state[0]._replace(kernels={**kernels, "head/kernel": kernel}), *state[1:])
  else:
    stored = state._replace(history={**state.history, "head/kernel": first(state.history["head/kernel"])})
  free, held = update(state), update(stored)
  for layer in ("head", "hidden_0"):
    np.testing.assert_array_equal(free[layer]["bias"], 1)
    np.testing.assert_array_equal(held[layer]["bias"], 0)
  np.testing.assert_allclose(held["head"]["kernel"][:, 0], 0, atol=1e-6)
  assert np.abs(np.asarray(held["head"]["kernel"])[:, 1:]).min() > 1e-3
  assert np.abs(np.asarray(free["head"]["kernel"])).min() > 1e-3


def test_cuber_needs_a_kernel(class_stream, small_model):
  method = methods.make(
    "cuber", small_model._replace(init=lambda key: ({"a": jnp.ones(3)}, {})), spec_of(class_stream, 8)
  )
  with pytest.raises(UsageError, match="kernel"):
    method.transform.init({"a": jnp.ones(3)})


@pytest.mark.parametrize("name", ["gem", "er_gem"])
def test_a_margin_has_no_place_behind_the_optimizer(name, class_stream, small_model):
  made = lambda **options: methods.make(name, small_model, spec_of(class_stream, BATCH), capacity=10, **options)
  with pytest.raises(UsageError, match=r"method\.margin: got 0\.25; on='update' takes 0"):
    made(margin=0.25, on="update")
  assert made(margin=0.25).finalize is None
  behind = made(margin=0.0, on="update")
  assert behind.transform is None
  assert behind.finalize is not None


def test_a_row_without_a_class_has_no_entropy():
  """``log n - H(p)`` over the two classes of one row's mask, and 0 with slope 0 for a row whose mask is empty."""
  f, mask = jnp.float32([[1, 2, 3, 4], [0, 1, 5, 5]]), jnp.array([[0, 0, 0, 0], [1, 1, 0, 0]], bool)
  p = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
  each = lambda f: unified.output_divergence("uniform", f, None, mask)
  np.testing.assert_allclose(jax.jit(each)(f), [0, np.log(2) + (p * np.log(p)).sum()], rtol=1e-5)
  np.testing.assert_array_equal(jax.jit(jax.grad(lambda f: each(f).sum()))(f)[0], 0)


def test_absent_rows_activate_nothing():
  """The mean over the rows that are there and over places, by NumPy."""
  hidden = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
  weight = np.float32([1, 0, 1, 0.5, 0])
  wanted = np.average(np.abs(hidden).mean((1, 2)), axis=0, weights=weight)
  np.testing.assert_allclose(pruning.mean_activity(jnp.asarray(hidden), jnp.asarray(weight)), wanted, rtol=1e-5)
