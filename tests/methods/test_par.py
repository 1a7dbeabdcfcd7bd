"""PAR against NumPy: distances of tasks, who shares an expert, what stands, and the loss of a shared one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import batch_of, cross_entropy, leaves, log_softmax

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods.columns import par

BENCHES: dict = {}


def bench_of(stream, model, **more):
  """Under momentum and weight decay, which would move what only has no gradient."""
  key = repr(sorted(more.items()))
  if key not in BENCHES:
    optimizer = recipe.make_optimizer("momentum", learning_rate=0.05, weight_decay=0.1)
    BENCHES[key] = Bench("par", stream, model, more, optimizer=optimizer)
  return BENCHES[key]


def distance_by_hand(f, y, mu, nu):
  total = 0.0
  for c in np.unique(y):
    own = np.linalg.norm(f[y == c] - mu[c], axis=1)
    far = np.min([np.linalg.norm(f[y == c] - m, axis=1) for m in nu], axis=0)
    total += max(np.mean(np.log(far / own)), 0.0)
  return min(1 - np.exp(-2 * total), total)


def features(params, x, body=None):
  """Of the expert in a place; None: of a plain network."""
  p = leaves(params)
  k, b = p["hidden_0/kernel"], p["hidden_0/bias"]
  k, b = (k, b) if body is None else (k[body], b[body])
  return np.maximum(np.asarray(x, np.float64).reshape(len(x), -1) @ k + b, 0)


def logits(params, x, body, head):
  p = leaves(params)
  return features(params, x, body) @ p["head/kernel"][head] + p["head/bias"][head]


def rows_of_task(stream, task):
  rows = stream.train[task]
  return stream.dataset.train.x[rows], stream.dataset.train.y[rows]


@pytest.fixture(scope="module")
def trained(task_stream, small_model):
  """The bench, the learner after the first task, and the second task begun with an expert of its own and a shared."""
  bench = bench_of(task_stream, small_model)
  one = bench.train(3, (0,))
  begun = {name: bench.boundary("start_task", one, 1, (0,), threshold=t) for name, t in (("own", 0.0), ("shared", 1.0))}
  return bench, one, begun


@pytest.mark.parametrize("near", [0.0, 0.3, 4.0])
def test_the_distance_of_tasks_by_loops(near):
  rng = np.random.default_rng(0)
  y = np.repeat([1, 3], 10)
  centres = 2 * rng.normal(size=(4, 5))
  f = centres[y] + rng.normal(size=(20, 5))
  means = np.zeros((4, 5))
  for c in (1, 3):
    means[c] = f[y == c].mean(0)
  other = np.zeros((4, 5))
  other[[0, 2]] = means[[1, 3]] + near * rng.normal(size=(2, 5))
  counts, theirs = np.array([0, 10, 0, 10]), np.array([7, 0, 7, 0])
  wide = np.r_[f, np.full((3, 5), 9.0)], np.r_[y, 0, 0, 0], np.r_[np.ones(20), np.zeros(3)]
  get = lambda form: float(
    par.distance_of(jnp.float32(wide[0]), jnp.asarray(wide[1]), jnp.float32(wide[2]), jnp.float32(means),
                    jnp.float32(counts), jnp.float32(other), jnp.float32(theirs), form)
  )  # fmt: skip
  want = distance_by_hand(f, y, means, other[[0, 2]])
  np.testing.assert_allclose(get("paper"), want, rtol=1e-4, atol=1e-6)
  assert 0 <= want <= 1
  assert get("released") == (1.0 if near == 0 else get("paper"))
  assert (want == 0) == (near == 0)


def test_released_code_takes_the_nearest_for_the_farthest():
  """Rows at their old means: the distance is 0, and there counts as 1, so that the task would get a new expert."""
  f, y, ones = jnp.float32([[1.0, 0.0], [3.0, 0.0]]), jnp.array([0, 0]), jnp.ones(2)
  means, count = jnp.float32([[2.0, 0.0]]), jnp.ones(1) * 2
  get = lambda form: float(par.distance_of(f, y, ones, means, count, means, count, form))
  assert (get("paper"), get("released")) == (0.0, 1.0)


def test_the_nearest_expert_is_so_in_the_mean():
  of, known = jnp.array([0, 1, 0, 3]), jnp.array([True, True, True, False])
  expert, least = par.nearest_expert(jnp.float32([0.1, 0.4, 0.9, 0.0]), of, known)
  assert (int(expert), round(float(least), 5)) == (1, 0.4)
  expert, least = par.nearest_expert(jnp.float32([0.1, 0.4, 0.5, 0.0]), of, known)
  assert (int(expert), round(float(least), 5)) == (0, 0.3)
  assert np.isinf(float(par.nearest_expert(jnp.zeros(4), of, known & ~known)[1]))


def test_tasks_are_compared_by_the_network_of_the_beginning(trained, task_stream):
  """Means of all rows, the table symmetric; the extractor is as the run began, though the experts have moved."""
  bench, one, begun = trained
  first, state = bench.start(), begun["own"].method_state
  fixed = state.fixed[0]
  for a, b in zip(jax.tree.leaves(fixed), jax.tree.leaves(first.params), strict=True):
    np.testing.assert_array_equal(a, b[0])
    assert (np.asarray(b[0]) == np.asarray(b[1])).all()
  assert (leaves(one.params)["hidden_0/kernel"][0] != leaves(fixed)["hidden_0/kernel"]).any()
  found = [(features(fixed, x), y) for x, y in (rows_of_task(task_stream, t) for t in (0, 1))]
  mean = lambda f, y: np.stack([f[y == c].mean(0) if (y == c).any() else np.zeros(8) for c in range(4)])
  means = [mean(*f) for f in found]
  for t in (0, 1):
    np.testing.assert_allclose(state.means[t], means[t], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(state.counts[t], np.bincount(found[t][1], minlength=4))
  want = distance_by_hand(*found[1], means[1], means[0][:2])
  np.testing.assert_allclose(state.distances, [[0, want], [want, 0]], rtol=1e-4, atol=1e-6)
  assert np.asarray(state.largest).tolist() == [len(found[0][1]), len(found[1][1])]


def test_absent_rows_are_no_rows_of_a_task(trained, task_stream):
  """A task of which only some rows are left: those in the places behind them count for nothing."""
  bench, one, _ = trained
  rows = np.asarray(task_stream.train[1], np.int32)
  left = len(rows) - 7
  args = (jnp.asarray(rows), jnp.full(len(rows), 1, jnp.int32), jnp.int32(left))
  state = bench.call("start_task", one, jnp.asarray(True), bench.data, bench.where(1), *args).method_state
  y = task_stream.dataset.train.y[rows[:left]]
  f = features(state.fixed[0], task_stream.dataset.train.x[rows[:left]])
  np.testing.assert_array_equal(state.counts[1], np.bincount(y, minlength=4))
  for c in range(4):
    np.testing.assert_allclose(state.means[1, c], f[y == c].mean(0) if c in y else np.zeros(8), rtol=1e-4, atol=1e-5)
  means = np.float64(state.means)
  np.testing.assert_allclose(state.distances[0, 1], distance_by_hand(f, y, means[1], means[0][:2]), rtol=1e-4)
  assert float(state.largest[1]) == left


def test_a_far_task_gets_an_expert_and_all_else_stands(trained):
  """To the bit, old answers too."""
  bench, one, begun = trained
  both = bench.steps(begun["own"], 1, 3, met=(0,))
  assert np.asarray(both.model_state.kept).tolist() == [0, 1]
  assert not bool(both.method_state.moves)
  for name, a in leaves(one.params).items():
    b = leaves(both.params)[name]
    np.testing.assert_array_equal(a[0], b[0])
    assert (a[1] != b[1]).any()
  x = jnp.asarray(bench.stream.dataset.test.x)
  said = jax.jit(lambda l: bench.parts.predict(l, x, jnp.int32(0)))
  np.testing.assert_array_equal(said(one), said(both))


def test_a_near_task_shares_the_expert_and_holds_old_heads(trained):
  """CE of its own head, and KL of the old head's softmax over its own classes; 0 in the first step."""
  bench, one, begun = trained
  start = begun["shared"]
  assert np.asarray(start.model_state.kept).tolist() == [0, 0]
  assert bool(start.method_state.moves)
  assert np.asarray(start.method_state.largest)[0] >= len(bench.stream.train[0])
  x, y = batch_of(bench, 1, 0)
  step = lambda learner, k, **more: bench.step(learner, *bench.arguments(1, k, met=(0,)), **more)
  want = cross_entropy(logits(start.params, x, 0, 1)[:, 2:], y - 2).mean()
  for strength in (0.0, 7.0):
    np.testing.assert_allclose(float(step(start, 0, strength=strength)[2]), want, rtol=1e-5)
  learner = bench.steps(start, 1, 3, met=(0,))
  x, y = batch_of(bench, 1, 3)
  now, then = (logits(p, x, 0, 0)[:, :2] / 2 for p in (learner.params, one.params))
  kl = (np.exp(log_softmax(then)) * (log_softmax(then) - log_softmax(now))).sum(1).mean()
  base = cross_entropy(logits(learner.params, x, 0, 1)[:, 2:], y - 2).mean()
  assert kl > 1e-6
  got = float(step(learner, 3, strength=100.0)[2])
  np.testing.assert_allclose(got, base + 100 * kl, rtol=1e-4)
  a, b = leaves(one.params), leaves(learner.params)
  for name in ("head/kernel", "head/bias"):
    np.testing.assert_array_equal(a[name][0], b[name][0])
    assert (a[name][1] != b[name][1]).any()
  assert (a["hidden_0/kernel"][0] != b["hidden_0/kernel"][0]).any()
  np.testing.assert_array_equal(a["hidden_0/kernel"][1], b["hidden_0/kernel"][1])


def test_holding_old_heads_pulls_the_expert_back(trained):
  """The step's part that grows with the strength goes down the KL, and leaves every head alone."""
  bench, one, begun = trained
  learner = bench.steps(begun["shared"], 1, 3, met=(0,))
  x, _ = batch_of(bench, 1, 3)
  step = lambda s: bench.step(learner, *bench.arguments(1, 3, met=(0,)), strength=s)[0].params
  some = [jax.tree.map(lambda a: np.asarray(a, np.float64), step(s)) for s in (0.0, 50.0)]
  moved = jax.tree.map(lambda a, b: (b - a) / (-0.05 * 50.0), *some)
  for leaf in jax.tree.leaves(moved["head"]):
    assert not leaf.any()
  then = logits(one.params, x, 0, 0)[:, :2] / 2

  def kl(params):
    now = logits(params, x, 0, 0)[:, :2] / 2
    return (np.exp(log_softmax(then)) * (log_softmax(then) - log_softmax(now))).sum(1).mean()

  now = jax.tree.map(lambda a: np.asarray(a, np.float64), learner.params)
  rng = np.random.default_rng(0)
  draw = {k: {n: np.zeros_like(a) for n, a in v.items()} for k, v in now.items()}
  draw["hidden_0"] = {n: rng.normal(size=a.shape) for n, a in now["hidden_0"].items()}
  at = lambda t: kl(jax.tree.map(lambda p, d: p + t * d, now, draw))
  got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(draw), strict=True))
  np.testing.assert_allclose(got, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=2e-2, atol=1e-5)


def test_a_task_of_few_rows_trains_its_head_alone(trained):
  """Fewer than half of the expert's largest task; half of them are enough."""
  bench, one, _ = trained
  rows = len(bench.stream.train[1])
  for largest, moves in ((2 * rows, True), (2 * rows + 1, False)):
    state = one.method_state._replace(largest=one.method_state.largest.at[0].set(largest))
    begun = bench.boundary("start_task", one._replace(method_state=state), 1, (0,), threshold=1.0)
    assert bool(begun.method_state.moves) == moves
    after = bench.steps(begun, 1, 2, met=(0,))
    a, b = leaves(begun.params), leaves(after.params)
    assert (a["hidden_0/kernel"] != b["hidden_0/kernel"]).any() == moves
    assert (a["head/bias"][1] != b["head/bias"][1]).any()
    np.testing.assert_array_equal(a["head/bias"][0], b["head/bias"][0])
    assert float(begun.method_state.largest[0]) == largest


def test_a_task_that_comes_back_has_its_head_to_train(trained):
  bench, _, begun = trained
  both = bench.boundary("end_task", bench.steps(begun["shared"], 1, 2, met=(0,)), 1, (0,))
  back = bench.boundary("start_task", both, 0, (0, 1), threshold=1.0)
  after = bench.steps(back, 0, 2, met=(0, 1))
  a, b = leaves(back.params), leaves(after.params)
  for name in a:
    np.testing.assert_array_equal(a[name][1], b[name][1])
    assert (a[name][0] != b[name][0]).any() == name.startswith("head")
  np.testing.assert_array_equal(both.method_state.distances, back.method_state.distances)
  np.testing.assert_array_equal(both.model_state.kept, back.model_state.kept)


def test_between_tasks_no_expert_is_kept_twice_and_classes_that_go_are_cleared(trained):
  bench, _, begun = trained
  learner = begun["shared"]
  assert any(np.asarray(a).any() for a in jax.tree.leaves(learner.method_state.teacher))
  ended = bench.boundary("end_task", learner, 1, (0,))
  assert not any(np.asarray(a).any() for a in jax.tree.leaves(ended.method_state.teacher))
  assert not bool(ended.method_state.moves)
  gone = jnp.arange(4) == 2
  left = jax.jit(bench.parts.scrub)(ended, jnp.zeros(bench.spec.num_rows, bool), gone).method_state
  assert np.asarray((left.counts > 0).any(0)).tolist() == [True, True, False, True]
  assert not np.asarray(left.means)[:, 2].any()
  np.testing.assert_array_equal(left.means[:, [0, 1, 3]], ended.method_state.means[:, [0, 1, 3]])


def test_par_needs_features(task_stream, small_model):
  bare = lambda *args, **told: (lambda out, state: (out._replace(features=None), state))(
    *small_model.apply(*args, **told)
  )
  with pytest.raises(UsageError, match="'par' needs a model that returns features"):
    methods.make("par", small_model._replace(apply=bare), spec_of(task_stream, 8))
