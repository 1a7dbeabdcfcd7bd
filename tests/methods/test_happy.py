"""Happy against NumPy in float64: clusters without labels, answers evened out, hard prototypes, new directions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, forward, log_softmax

from cljax import methods, models, streams
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.estimators.clusters import k_means
from cljax.methods import views
from cljax.methods.prototypes import happy

HYPER = {
  "width": 5, "temperature": 0.3, "teacher_temperature": 0.12, "contrast_temperature": 0.8, "class_temperature": 0.4,
  "supervised": 0.3, "between": 1.5, "within_old": 0.7, "within_new": 0.6, "prototypes": 1.2, "distillation": 2.5,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def doubled():
  """Second views are doubled, mirrored pictures."""
  patch = pytest.MonkeyPatch()
  patch.setattr(views, "second_view", lambda key, x, *_, **__: 2.0 * x[:, ::-1])
  yield
  patch.undo()


@pytest.fixture(scope="module")
def hidden(dataset):
  """The second task has no labels."""
  return streams.build(dataset, "class", tasks=2, validation=0.125, labelled=1)


@pytest.fixture(scope="module")
def bench(dataset, small_model):
  """With outputs for two classes more, of which none is begun."""
  wide = streams.build(dataset, "class", tasks=2, validation=0.125, labelled=1, reserve_classes=6)
  return Bench("happy", wide, small_model, HYPER)


@pytest.fixture(scope="module")
def trained(bench):
  """After task 0, with the prototype of class 0 alone and no noise, so that nothing is left to chance."""
  learner = bench.train(3, (0,))
  state = learner.method_state
  one = state._replace(prototypes=state.prototypes.at[1:].set(0.0), radius=jnp.float32(0))
  return learner._replace(method_state=one)


def unit(f, axis=-1):
  return f / np.linalg.norm(f, axis=axis, keepdims=True)


def double(params):
  return jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def said(params, x):
  """Features of norm 1, those of the small network, and cosines over the temperature."""
  p = double(params)
  f = forward(params["network"]["network"], x)[0]
  h = np.maximum(f @ p["projection"]["hidden"]["kernel"] + p["projection"]["hidden"]["bias"], 0)
  z = unit(h @ p["projection"]["out"]["kernel"] + p["projection"]["out"]["bias"])
  d = unit(p["network"]["cosine"]["directions"][:, :, 0], 0)
  return unit(f), z, unit(f) @ d / HYPER["temperature"]


def contrast(first, second, y, temperature):
  """Row by row: the other views of a row's class, of its row alone where it has none."""
  z, each = np.concatenate([first, second]), []
  y = np.where(y < 0, -1 - np.arange(len(y)), y)
  label = np.r_[y, y]
  for i in range(len(z)):
    others = np.arange(len(z)) != i
    s = z @ z[i] / temperature
    each.append(-(s - np.logaddexp.reduce(s[others]))[others & (label == label[i])].mean())
  return np.mean(each)


def entropy(p):
  return -(p * np.log(p)).sum()


def parts_of(params, teacher, x, y, seen, old, sharp=None):
  """Each part of the loss by name, and the sharp answers, which take no gradient."""
  shown = (x, 2.0 * x[:, ::-1])
  both = [said(params, v) for v in shown]
  log_p = [log_softmax(z[:, seen]) for *_, z in both]
  now = [np.exp(log_softmax(z[:, seen] * HYPER["temperature"] / HYPER["teacher_temperature"])) for *_, z in both]
  sharp = now if sharp is None else sharp
  p, mine = np.exp(np.concatenate(log_p)).mean(0), old[seen]
  new = p[~mine]
  found = {
    "cluster": -np.mean([(sharp[i] * log_p[1 - i]).sum(-1).mean() for i in (0, 1)]),
    "within_new": np.log(len(new)) - entropy(new / new.sum()),
    "contrast": contrast(both[0][1], both[1][1], np.full(len(x), -1), HYPER["contrast_temperature"]),
  }
  if old.any():
    first = p[mine]
    found["between"] = np.log(2) - entropy(np.array([first.sum(), new.sum()]))
    found["within_old"] = np.log(len(first)) - entropy(first / first.sum())
    gaps = [
      ((b[0] - unit(forward(teacher["network"]["network"], v)[0])) ** 2).sum(-1)
      for b, v in zip(both, shown, strict=True)
    ]
    found["distillation"] = np.mean(gaps)
  if y is not None:
    at = (np.arange(len(y)), np.searchsorted(np.flatnonzero(seen), y))
    found["classes"] = -np.mean([l[at].mean() for l in log_p])
    found["mates"] = contrast(both[0][1], both[1][1], y, HYPER["class_temperature"])
  return found, sharp


def replayed(params, prototype, seen, label=0):
  d = unit(double(params)["network"]["cosine"]["directions"][:, :, 0], 0)
  return -log_softmax(unit(np.asarray(prototype, np.float64)) @ d[:, seen] / HYPER["temperature"])[label]


def check_step(bench, learner, arguments, loss):
  """The value, and the step by differences along random directions; ``loss(params, sharp) -> (value, sharp)``."""
  after, _, got = bench.step(learner, *arguments)
  want, sharp = loss(learner.params, None)
  np.testing.assert_allclose(float(got), want, rtol=1e-5)
  now, rng = double(learner.params), np.random.default_rng(0)
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / -RATE, after.params, now)
  assert not step["network"]["network"]["head"]["kernel"].any()
  for only in ("network", "projection"):
    d = jax.tree.map(lambda a: rng.normal(size=a.shape), now)
    d["network"]["network"]["head"] = jax.tree.map(np.zeros_like, d["network"]["network"]["head"])
    d["projection" if only == "network" else "network"] = jax.tree.map(
      np.zeros_like, d["projection" if only == "network" else "network"]
    )
    at = lambda t, d=d: loss(jax.tree.map(lambda p, v: p + t * v, now, d), sharp)[0]
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    inner = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(d), strict=True))
    np.testing.assert_allclose(inner, slope, rtol=3e-3, atol=3e-5)


def test_rows_with_labels_are_taught_and_clustered_by_hand(bench):
  """The first task: only its own classes take part, and there is nothing old."""
  start = bench.boundary("start_task", bench.start(), 0)
  x, y = batch_of(bench, 0, 0)
  seen, old = np.arange(6) < 2, np.zeros(6, bool)
  s = HYPER["supervised"]

  def loss(params, sharp):
    f, sharp = parts_of(params, None, x, y, seen, old, sharp)
    return (1 - s) * (f["cluster"] + 0.6 * f["within_new"] + f["contrast"]) + s * (f["classes"] + f["mates"]), sharp

  check_step(bench, start, bench.arguments(0), loss)


def test_rows_without_labels_are_clustered_by_hand(bench, trained):
  """The second task; and every part of it counts."""
  begun = bench.boundary("start_task", trained, 1)
  turned = lambda a: a + 0.2 * jnp.cos(jnp.arange(a.size).reshape(a.shape))
  moved = begun._replace(params=jax.tree.map(turned, begun.params))
  x = batch_of(bench, 1, 0)[0]
  seen, old = np.arange(6) < 4, np.arange(6) < 2
  teacher, prototype = trained.method_state.teacher.params, trained.method_state.prototypes[0]

  def loss(params, sharp):
    f, sharp = parts_of(params, teacher, x, None, seen, old, sharp)
    even = sum(HYPER[n] * f[n] for n in ("between", "within_old", "within_new"))
    held = 1.2 * replayed(params, prototype, seen) + 2.5 * f["distillation"]
    assert min(f.values()) > 1e-4
    return f["cluster"] + even + f["contrast"] + held, sharp

  check_step(bench, moved, bench.arguments(1), loss)


def test_a_task_that_comes_back_is_not_old(bench, trained):
  """Its classes are evened out as new ones, those of the other task as old."""
  learner = bench.boundary("end_task", bench.boundary("start_task", trained, 1), 1)
  x = batch_of(bench, 0, 0)[0]
  loss = lambda **weights: float(
    bench.step(learner, *bench.arguments(0, met=(0, 1)), **{"supervised": 0.0, **weights})[2]
  )
  none = dict.fromkeys(("between", "within_old", "within_new"), 0.0)
  got = {name: loss(**{**none, name: 1.0}) - loss(**none) for name in none}
  want = parts_of(learner.params, learner.method_state.teacher.params, x, None, np.arange(6) < 4,
                  np.isin(np.arange(6), (2, 3)))[0]  # fmt: skip
  np.testing.assert_allclose([got[n] for n in none], [want[n] for n in none], atol=2e-5)


def test_prototypes_have_the_noise_of_the_radius(bench, trained):
  begun = bench.boundary("start_task", trained, 1)
  wide = begun._replace(method_state=begun.method_state._replace(radius=jnp.float32(3)))
  loss = lambda learner, **weights: float(bench.step(learner, *bench.arguments(1), **weights)[2])
  assert abs(loss(wide) - loss(begun)) > 1e-2
  assert loss(wide, prototypes=0.0) == loss(begun, prototypes=0.0)


def test_the_teacher_follows_an_edit(bench, trained):
  moved = trained._replace(params=jax.tree.map(lambda a: a + 1, trained.params))
  followed = bench.parts.method.after_forget(moved, trained.params).method_state
  assert_same(followed.teacher.params, moved.params)


def test_supervision_is_of_rows_with_labels_alone(bench, trained):
  begun = bench.boundary("start_task", trained, 1)
  one, other = (bench.step(begun, *bench.arguments(1), supervised=v) for v in (0.0, 1.0))
  assert_same(one[0].params, other[0].params)


def test_even_answers_cost_nothing_and_all_others_something():
  old, new = np.array([1, 1, 1, 0, 0, 0], bool), np.array([0, 0, 0, 1, 1, 0], bool)
  of = lambda p, *w: float(happy.evened(jnp.float32(p), jnp.asarray(old), jnp.asarray(new), *w))
  even = np.array([1 / 6] * 3 + [1 / 4] * 2 + [0])
  for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
    np.testing.assert_allclose(of(even, *weights), 0, atol=1e-6)
  rng = np.random.default_rng(0)
  for _ in range(20):
    p = rng.dirichlet(np.ones(5))
    q = np.r_[p, 0]
    between = np.log(2) - entropy(np.array([p[:3].sum(), p[3:].sum()]))
    within = [np.log(len(g)) - entropy(g / g.sum()) for g in (p[:3], p[3:])]
    got = [of(q, *w) for w in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert min(got) >= -1e-6
    np.testing.assert_allclose(got, [between, *within], atol=2e-6)
    np.testing.assert_allclose(of(q, 2.0, 3.0, 5.0), np.dot([2, 3, 5], got), rtol=1e-5)


def test_a_group_without_classes_is_not_evened():
  none, some = jnp.zeros(3, bool), jnp.asarray([True, True, False])
  p = jnp.float32([0.3, 0.7, 0.0])
  alone = float(happy.evened(p, none, some, 9.0, 9.0, 1.0))
  np.testing.assert_allclose(alone, np.log(2) - entropy(np.array([0.3, 0.7])), rtol=1e-5)
  slope = jax.grad(lambda p: happy.evened(p, none, some, 9.0, 9.0, 1.0))(jnp.float32([0.0, 0.0, 0.0]))
  assert np.isfinite(np.asarray(slope)).all()


def test_hard_prototypes_are_drawn_more_often():
  """By the softmax of the mean cosine with the others, whose shares sum to one; classes without one never."""
  p = unit(np.random.default_rng(1).normal(size=(4, 6)) + 0.5)
  p = np.insert(p, 2, 0.0, axis=0)
  known = np.array([1, 1, 0, 1, 1], bool)
  cosines = p[known] @ p[known].T
  want = np.exp((cosines.sum(1) - 1) / 3 / 0.2)
  logits = happy.hardness(jnp.float32(p), jnp.asarray(known), 0.2)
  share = np.asarray(jax.nn.softmax(logits))
  np.testing.assert_allclose(share[known], want / want.sum(), rtol=1e-5)
  assert share[2] == 0
  np.testing.assert_allclose(share.sum(), 1, rtol=1e-6)
  assert np.ptp(share[known]) > 0.05
  drawn, label = happy.drawn_prototypes(jax.random.key(0), jnp.float32(p), logits, jnp.float32(0.3), 8000)
  np.testing.assert_allclose(np.bincount(label, minlength=5) / 8000, share, atol=0.02)
  noise = np.asarray(drawn) - p[label]
  assert abs(noise.std() - 0.3) < 0.01
  assert abs(noise.mean()) < 0.01
  assert np.ptp(np.linalg.norm(drawn, axis=1)) > 0.1, "what was drawn is not brought back to norm 1"
  alone = np.asarray(happy.hardness(jnp.float32(p), jnp.arange(5) == 1, 0.2))
  assert np.isfinite(alone[1])
  assert (np.delete(alone, 1) == -np.inf).all()
  assert np.isfinite(np.asarray(happy.hardness(jnp.zeros((3, 2)), jnp.zeros(3, bool), 0.2))).all()
  few, _ = happy.drawn_prototypes(jax.random.key(0), jnp.float32(p), logits, jnp.float32(0.3), 5)
  np.testing.assert_array_equal(few, drawn[:5])


def test_new_directions_are_the_centres_that_old_classes_claim_least():
  rng = np.random.default_rng(2)
  directions, centres = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
  old, new, there = np.array([1, 0, 1, 0, 0, 0], bool), np.array([0, 1, 0, 0, 1, 0], bool), np.arange(6) < 4
  got = np.asarray(
    happy.new_directions(*map(jnp.asarray, (np.float32(centres), there, np.float32(directions), old, new)))
  )
  claimed = (unit(centres) @ unit(directions[old]).T).max(1)[:4]
  size = np.linalg.norm(directions[new], axis=1).mean()
  np.testing.assert_allclose(got[new], size * unit(centres)[np.argsort(claimed)[:2]], rtol=1e-5)
  np.testing.assert_array_equal(got[~new], np.float32(directions)[~new])


def test_centres_outside_take_no_rows():
  x = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
  alone = k_means(jax.random.key(1), jnp.asarray(x), jnp.ones(40), 3, 7)
  among = k_means(jax.random.key(1), jnp.asarray(x), jnp.ones(40), 6, 7, jnp.arange(6) < 3)
  np.testing.assert_allclose(among[:3], alone, atol=1e-6)


def test_a_task_without_labels_begins_with_centres_of_its_rows(bench, trained):
  before, begun = trained, bench.boundary("start_task", trained, 1)
  d, e = (double(l.params)["network"]["cosine"]["directions"][:, :, 0] for l in (before, begun))
  np.testing.assert_array_equal(d[:, :2], e[:, :2])
  np.testing.assert_array_equal(d[:, 4:], e[:, 4:])
  assert (np.abs(d - e)[:, 2:4].max(0) > 1e-4).all()
  assert np.asarray(begun.method_state.begun).tolist() == [True] * 4 + [False] * 2
  rest = tree.map_named(lambda n, a: jnp.zeros_like(a) if n.endswith("directions") else a, before.params)
  assert_same(rest, tree.map_named(lambda n, a: jnp.zeros_like(a) if n.endswith("directions") else a, begun.params))
  rows = bench.stream.train[1]
  f = jnp.float32(said(before.params, bench.stream.dataset.train.x[rows])[0])
  key = tree.fold(jax.random.fold_in(before.key, before.step), "start_task")
  centres = k_means(key, f, jnp.ones(len(rows)), 4, happy.STEPS)
  old, new = np.arange(6) < 2, np.isin(np.arange(6), (2, 3))
  want = happy.new_directions(centres, jnp.ones(4, bool), *map(jnp.asarray, (np.float32(d.T), old, new)))
  np.testing.assert_allclose(e.T, want, rtol=1e-4, atol=1e-5)


def test_a_first_task_without_labels_begins_as_it_is(bench):
  start = bench.start()
  assert_same(start.params, bench.boundary("start_task", start, 1, ()).params)


def test_a_task_with_labels_begins_as_it_is(class_stream, small_model):
  bench = Bench("happy", class_stream, small_model, HYPER)
  learner = bench.train(1, (0,))
  assert_same(learner.params, bench.boundary("start_task", learner, 1).params)


@pytest.mark.parametrize("labelled", [True, False])
def test_prototypes_are_means_of_norm_one(labelled, bench, class_stream, small_model):
  """Of classes, where they are known; else of the rows that are taken for one, and of none the direction."""
  bench = Bench("happy", class_stream, small_model, HYPER) if labelled else bench
  first = bench.train(3, (0,))
  learner = bench.steps(bench.boundary("start_task", first, 1), 1, 2, met=(0,))
  directions = learner.params["network"]["cosine"]["directions"]
  far = learner._replace(params=tree.map_named(
    lambda n, a: directions.at[:, 3].set(-directions[:, 2]) if n.endswith("cosine/directions") else a, learner.params
  ))  # fmt: skip
  ended = bench.boundary("end_task", far, 1, (0,)).method_state
  split, rows = bench.stream.dataset.train, np.asarray(bench.stream.train[1])
  f, _, z = said(far.params, split.x[rows])
  label = split.y[rows] if labelled else z[:, :4].argmax(1)
  direction = unit(np.asarray(directions, np.float64)[:, :, 0].T)
  direction[3] = -direction[2]
  want = [unit(f[label == c].mean(0)) if (label == c).any() else direction[c] for c in (2, 3)]
  np.testing.assert_allclose(ended.prototypes[2:4], want, atol=1e-5)
  np.testing.assert_array_equal(ended.prototypes[:2], first.method_state.prototypes[:2])
  np.testing.assert_allclose(np.linalg.norm(ended.prototypes[:4], axis=1), 1, rtol=1e-5)
  assert not np.asarray(ended.prototypes[4:]).any()
  assert float(ended.radius) == float(first.method_state.radius)


def test_the_radius_is_of_the_first_task(bench):
  learner = bench.train(3, (0,))
  split, rows = bench.stream.dataset.train, np.asarray(bench.stream.train[0])
  f, y = said(learner.params, split.x[rows])[0], split.y[rows]
  traces = [((f[y == c] - f[y == c].mean(0)) ** 2).sum(1).mean() for c in (0, 1)]
  np.testing.assert_allclose(float(learner.method_state.radius), np.sqrt(np.mean(traces) / f.shape[1]), rtol=1e-4)


def test_the_teacher_is_the_model_that_ended_the_task(bench, trained):
  assert_same(trained.method_state.teacher.params, trained.params)


def test_absent_rows_are_clustered_with_none(bench, trained):
  """Whatever stands in rows of weight 0: the value and the step are those of the others."""
  begun = bench.boundary("start_task", trained, 1)
  there = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.int32)
  data, where, alive, index, task, offered = bench.arguments(1, 0, there)
  other = jnp.where(jnp.asarray(there) > 0, index, index[0])
  one, two = (bench.step(begun, data, where, alive, i, task, offered) for i in (index, other))
  assert_same(one[0], two[0])
  none = bench.step(begun, data, where, alive, index, task, jnp.zeros_like(offered))
  assert np.isfinite(float(none[2]))


def test_only_begun_classes_answer(bench, trained):
  x = jnp.asarray(bench.stream.dataset.test.x)
  say = jax.jit(lambda l: bench.parts.predict(l, x, jnp.int32(0)))
  assert np.isfinite(np.asarray(say(bench.start()))).all()
  z = np.asarray(say(trained))
  assert (z[:, 2:] == -np.inf).all()
  np.testing.assert_allclose(
    z[:, :2], said(trained.params, bench.stream.dataset.test.x)[2][:, :2], rtol=1e-4, atol=1e-5
  )


def test_a_class_that_goes_leaves_no_prototype(bench, trained):
  gone = jnp.arange(6) == 0
  state = bench.parts.scrub(trained, jnp.zeros((1, bench.spec.num_rows), bool), gone).method_state
  assert not np.asarray(state.prototypes[0]).any()
  assert np.asarray(state.begun).tolist() == [False, True, False, False, False, False]
  kept = state.teacher.params["network"]["cosine"]["directions"]
  assert not np.asarray(kept[:, 0]).any()
  np.testing.assert_array_equal(kept[:, 1:], trained.params["network"]["cosine"]["directions"][:, 1:])


def test_happy_needs_pictures_and_features(hidden):
  flat = spec_of(hidden, 8)
  row = jax.ShapeDtypeStruct((16,), np.float32)
  model = models.mlp((4, 4, 1), 4, hidden=(8,))
  with pytest.raises(UsageError, match=r"method\.name: 'happy' makes second views of pictures; expected inputs"):
    methods.make("happy", model, flat._replace(shown=row))
  blind = model._replace(apply=lambda *a, **k: (model.apply(*a, **k)[0]._replace(features=None), a[1]))
  with pytest.raises(UsageError, match="'happy' needs a model that returns features"):
    methods.make("happy", blind, flat)
