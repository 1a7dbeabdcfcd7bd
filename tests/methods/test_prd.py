"""PRD against NumPy in float64; the two views' contrast that it shares with others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, forward, log_softmax

from cljax import methods, models
from cljax.core.types import Batch, UsageError
from cljax.engine.setup import spec_of
from cljax.methods import views
from cljax.methods.distillation import prd
from cljax.objectives.rows import of_terms_alone

HYPER = {"width": 5, "temperature": 0.3, "relation_temperature": 0.7, "prototypes": 1.5, "distillation": 2.5}
OLD = np.array([True, True, False, False])


def unit(f, axis=-1):
  return f / np.linalg.norm(f, axis=axis, keepdims=True)


def double(params):
  return jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def contrast(params, f, y, temperature):
  """SupCon row by row over both views ``f [2, B, D]`` behind the small network."""
  head = double(params["projection"])
  h = np.maximum(np.concatenate(f) @ head["hidden"]["kernel"] + head["hidden"]["bias"], 0)
  z, label, each = unit(h @ head["out"]["kernel"] + head["out"]["bias"]), np.r_[y, y], []
  for i in range(len(z)):
    others = np.arange(len(z)) != i
    s = z @ z[i] / temperature
    log_p = s - np.logaddexp.reduce(s[others])
    each.append(-log_p[others & (label == label[i])].mean())
  return np.mean(each)


def features(params, x):
  return forward(params["network"]["network"], x)[0]


def directions(params):
  return double(params)["network"]["cosine"]["directions"][:, :, 0]


def held(now, then, relation):
  """Row by row or class by class, of the two classes of task 0."""
  parts = []
  if relation == "rows":
    pairs = [(now[:, c] / 0.7, then[:, c] / 0.7) for c in (0, 1)]
  else:
    pairs = [(now[i, :2] / 0.7, then[i, :2] / 0.7) for i in range(len(now))]
  for s, q in pairs:
    s, q = log_softmax(s), log_softmax(q)
    parts.append((np.exp(q) * (q - s)).sum())
  return np.mean(parts)


def parts_of(params, teacher, x, y, relation, still=None):
  """The three terms; ``still``: the features that move prototypes, which take no gradient."""
  f = np.stack([features(params, v) for v in (x, 2.0 * x[:, ::-1])])
  d, both = unit(directions(params), 0), np.concatenate(f)
  kept = both if still is None else still
  apart = (1 - (unit(kept) * d.T[np.r_[y, y]]).sum(-1)).mean()
  before = np.concatenate([features(teacher, v) for v in (x, 2.0 * x[:, ::-1])])
  relations = held(both @ d, before @ unit(directions(teacher), 0), relation)
  return np.array([contrast(params, f, y, 0.3), apart, relations]), both


@pytest.fixture(scope="module", autouse=True)
def doubled():
  """Second views are doubled, mirrored pictures."""
  patch = pytest.MonkeyPatch()
  patch.setattr(views, "second_view", lambda key, x, *_, **__: 2.0 * x[:, ::-1])
  yield
  patch.undo()


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """By relation: a bench, the learner after task 0, and after one step of task 1."""
  found = {}

  def get(relation):
    if relation not in found:
      bench = Bench("prd", class_stream, small_model, {**HYPER, "relation": relation})
      one = bench.train(3, (0,))
      begun = bench.boundary("start_task", one, 1)
      found[relation] = bench, one, bench.step(begun, *bench.arguments(1, 1))[0]
    return found[relation]

  return get


@pytest.mark.parametrize("relation", ["rows", "classes"])
def test_prd_s_loss_and_step_are_by_hand(trained, relation):
  """The value, and the step by differences; prototypes pull no feature, and the teacher's own do not move."""
  bench, one, begun = trained(relation)
  x, y = batch_of(bench, 1, 0)
  after, _, loss = bench.step(begun, *bench.arguments(1, 0))
  weights, teacher = np.array([1.0, 1.5, 2.5]), one.params
  want, still = parts_of(begun.params, teacher, x, y, relation)
  assert want.min() > 1e-4
  np.testing.assert_allclose(float(loss), weights @ want, rtol=1e-5)
  now, rng = double(begun.params), np.random.default_rng(0)
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / -RATE, after.params, now)
  assert not step["network"]["network"]["head"]["kernel"].any()
  for only in ("all", "cosine", "network"):
    d = jax.tree.map(lambda a: rng.normal(size=a.shape), now)
    d["network"]["cosine"]["scale"] = np.zeros(())
    d["network"]["network"]["head"] = jax.tree.map(np.zeros_like, d["network"]["network"]["head"])
    if only == "cosine":
      d["network"]["network"], d["projection"] = jax.tree.map(np.zeros_like, (d["network"]["network"], d["projection"]))
    if only == "network":
      d["network"]["cosine"] = jax.tree.map(np.zeros_like, d["network"]["cosine"])
    at = lambda t, d=d: (
      weights @ parts_of(jax.tree.map(lambda p, v: p + t * v, now, d), teacher, x, y, relation, still)[0]
    )
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(d), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3, atol=2e-5)


def test_the_first_task_of_prd_holds_nothing(trained):
  bench, *_ = trained("rows")
  start = bench.boundary("start_task", bench.start(), 0)
  moved = start._replace(params=jax.tree.map(lambda a: 1.1 * a + 0.01, start.params))
  plain, strong = (bench.step(moved, *bench.arguments(0), distillation=v) for v in (0.0, 50.0))
  assert_same(plain[0].params, strong[0].params)
  assert float(plain[2]) == float(strong[2])


@pytest.mark.parametrize("relation", ["rows", "classes"])
def test_relations_are_least_where_nothing_moved(relation):
  """At the old scores 0 and flat; elsewhere above. The cross-entropy that the code has is that and the entropy."""
  rng = np.random.default_rng(1)
  then, of_task = jnp.float32(rng.normal(size=(6, 4))), jnp.asarray([[True, True, False, False], [False] * 4])
  loss = lambda now: prd.relations_held(now, then, jnp.ones(6), of_task, 0.7, relation)
  np.testing.assert_allclose(loss(then), 0.0, atol=1e-6)
  np.testing.assert_allclose(jax.grad(lambda n: loss(n)[0])(then), 0.0, atol=1e-6)
  other = jnp.float32(then + rng.normal(size=(6, 4)))
  assert float(loss(other)[0]) > 0.01
  assert float(loss(other)[1]) == 0
  np.testing.assert_allclose(loss(other)[0], held(np.float64(other), np.float64(then), relation), rtol=1e-5)
  assert not np.asarray(
    jax.grad(lambda t: prd.relations_held(other, t, jnp.ones(6), of_task, 0.7, relation)[0])(then)
  ).any()


def test_relations_run_over_the_axis_that_is_said():
  """A number added to all scores of a prototype says nothing over rows, and one added to all of a row nothing over
  classes; what is added along the other axis counts."""
  rng = np.random.default_rng(2)
  then, of_task = jnp.float32(rng.normal(size=(5, 2))), jnp.ones((1, 2), bool)
  of = lambda now, relation: float(prd.relations_held(now, then, jnp.ones(5), of_task, 1.0, relation)[0])
  by_class, by_row = then + jnp.float32([[1.0, -2.0]]), then + jnp.float32(rng.normal(size=(5, 1)))
  assert abs(of(by_class, "rows")) < 1e-5
  assert abs(of(by_row, "classes")) < 1e-5
  assert of(by_class, "classes") > 0.1
  assert of(by_row, "rows") > 0.01


def test_absent_rows_have_no_relations():
  rng = np.random.default_rng(3)
  now, then = (jnp.float32(rng.normal(size=(6, 2))) for _ in range(2))
  of_task, weight = jnp.ones((1, 2), bool), jnp.float32([1, 1, 1, 1, 0, 0])
  for relation in prd.RELATIONS:
    want = prd.relations_held(now[:4], then[:4], jnp.ones(4), of_task, 1.0, relation)
    np.testing.assert_allclose(prd.relations_held(now, then, weight, of_task, 1.0, relation), want, rtol=1e-5)


def test_prototypes_pull_no_features():
  """Of worked numbers: directions (3, 0) and (0, 2), rows (1, 1) and (0, 5) of classes 0 and 1."""
  p, f = jnp.float32([[3.0, 0.0], [0.0, 2.0]]), jnp.float32([[1.0, 1.0], [0.0, 5.0]])
  loss = lambda p, f: prd.apart(p, f, jnp.array([0, 1]), jnp.ones(2))
  np.testing.assert_allclose(loss(p, f), (1 - np.sqrt(0.5)) / 2, rtol=1e-6)
  assert not np.asarray(jax.grad(loss, 1)(p, f)).any()
  np.testing.assert_allclose(jax.grad(loss)(p, f), [[0, 0], [-np.sqrt(0.5) / 6, 0]], atol=1e-6)
  np.testing.assert_allclose(prd.scores(p, f), [[1, 1], [0, 5]], rtol=1e-6)


def test_prd_answers_by_cosines_among_begun_classes(trained):
  bench, one, begun = trained("rows")
  x = bench.stream.dataset.test.x
  predict = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  cosine = lambda l: unit(features(l.params, x)) @ unit(directions(l.params), 0)
  np.testing.assert_allclose(predict(one), np.where(OLD, cosine(one), -np.inf), atol=1e-5)
  np.testing.assert_allclose(predict(begun), cosine(begun), atol=1e-5)
  np.testing.assert_allclose(predict(bench.start()), cosine(bench.start()), atol=1e-5)


def test_a_forgotten_class_is_neither_answered_nor_held(trained):
  bench, one, begun = trained("rows")
  gone = jnp.array([False, True, False, False])
  left = jax.jit(bench.parts.scrub)(begun, jnp.zeros(bench.spec.num_rows, bool), gone)
  kept = directions(left.method_state.teacher.params)
  assert not kept[:, 1].any()
  np.testing.assert_array_equal(kept[:, [0, 2, 3]], directions(one.params)[:, [0, 2, 3]])
  said = np.asarray(bench.parts.predict(left, jnp.asarray(bench.stream.dataset.test.x), jnp.int32(0)))
  assert np.isneginf(said[:, 1]).all()
  assert np.isfinite(said[:, [0, 2, 3]]).all()
  some = bench.step(left, *bench.arguments(1, 0))[2] - bench.step(left, *bench.arguments(1, 0), distillation=0.0)[2]
  x, _ = batch_of(bench, 1, 0)
  f, before = (np.concatenate([features(l.params, v) for v in (x, 2.0 * x[:, ::-1])]) for l in (begun, one))
  now, then = f @ unit(directions(begun.params), 0), before @ unit(directions(one.params), 0)
  s, q = log_softmax(now[:, 0] / 0.7), log_softmax(then[:, 0] / 0.7)
  np.testing.assert_allclose(float(some), 2.5 * (np.exp(q) * (q - s)).sum(), rtol=1e-3, atol=1e-5)


def test_prd_s_teacher_is_in_eval_mode(class_stream):
  """A network of which dropout is half: at its own teacher, relations of a model in eval mode are those of its eval
  mode, whatever the key; in train mode they would differ from it."""
  small = models.mlp((4, 4, 1), 4, hidden=(8,))
  modes = []

  def apply(params, state, x, *, train, **told):
    modes.append(train)
    return small.apply(params, state, x, train=train, **told)

  bench = Bench("prd", class_stream, small._replace(apply=apply), HYPER)
  learner = jax.eval_shape(bench.parts.init, jax.random.key(0))
  modes.clear()
  jax.eval_shape(bench.parts.step, learner, *bench.arguments(1))
  assert modes == [True, True, False, False]  # the rows, their second views, and both by the teacher


def test_a_task_that_comes_back_is_not_held_to_itself(trained):
  bench, _, begun = trained("rows")
  end = bench.boundary("end_task", begun, 1)
  end = end._replace(params=jax.tree.map(lambda a: 1.1 * a + 0.01, end.params))
  loss = lambda met, **more: float(bench.step(end, *bench.arguments(0, 0, met=met), **more)[2])
  assert loss((0,)) == loss((0,), distillation=0.0)
  assert loss((0, 1)) > loss((0, 1), distillation=0.0)


def test_prd_needs_pictures_and_features(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"'prd' makes second views of pictures; expected inputs \[H, W, C\]"):
    methods.make("prd", small_model, spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32)))
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'prd' needs a model that returns features"):
    methods.make("prd", bare, spec)


def test_a_term_alone_leaves_rows_no_loss_of_their_own():
  """Rows without groups become one of scale 0; of those that have groups all scales are 0, and groups stay."""
  n = jnp.zeros(3, jnp.int32)
  batch = Batch(jnp.zeros((3, 2)), n, jnp.ones(3), n, n)
  alone = of_terms_alone(batch)
  np.testing.assert_array_equal(alone.group, 0)
  np.testing.assert_array_equal(alone.scale, [0])
  more = of_terms_alone(batch._replace(group=jnp.array([0, 1, 1], jnp.int32), scale=jnp.ones(2)))
  np.testing.assert_array_equal(more.group, [0, 1, 1])
  np.testing.assert_array_equal(more.scale, [0, 0])
