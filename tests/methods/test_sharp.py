"""SHARP against NumPy: which units are mature, what stands, what is dropped, and the loss on stored hidden values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import batch_of, cross_entropy, leaves

from cljax import memory as memories
from cljax import methods, models
from cljax.core.types import UsageError
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods.replay import sharp

MODEL = models.mlp((4, 4, 1), 4, hidden=(8, 7, 6))
OPTIONS = {"share": 0.6, "capacity": 6, "replay_batch": 6, "layer": "hidden_1"}
UPPER = ("hidden_1", "hidden_2")
BENCHES: dict = {}


def bench_of(stream, **more):
  """Under momentum and weight decay, which would move what only has no gradient."""
  key = repr(sorted(more.items()))
  if key not in BENCHES:
    optimizer = recipe.make_optimizer("momentum", learning_rate=0.05, weight_decay=0.1)
    BENCHES[key] = Bench("sharp", stream, MODEL, {**OPTIONS, **more}, optimizer=optimizer)
  return BENCHES[key]


def dense(p, name, x):
  return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def layers_by_hand(params, x):
  """Hidden values of all layers, and logits."""
  p, h, out = leaves(params), np.asarray(x, np.float64).reshape(len(x), -1), []
  for i in range(3):
    h = np.maximum(dense(p, f"hidden_{i}", h), 0)
    out.append(h)
  return out, dense(p, "head", h)


def upper_by_hand(params, v):
  p = leaves(params)
  for name in UPPER:
    v = np.maximum(dense(p, name, v), 0)
  return dense(p, "head", v)


def fewest(mass, share):
  """The units of one class, in falling order of their mass until they hold the share."""
  chosen, held = set(), 0.0
  for i in np.argsort(-mass):
    if held >= share * mass.sum() or mass[i] == 0:
      break
    chosen.add(int(i))
    held += mass[i]
  return chosen


def rows_of_task(stream, task):
  rows = stream.train[task]
  return stream.dataset.train.x[rows], stream.dataset.train.y[rows]


def said_by(bench, learner):
  x = bench.stream.dataset.test.x
  return np.asarray(jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))(learner))


@pytest.fixture(scope="module")
def trained(class_stream):
  bench = bench_of(class_stream)
  before = bench.steps(bench.boundary("start_task", bench.start(), 0, ()), 0, 4)
  one = bench.boundary("end_task", before, 0, ())
  begun = bench.boundary("start_task", one, 1, (0,))
  return bench, before, one, begun, bench.steps(begun, 1, 4, met=(0,))


@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_the_fewest_units_that_hold_a_share(share):
  rng = np.random.default_rng(0)
  mass = rng.uniform(size=(5, 9)) * (rng.uniform(size=(5, 9)) < 0.7)
  mass[3] = 0
  got = np.asarray(sharp.covering(jnp.float32(mass), share))
  for c in range(5):
    assert set(np.flatnonzero(got[c])) == fewest(mass[c], share)
  assert not got[3].any()
  assert (got.sum(1)[[0, 1, 2, 4]] > 0).all()


def test_one_unit_that_holds_the_share_exactly_is_enough():
  assert np.asarray(sharp.covering(jnp.float32([[1.0, 2.0, 1.0]]), 0.5)).tolist() == [[False, True, False]]


def test_mature_units_are_those_of_each_class_of_the_task(trained, class_stream):
  _, before, one, _, both = trained
  for learner, task, kept in ((before, 0, one), (both, 1, None)):
    x, y = rows_of_task(class_stream, task)
    hidden = layers_by_hand(learner.params, x)[0]
    if kept is None:
      kept = trained[0].boundary("end_task", both, 1, (0,))
    for i in (1, 2):
      found = set().union(*(fewest(hidden[i][y == c].sum(0), 0.6) for c in np.unique(y)))
      earlier = set(np.flatnonzero(learner.method_state.mature[str(i)]))
      assert set(np.flatnonzero(kept.method_state.mature[str(i)])) == found | earlier
      assert task or 0 < len(found) < hidden[i].shape[1]
    assert np.asarray(kept.method_state.done).tolist() == ([True, True, False, False] if task == 0 else [True] * 4)


def test_absent_rows_make_no_unit_mature_and_are_not_stored(trained, class_stream):
  """A task of which one row is left: its own units alone, for its class alone, and this row is what is stored."""
  bench, before, *_ = trained
  rows = np.asarray(class_stream.train[0], np.int32)
  args = (jnp.asarray(rows), jnp.zeros(len(rows), jnp.int32), jnp.int32(1))
  ended = bench.call("end_task", before, jnp.asarray(True), bench.data, bench.where(0), *args)
  x, y = class_stream.dataset.train.x[rows[:1]], class_stream.dataset.train.y[rows[:1]]
  hidden = layers_by_hand(before.params, x)[0]
  for i in (1, 2):
    assert set(np.flatnonzero(ended.method_state.mature[str(i)])) == fewest(hidden[i][0], 0.6)
  assert np.flatnonzero(ended.method_state.done).tolist() == y.tolist()
  assert bench_memory(ended)[0]["id"].tolist() == rows[:1].tolist()


def test_mature_units_read_no_young_ones(trained):
  """What is dropped is 0 from then on; all else is as it was trained."""
  _, before, one, _, both = trained
  m = {i: np.asarray(v) for i, v in one.method_state.mature.items()}
  gone = {
    "hidden_2/kernel": ~m["1"][:, None] & m["2"][None],
    "head/kernel": ~m["2"][:, None] & (np.arange(4) < 2)[None],
  }
  now, then, later = leaves(one.params), leaves(before.params), leaves(both.params)
  for name, a in now.items():
    want = np.where(gone[name], 0, then[name]) if name in gone else then[name]
    np.testing.assert_array_equal(a, want)
  for name, where in gone.items():
    assert where.any()
    assert not later[name][where].any()


def test_what_is_mature_stands_and_answers_as_it_did(trained):
  """To the bit, whatever momentum and decay the optimizer has; young units and new outputs learn."""
  bench, _, one, begun, both = trained
  a, b = leaves(begun.params), leaves(both.params)
  for i, name in (("1", "hidden_1"), ("2", "hidden_2")):
    mature = np.asarray(one.method_state.mature[i])
    for leaf in (f"{name}/kernel", f"{name}/bias"):
      np.testing.assert_array_equal(a[leaf][..., mature], b[leaf][..., mature])
    assert (a[f"{name}/kernel"][:, ~mature] != b[f"{name}/kernel"][:, ~mature]).any()
  for leaf in ("head/kernel", "head/bias"):
    np.testing.assert_array_equal(a[leaf][..., :2], b[leaf][..., :2])
    assert (a[leaf][..., 2:] != b[leaf][..., 2:]).any()
  for leaf in ("hidden_0/kernel", "hidden_0/bias"):
    np.testing.assert_array_equal(a[leaf], b[leaf])
  first, then = said_by(bench, one), said_by(bench, both)
  np.testing.assert_array_equal(first[:, :2], then[:, :2])
  assert (first[:, 2:] != then[:, 2:]).any()


def test_stored_are_hidden_values_of_the_last_task_alone(trained, class_stream):
  bench, _, one, _, both = trained
  ended = bench.boundary("end_task", both, 1, (0,))
  for learner, task in ((one, 0), (ended, 1)):
    kept, there = bench_memory(learner)
    assert there.sum() == 6
    assert sorted(np.bincount(kept["y"], minlength=4)) == [0, 0, 3, 3]
    assert set(kept["task"].tolist()) == {task}
    rows = kept["id"]
    assert set(rows.tolist()) <= set(np.asarray(class_stream.train[task]).tolist())
    x = class_stream.dataset.train.x[rows]
    np.testing.assert_allclose(kept["x"], layers_by_hand(learner.params, x)[0][0], rtol=1e-5, atol=1e-5)


def bench_memory(learner):
  memory = memories.class_balanced(OPTIONS["capacity"], 4)
  rows, weight = memory.contents(learner.method_state.memory)
  there = np.asarray(weight) > 0
  return {k: np.asarray(v)[there] for k, v in rows.items()}, there


def test_sharp_s_loss_is_of_the_step_s_rows_and_stored_values(trained):
  """All stored ones are in each step here; in the first task none is. The step goes down that loss."""
  bench, before, _, _, both = trained
  x, y = batch_of(bench, 0, 4)
  want = cross_entropy(layers_by_hand(before.params, x)[1], y).mean()
  np.testing.assert_allclose(float(bench.step(before, *bench.arguments(0, 4))[2]), want, rtol=1e-5)
  kept, _ = bench_memory(both)
  x, y = batch_of(bench, 1, 4)

  def loss(params):
    new = cross_entropy(layers_by_hand(params, x)[1], y)
    old = cross_entropy(upper_by_hand(params, np.float64(kept["x"])), kept["y"])
    return (new.sum() + old.sum()) / 14

  got = float(bench.step(both, *bench.arguments(1, 4, met=(0,)))[2])
  np.testing.assert_allclose(got, loss(both.params), rtol=1e-5)
  plain = Bench("sharp", bench.stream, MODEL, OPTIONS)  # the same under SGD of rate 0.1, whose step is the slope
  start = plain.boundary("start_task", plain.train(3, (0,)), 1, (0,))
  kept, _ = bench_memory(start)
  x, y = batch_of(plain, 1, 0)
  after = plain.step(start, *plain.arguments(1, 0, met=(0,)))[0]
  now = jax.tree.map(lambda a: np.asarray(a, np.float64), start.params)
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / -0.1, after.params, now)
  free = jax.tree.map(lambda s: s != 0, step)
  rng = np.random.default_rng(0)
  for _ in range(3):
    direction = jax.tree.map(lambda f: f * rng.normal(size=f.shape), free)
    at = lambda t, d=direction: loss(jax.tree.map(lambda p, d: p + t * d, now, d))
    slope = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(slope, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=2e-3, atol=1e-5)


def test_lower_layers_train_in_the_first_task_or_never(trained, class_stream):
  bench, before, *_ = trained
  assert (leaves(bench.start().params)["hidden_0/kernel"] != leaves(before.params)["hidden_0/kernel"]).all()
  frozen = bench_of(class_stream, first_task="frozen")
  one = frozen.train(3, (0,))
  np.testing.assert_array_equal(frozen.start().params["hidden_0"]["kernel"], one.params["hidden_0"]["kernel"])
  assert (leaves(one.params)["hidden_1/kernel"] != leaves(frozen.start().params)["hidden_1/kernel"]).any()


def test_outputs_of_a_task_that_comes_back_learn_again(trained):
  bench, _, _, _, both = trained
  ended = bench.boundary("end_task", both, 1, (0,))
  back = bench.boundary("start_task", ended, 0, (0, 1))
  after = bench.step(back, *bench.arguments(0, 0, met=(0, 1)))[0]
  a, b = leaves(back.params)["head/bias"], leaves(after.params)["head/bias"]
  assert (a[:2] != b[:2]).all()
  np.testing.assert_array_equal(a[2:], b[2:])


def test_stored_values_of_deleted_rows_go(trained):
  bench, _, one, *_ = trained
  kept, _ = bench_memory(one)
  gone = np.zeros(bench.spec.num_rows, bool)
  gone[kept["id"][::2]] = True
  left = jax.jit(bench.parts.scrub)(one, jnp.asarray(gone), jnp.zeros(4, bool))
  rows, _ = bench_memory(left)
  assert set(rows["id"].tolist()) == set(kept["id"][1::2].tolist())
  held = lambda learner: {
    a.tobytes() for m in jax.tree.leaves(learner.method_state.memory) if m.shape == (6, 8) for a in np.asarray(m)
  }
  values = {a.tobytes() for a in kept["x"][::2] if a.any()}  # zeros are what is left of a row
  assert len(values) > 1
  assert values <= held(one)
  assert not values & held(left)
  np.testing.assert_array_equal(left.method_state.mature["1"], one.method_state.mature["1"])


def test_of_a_network_cut_at_its_outputs_these_alone_stand(class_stream, small_model):
  bench = Bench("sharp", class_stream, small_model, {"capacity": 8})
  one = bench.train(3, (0,))
  assert one.method_state.mature == {}
  both = bench.steps(bench.boundary("start_task", one, 1, (0,)), 1, 2, met=(0,))
  a, b = leaves(one.params), leaves(both.params)
  np.testing.assert_array_equal(a["hidden_0/kernel"], b["hidden_0/kernel"])
  np.testing.assert_array_equal(a["head/kernel"][:, :2], b["head/kernel"][:, :2])
  assert (a["head/kernel"][:, 2:] != b["head/kernel"][:, 2:]).any()


def test_what_sharp_refuses(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match="'sharp' needs a model that names its units"):
    methods.make("sharp", small_model._replace(units=()), spec)
  state = lambda key: (small_model.init(key)[0], {"mean": jnp.zeros(2)})
  with pytest.raises(UsageError, match="'sharp' needs a network that keeps no state"):
    methods.make("sharp", small_model._replace(init=state), spec)
