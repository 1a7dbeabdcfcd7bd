"""Brain-inspired replay against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, batch_of, forward, leaves, log_softmax
from normed import normed

from cljax import methods, models, streams
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.generative import bir

LATENT, WIDTH, T = 3, 5, 2.0
HYPER = {"latent": LATENT, "width": WIDTH, "likelihood": "gaussian", "proportion": 0.4}
OFF = {"prior": "normal", "proportion": 0.0, "targets": "hard"}


def drawn(key, fn):
  """One draw for each place of a row."""
  return np.stack([np.asarray(fn(jax.random.fold_in(key, i)), np.float64) for i in range(8)])


def normals(key):
  return drawn(key, lambda k: jax.random.normal(k, (LATENT,)))


def of_step(learner, name):
  return tree.fold(jax.random.fold_in(learner.key, learner.step), name)


def shut(learner, contexts, proportion):
  """``[2, contexts, H]``: 1 for the units that are open."""
  u = jax.random.uniform(tree.fold(learner.key, "gates"), (2, contexts, WIDTH))
  return (np.asarray(u) >= proportion).astype(np.float64)


def decoded(p, z, gates):
  """``gates``: the open units of each row in both hidden layers."""
  for i in range(3):
    z = z @ p[f"decoder/layer_{i}/kernel"] + p[f"decoder/layer_{i}/bias"]
    z = np.maximum(z * gates[i], 0) if i < 2 else z
  return z


def log_density(z, m, log_v):
  return -0.5 * (np.log(2 * np.pi) + log_v + (z - m) ** 2 / np.exp(log_v)).sum(-1)


def bound(p, f, x, target, gates, noise, prior="classes", likelihood="gaussian"):
  """``G`` of rows with features f, the mean."""
  code = f @ p["code/layer_0/kernel"] + p["code/layer_0/bias"]
  m, log_v = code[:, :LATENT], code[:, LATENT:]
  z = m + np.exp(log_v / 2) * noise
  back, x = decoded(p, z, gates), np.asarray(x, np.float64).reshape(len(x), -1)
  if likelihood == "gaussian":
    far = ((back - x) ** 2).sum(1) / 2
  else:
    x = np.clip(x, 0, 1)
    far = (np.logaddexp(0, back) - x * back).sum(1)
  if prior == "normal":
    off = 0.5 * (m**2 + np.exp(log_v) - 1 - log_v).sum(1)
  else:
    modes = [np.exp(log_density(z, *(p[f"prior/{n}"][c] for n in ("mean", "log_variance")))) for c in range(4)]
    off = log_density(z, m, log_v) - np.log((target * np.stack(modes, 1)).sum(1))
  return ((far + off) / x.shape[1]).mean()


class ByHand:
  """A step of a later task: what is made up, and the loss as a function of the parameters."""

  def __init__(self, bench, learner, hyper=None, met=(0,), own=None):
    """``own [2, C]``: the classes that compete for made-up rows, and for the task's."""
    made = {**HYPER, "prior": "classes", "targets": "soft", "gates": "class", **(hyper or {})}
    self.made, self.learner, self.now, stream = made, learner, len(met), bench.stream
    key, before = of_step(learner, "bir"), learner.method_state.before
    p, pairs = leaves(before.params["feedback"]), np.asarray(stream.classes_of_task)[list(met)]
    chance = jnp.where(jnp.asarray(pairs.any(0)), 0.0, -jnp.inf)
    self.label = drawn(tree.fold(key, "class"), lambda k: jax.random.categorical(k, chance)).astype(int)
    having = jnp.where(jnp.arange(len(stream.train)) < self.now, 0.0, -jnp.inf)  # any met one has it, or there is one
    self.task = drawn(tree.fold(key, "task"), lambda k: jax.random.categorical(k, having)).astype(int)
    z = normals(tree.fold(key, "code"))
    if made["prior"] == "classes":
      z = p["prior/mean"][self.label] + np.exp(p["prior/log_variance"][self.label] / 2) * z
    self.open = shut(learner, 4 if made["gates"] == "class" else len(stream.train), made["proportion"])
    self.x = decoded(p, z, self.gates(np.eye(4)[self.label], self.task))
    self.x = 1 / (1 + np.exp(-self.x)) if made["likelihood"] == "bernoulli" else self.x
    said = np.where(pairs.any(0), forward(before.params["network"], self.x)[1], -np.inf)
    hard = made["targets"] == "hard"
    self.target = np.eye(4)[said.argmax(1)] if hard else np.exp(log_softmax(said / T))
    self.heat, self.competing = 1.0 if hard else T, np.ones((2, 4), bool) if own is None else own
    x, y = batch_of(bench, self.now, 0)
    self.new = np.asarray(stream.view.apply(stream.view.tables, x, jnp.full(8, self.now))), y

  def gates(self, target, task):
    context = target if self.made["gates"] == "class" else np.eye(self.open.shape[1])[task]
    return [context @ g for g in self.open]

  def loss(self, params):
    key, kind = of_step(self.learner, "replay"), (self.made["prior"], self.made["likelihood"])
    noise = lambda name: normals(tree.fold(tree.fold(key, name), "noise"))
    p, (x, y) = leaves(params["feedback"]), self.new
    f, z = forward(params["network"], x)
    log_p = log_softmax(np.where(self.competing[1], z, -np.inf))
    current = -log_p[np.arange(8), y].mean()
    rows = self.gates(np.eye(4)[y], np.full(8, self.now))
    current += bound(p, f, x, np.eye(4)[y], rows, noise("own"), *kind)
    f, z = forward(params["network"], self.x)
    log_p = log_softmax(np.where(self.competing[0], z, -np.inf) / self.heat)
    again = -(self.heat**2) * np.where(self.target > 0, self.target * log_p, 0).sum(1).mean()
    rows = self.gates(self.target, self.task)
    again += bound(p, f, self.x, self.target, rows, noise("made"), *kind)
    share = 1 / (1 + self.now)
    return share * current + (1 - share) * again


def assert_slope(learner, after, loss):
  """The step of the run's SGD against differences of ``loss(params)``, along random directions."""
  now = jax.tree.map(lambda a: np.asarray(a, np.float64), learner.params)
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / -RATE, after.params, now)
  rng = np.random.default_rng(0)
  for _ in range(3):
    way = jax.tree.map(lambda a: rng.normal(size=a.shape), now)
    at = lambda t, way=way: loss(jax.tree.map(lambda p, d: p + t * d, now, way))
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(way), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3, atol=2e-4)


def second_task(bench):
  """Behind the first task; in the second, away from what the boundary left; a step more."""
  one = bench.train(3, (0,))
  two = bench.step(one, *bench.arguments(1, 1, met=(0,)))[0]
  # Off biases of 0, where ReLU has no slope.
  two = two._replace(params=tree.map_named(lambda n, a: a + 0.03 if n.endswith("bias") else a, two.params))
  return one, two, bench.step(two, *bench.arguments(1, 0, met=(0,)))


@pytest.fixture(scope="module")
def run(class_stream, small_model):
  bench = Bench("bir", class_stream, small_model, HYPER)
  return bench, *second_task(bench)


def test_bir_learns_half_of_new_rows_and_half_of_made_up_ones(run):
  """Modes and gates of the classes, soft targets of the network of the boundary, one gradient for all of it."""
  bench, one, two, (after, _, loss) = run
  hand = ByHand(bench, two)
  assert set(hand.label.tolist()) <= {0, 1}
  assert_same(two.method_state.before.params, one.params)
  np.testing.assert_allclose(float(loss), hand.loss(two.params), rtol=1e-5)
  assert_slope(two, after, hand.loss)


@pytest.mark.parametrize(
  "other",
  [{"prior": "normal"}, {"targets": "hard"}, {"gates": "task"}, {"likelihood": "bernoulli"}, OFF],
  ids=["prior", "targets", "gates", "likelihood", "off"],
)
def test_each_part_of_bir_can_be_left_out(other, class_stream, small_model):
  """The others stay; all off, that is replay of a generator with a shared trunk."""
  bench = Bench("bir", class_stream, small_model, {**HYPER, **other})
  _, two, (after, _, loss) = second_task(bench)
  hand = ByHand(bench, two, other)
  np.testing.assert_allclose(float(loss), hand.loss(two.params), rtol=1e-5)
  assert_slope(two, after, hand.loss)


def test_where_tasks_have_softmaxes_of_their_own_one_says_each_row(task_stream, small_model):
  """Task-incremental: the first task's classes alone compete for made-up rows, the second's for new ones."""
  bench = Bench("bir", task_stream, small_model, HYPER)
  _, two, (_, _, loss) = second_task(bench)
  hand = ByHand(bench, two, own=np.stack([np.arange(4) < 2, np.arange(4) > 1]))
  index = np.asarray(bench.rows(1, 0)[0])
  y = np.asarray(task_stream.labels)[1, task_stream.dataset.train.y[index]]
  hand.new = (hand.new[0], y)
  np.testing.assert_allclose(float(loss), hand.loss(two.params), rtol=1e-5)


def test_the_first_task_of_bir_has_no_replay(run):
  """Its loss is of new rows; shares add up to 1; what makes up stands still within a task."""
  bench, one, two, (after, _, _) = run
  start = bench.start()
  loss = bench.step(start, *bench.arguments(0, 0))[2]
  hand = ByHand(bench, start)
  (x, y), p = batch_of(bench, 0, 0), leaves(start.params["feedback"])
  f, z = forward(start.params["network"], x)
  noise = normals(tree.fold(tree.fold(of_step(start, "replay"), "own"), "noise"))
  want = -log_softmax(z)[np.arange(8), y].mean()
  want += bound(p, f, x, np.eye(4)[y], hand.gates(np.eye(4)[y], np.zeros(8, int)), noise)
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  assert not bool(start.method_state.ready)
  assert_same(after.method_state, one.method_state)
  ended = bench.boundary("end_task", after, 1, (0,))
  assert bool(ended.method_state.ready)
  assert_same(ended.method_state.before.params, after.params)
  # Modes are learned.
  assert np.abs(np.asarray(two.params["feedback"]["prior"]["mean"] - one.params["feedback"]["prior"]["mean"])).max() > 0


def test_classes_are_made_up_alike_with_a_task_that_has_them(make_blobs, small_model):
  """Where tasks share their classes gates are of the tasks met: of two that were, each is drawn, and never the third;
  what is said is of all classes, and new rows have a third of the loss."""
  stream = streams.build(make_blobs(), "permuted", tasks=3, validation=0.0)
  hyper = {**HYPER, "gates": "task"}
  bench = Bench("bir", stream, small_model, hyper)
  two = bench.train(2, (0, 1))
  hand = ByHand(bench, two, hyper, met=(0, 1))
  assert set(hand.task.tolist()) == {0, 1}
  assert len(set(hand.label.tolist())) > 2
  loss = bench.step(two, *bench.arguments(2, 0, met=(0, 1)))[2]
  np.testing.assert_allclose(float(loss), hand.loss(two.params), rtol=1e-5)


def test_gates_are_a_share_drawn_once_for_each_class(run, class_stream, small_model):
  """The same in every step and pass, others for other seeds; none at 0: what is made up is the plain decoder's."""
  bench, one, two, _ = run
  mine, other = (shut(l, 4, 0.4) for l in (two, bench.start(1)))
  np.testing.assert_array_equal(mine, shut(one, 4, 0.4))
  assert (mine != other).any()
  wide = np.asarray(jax.random.uniform(tree.fold(two.key, "gates"), (2, 100, 100)) >= 0.4)
  assert abs(wide.mean() - 0.6) < 0.02
  free, closed = (bench.step(two, *bench.arguments(1, 0, met=(0,)), proportion=p)[2] for p in (0.0, 0.4))
  np.testing.assert_allclose(float(free), ByHand(bench, two, {"proportion": 0.0}).loss(two.params), rtol=1e-5)
  assert abs(float(free) - float(closed)) > 1e-4


def test_a_code_s_divergence_is_that_from_a_mixture():
  """In the mean over codes the closed form's, for one mode; of modes that the target weighs, their density's; a class
  of weight 0 has no part, however near."""
  rng = np.random.default_rng(0)
  m, log_v = rng.normal(size=(1, LATENT)), rng.normal(size=(1, LATENT)) / 2
  modes = {"mean": rng.normal(size=(4, LATENT)), "log_variance": rng.normal(size=(4, LATENT)) / 2}
  z = m + np.exp(log_v / 2) * rng.normal(size=(200_000, LATENT))
  wide = lambda a: jnp.asarray(np.broadcast_to(a, z.shape), jnp.float32)
  given = {n: jnp.asarray(v, jnp.float32) for n, v in modes.items()}
  of = lambda target: bir.code_divergence(
    jnp.asarray(z, jnp.float32), wide(m), wide(log_v), given, jnp.broadcast_to(jnp.asarray(target), (len(z), 4))
  )
  v, w = np.exp(log_v[0]), np.exp(modes["log_variance"][2])
  closed = 0.5 * (np.log(w / v) + (v + (m[0] - modes["mean"][2]) ** 2) / w - 1).sum()
  np.testing.assert_allclose(of([0.0, 0.0, 1.0, 0.0]).mean(), closed, rtol=0.02)
  share = np.array([0.3, 0.0, 0.7, 0.0])
  density = sum(s * np.exp(log_density(z, a, b)) for s, a, b in zip(share, *modes.values(), strict=True))
  np.testing.assert_allclose(
    of(share.astype(np.float32)), log_density(z, m, log_v) - np.log(density), rtol=1e-3, atol=1e-4
  )


def test_what_is_said_is_padded_with_probability_0():
  """Over the classes that are allowed, at the temperature; without any, over all: nothing is not finite."""
  z = jnp.asarray([[1.0, 3.0, 9.0], [2.0, 0.0, -1.0]])
  old = jnp.asarray([[True, True, False], [True, True, False]])
  soft, hard = (np.asarray(bir.said_of(z, old, 2.0, k)) for k in ("soft", "hard"))
  np.testing.assert_allclose(soft[:, :2], np.exp(log_softmax(np.asarray(z, np.float64)[:, :2] / 2)), rtol=1e-6)
  np.testing.assert_array_equal(soft[:, 2], 0)
  np.testing.assert_array_equal(hard, [[0, 1, 0], [1, 0, 0]])
  np.testing.assert_allclose(bir.said_of(z, ~(old | True), 1.0, "soft"), np.exp(log_softmax(np.asarray(z))), rtol=1e-5)


def test_internal_replay_is_of_what_a_layer_is_given(class_stream):
  """Below the layer all stands, under momentum and decay too; what is made up has the width there, and the answers are
  the network's own."""
  model = models.mlp((4, 4, 1), 4, hidden=(7, 6))
  bench = Bench("bir", class_stream, model, {**HYPER, "layer": "hidden_1"})
  _one, two, (after, _, loss) = second_task(bench)
  start = bench.start()
  assert_same(after.params["network"]["hidden_0"], two.params["network"]["hidden_0"])
  assert (
    np.abs(
      np.asarray(after.params["network"]["hidden_1"]["kernel"] - two.params["network"]["hidden_1"]["kernel"])
    ).max()
    > 1e-5
  )
  assert after.params["feedback"]["decoder"]["layer_2"]["kernel"].shape == (WIDTH, 7)
  x = jnp.asarray(class_stream.dataset.test.x)
  want = model.apply(after.params["network"], {}, x, train=False, key=jax.random.key(0))[0].logits
  np.testing.assert_allclose(bench.parts.predict(after, x, jnp.int32(0)), want, rtol=1e-5, atol=1e-6)
  # The same as replay at the inputs of the upper part, had these been the rows.
  p = leaves(two.params["network"])
  lower = lambda x: np.maximum(
    np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0
  )
  given = lambda learner: {"hidden_0": learner["network"]["hidden_1"], "head": learner["network"]["head"]}
  up = lambda params: {"feedback": params["feedback"], "network": given(params)}
  state = two.method_state.before
  above = two._replace(method_state=two.method_state._replace(before=state._replace(params=up(state.params))))
  hand = ByHand(bench, above)
  hand.new = (lower(batch_of(bench, 1, 0)[0]), hand.new[1])
  np.testing.assert_allclose(float(loss), hand.loss(up(two.params)), rtol=1e-5)
  held = Bench("bir", class_stream, model, {**HYPER, "layer": "head"}).train(2, (0,))
  assert_same(held.params["network"]["hidden_1"], start.params["network"]["hidden_1"])


def test_made_up_rows_of_bir_are_not_counted_by_batch_norm(class_stream):
  bench = Bench("bir", class_stream, normed(), HYPER)
  two = bench.boundary("start_task", bench.train(2, (0,)), 1, (0,))
  after, _, loss = bench.step(two, *bench.arguments(1, 0, met=(0,)))
  bare = two._replace(method_state=two.method_state._replace(ready=jnp.zeros((), bool)))
  plain, _, other = bench.step(bare, *bench.arguments(1, 0, met=(0,)))
  assert_same(after.model_state, plain.model_state)
  assert abs(float(loss) - float(other)) > 1e-3


def test_a_request_throws_the_connections_away(run):
  """They and their copy begin anew, and nothing is replayed; the classifier is left to what answers the request. One
  that names no row leaves all; the copy follows an edit."""
  bench, one, two, _ = run
  none = jnp.zeros(bench.spec.num_rows, bool)
  same = bench.parts.scrub(two, none, jnp.zeros(4, bool))
  assert_same((same.params, same.method_state), (two.params, two.method_state))
  left = bench.parts.scrub(two, none.at[3].set(True), jnp.zeros(4, bool))
  assert_same(left.params["network"], two.params["network"])
  assert_same(left.method_state.before.params["network"], one.params["network"])
  assert_same(left.params["feedback"], left.method_state.before.params["feedback"])
  assert not bool(left.method_state.ready)
  for a, b in zip(*(jax.tree.leaves(l.params["feedback"]) for l in (left, two)), strict=True):
    assert np.abs(np.asarray(a - b)).max() > 1e-6
  edited = two._replace(params=jax.tree.map(lambda p: p + 1.0, two.params))
  followed = bench.parts.method.after_forget(edited, two.params).method_state.before.params
  assert_near(followed, jax.tree.map(lambda p: p + 1.0, one.params))


def test_bir_refuses_what_it_cannot_make(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  tokens = spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.int32), scale=None)
  with pytest.raises(UsageError, match="'bir' makes rows up; expected inputs that are one array of real numbers"):
    methods.make("bir", models.mlp((5,), 4, hidden=(8,)), tokens)
  with pytest.raises(UsageError, match=r"method.likelihood: got 'bernoulli' with method.layer='head'; expected 'gauss"):
    methods.make("bir", small_model, spec, layer="head")
  with pytest.raises(UsageError, match=r"method.layer: got 'x'; allowed: 'auto', hidden_0, head"):
    methods.make("bir", small_model, spec, layer="x", likelihood="gaussian")
