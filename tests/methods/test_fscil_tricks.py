"""The bag of tricks for few shots against NumPy: its contrast, its targets and their match, and the part that moves."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import batch_of, cross_entropy, forward, leaves
from normed import normed

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods import views
from cljax.methods.prototypes import fscil_tricks as tricks
from cljax.methods.prototypes import simplex as targets

PLAIN = {"views": False, "pseudo": False, "width": 6, "temperature": 0.3}
ALL = {"views": True, "pseudo": True, "turns": True, "width": 6, "temperature": 0.3}
LEFT = 0.2  # of the bench's ten steps: two of contrast alone


def unit(f):
  return f / np.linalg.norm(f, axis=-1, keepdims=True)


def projected(params, x):
  """``relu(f A + a) B + b`` of norm 1."""
  p, f = leaves(params["projection"]), forward(params["network"], x)[0]
  return unit(np.maximum(f @ p["hidden/kernel"] + p["hidden/bias"], 0) @ p["out/kernel"] + p["out/bias"])


def contrast(a, b, y, temperature=0.3):
  """Row by row, over both views."""
  z, label, each = np.concatenate([a, b]), np.r_[y, y], []
  for i in range(len(z)):
    others = np.arange(len(z)) != i
    s = z @ z[i] / temperature
    log_p = s - np.logaddexp.reduce(s[others])
    each.append(-log_p[others & (label == label[i])].mean())
  return np.mean(each)


def directions(classes=4, width=6):
  """Of a regular simplex, about its centre."""
  e = np.eye(classes, width)
  return unit(e - e.mean(0))


def places(learner):
  return np.asarray(learner.model_state["places"])


def crossed(learner, x, y, scale=16.0):
  return cross_entropy(scale * projected(learner.params, x) @ directions()[places(learner)].T, y).mean()


@pytest.fixture(scope="module")
def bench(class_stream, small_model):
  return Bench("fscil_tricks", class_stream, small_model, PLAIN)


@pytest.fixture(scope="module")
def based(bench):
  """The learner in the middle of the first task, whose classes have their targets; and at its end."""
  learner = bench.steps(bench.boundary("start_task", bench.start(), 0, warmup=LEFT), 0, 4, warmup=LEFT)
  return learner, bench.boundary("end_task", learner, 0)


@pytest.mark.parametrize(("classes", "width"), [(2, 2), (4, 6), (10, 128), (200, 200)])
def test_targets_are_a_simplex(classes, width):
  """All cosines are -1 / (K - 1), to rounding, and norms 1; what is beside the first K numbers is 0."""
  e = np.float64(targets.simplex(classes, width))
  assert e.shape == (classes, width)
  np.testing.assert_allclose(e @ e.T, np.where(np.eye(classes), 1.0, -1 / (classes - 1)), atol=3e-7)
  assert not e[:, classes:].any()
  assert not np.asarray(targets.simplex(1, 3)).any()


def best(means, new, taken, held):
  """The largest sum of cosines, tried in all orders; over the classes that may move."""
  free = [held[c] for c in range(len(held)) if not taken[c]]
  mine, cosines = np.flatnonzero(new & ~taken), unit(means) @ directions(len(held), means.shape[1]).T
  return max(sum(cosines[c, k] for c, k in zip(mine, order, strict=True))
             for order in itertools.permutations(free, len(mine)))  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_the_match_is_the_best_of_all_and_moves_none_that_is_taken(seed):
  rng = np.random.default_rng(seed)
  means, held = rng.normal(size=(6, 7)), rng.permutation(6).astype(np.int32)
  taken = rng.permutation([True, True, False, False, False, False])
  new = rng.permutation([True, True, True, True, False, False])
  e = targets.simplex(6, 7)
  arguments = jnp.asarray(held), jnp.float32(means), jnp.asarray(new), jnp.asarray(taken), e
  got = np.asarray(jax.jit(targets.matched)(*arguments))
  assert sorted(got) == [*range(6)]
  np.testing.assert_array_equal(got[taken], held[taken])
  mine = np.flatnonzero(new & ~taken)
  total = (unit(means)[mine] * np.float64(e)[got[mine]]).sum()
  np.testing.assert_allclose(total, best(means, new, taken, held), atol=1e-5)
  np.testing.assert_array_equal(targets.matched_where(jnp.asarray(True), *arguments), got)
  np.testing.assert_array_equal(targets.matched_where(jnp.asarray(False), *arguments), held)


def test_a_mean_that_says_nothing_has_no_preference():
  """Nor does one that is no number, and the search ends; without any, classes keep the order that they had."""
  e, none = targets.simplex(4, 4), jnp.zeros(4, bool)
  for blank in (0.0, jnp.nan, jnp.inf):
    means = jnp.where((jnp.arange(4) == 2)[:, None], e[0][None], blank)
    got = np.asarray(targets.matched(jnp.arange(4), means, ~none, none, e))
    assert sorted(got) == [0, 1, 2, 3]
    assert got[2] == 0
  np.testing.assert_array_equal(targets.matched(jnp.arange(4), jnp.zeros((4, 4)), ~none, none, e), np.arange(4))


def test_the_part_is_the_smallest_share_of_each_kernel():
  rng = np.random.default_rng(0)
  params = {"a": rng.normal(size=(5, 7)), "b": rng.normal(size=9), "c": rng.normal(size=(2, 3, 4))}
  params = {k: jnp.float32(v) for k, v in params.items()}
  got = {k: np.asarray(v) for k, v in jax.jit(targets.part_of)(params, jnp.float32(0.3)).items()}
  for name, count in (("a", 10), ("c", 7)):
    size = np.abs(np.asarray(params[name]))
    np.testing.assert_array_equal(got[name], size <= np.sort(size.ravel())[count - 1])
  assert not got["b"].any()
  assert not any(np.asarray(v).any() for v in targets.part_of(params, 0.0).values())
  assert all(np.asarray(v).all() for v in targets.part_of(params, 1.0).values())


def test_mixtures_are_classes_of_pairs():
  """Each row once with another; of two rows of one class, or of none, the weight is 0. Rows are unit vectors, so that a
  mixture tells its rows and their shares."""
  x, y = jnp.eye(8), jnp.asarray([0, 1, 2, 3, 0, 1, 2, 3])
  weight, shares = jnp.asarray([1, 1, 1, 1, 1, 1, 1, 0.0]), []
  for i in range(40):
    mixed, label, there = (np.asarray(a) for a in tricks.mixtures(jax.random.key(i), x, y, weight, 5))
    partners = np.array([next((k for k in np.flatnonzero(m) if k != row), row) for row, m in enumerate(mixed)])
    assert sorted(partners) == [*range(8)]
    assert (partners != np.arange(8)).tolist() == [True] * 7 + [False]
    pair = np.sort(np.stack([y, np.asarray(y)[partners]], 1), axis=1)
    np.testing.assert_array_equal(label, 4 * 5 + 5 * pair[:, 0] + pair[:, 1])
    np.testing.assert_array_equal(there, (pair[:, 0] != pair[:, 1]) & (np.arange(8) < 7))
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)
    shares += [m[row] for row, m in enumerate(mixed[:7])]
  assert 0.4 <= min(shares) < 0.41
  assert 0.59 < max(shares) <= 0.6


def test_the_first_task_begins_with_contrast_alone(bench):
  """Of rows of the batch and themselves; the classifier of the network, and its targets, take no part."""
  start = bench.boundary("start_task", bench.start(), 0, warmup=LEFT)
  x, y = batch_of(bench, 0, 0)
  z = projected(start.params, x)
  loss = lambda strength: float(bench.step(start, *bench.arguments(0), warmup=LEFT, contrast=strength)[2])
  np.testing.assert_allclose(loss(1.0), contrast(z, z, y), rtol=1e-5)
  np.testing.assert_allclose(loss(3.0), 3 * contrast(z, z, y), rtol=1e-5)
  assert loss(0.0) == 0
  at_once = bench.boundary("start_task", bench.start(), 0, warmup=0.0)
  loss = float(bench.step(at_once, *bench.arguments(0), warmup=0.0, contrast=0.0)[2])
  np.testing.assert_allclose(loss, crossed(at_once, x, y), rtol=1e-5)
  np.testing.assert_array_equal(places(at_once), np.arange(4))


def test_classes_get_the_targets_of_their_running_means(bench):
  """After two steps of twenty, those that the means fit best; the means go, and the cross-entropy comes."""
  learner, means = bench.boundary("start_task", bench.start(), 0, warmup=LEFT), np.zeros((4, 6))
  for k in range(2):
    x, y = batch_of(bench, 0, k)
    z = projected(learner.params, x)
    learner = bench.steps(learner, 0, 1, warmup=LEFT) if not k else bench.step(learner, *bench.arguments(0, 1))[0]
    for c in set(y.tolist()):
      means[c] += 0.1 * (z[y == c].mean(0) - means[c])
    np.testing.assert_allclose(learner.method_state.means, means, atol=1e-6)
    assert np.asarray(learner.method_state.waiting).tolist() == [True, True, False, False]
    assert not np.asarray(learner.method_state.taken).any()
  after, _, loss = bench.step(learner, *bench.arguments(0, 2), warmup=LEFT)
  cosines = unit(means[:2]) @ directions().T
  want = max(itertools.permutations(range(4), 2), key=lambda p: cosines[0, p[0]] + cosines[1, p[1]])
  assert places(after)[:2].tolist() == [*want]
  assert sorted(places(after)) == [0, 1, 2, 3]
  state = after.method_state
  assert not np.asarray(state.means).any()
  assert not np.asarray(state.waiting).any()
  assert np.asarray(state.taken).tolist() == [True, True, False, False]
  x, y = batch_of(bench, 0, 2)
  z = projected(learner.params, x)
  told = learner._replace(model_state=after.model_state)
  np.testing.assert_allclose(float(loss), crossed(told, x, y) + contrast(z, z, y), rtol=1e-5)


def test_a_first_task_that_ends_in_its_warm_up_gets_its_targets_then(bench):
  learner = bench.steps(bench.boundary("start_task", bench.start(), 0, warmup=1.0), 0, 2, warmup=1.0)
  assert np.asarray(learner.method_state.waiting).any()
  cosines = unit(np.float64(learner.method_state.means[:2])) @ directions().T
  want = max(itertools.permutations(range(4), 2), key=lambda p: cosines[0, p[0]] + cosines[1, p[1]])
  learner = bench.boundary("end_task", learner, 0)
  assert places(learner)[:2].tolist() == [*want]
  assert np.asarray(learner.method_state.taken).tolist() == [True, True, False, False]
  assert not np.asarray(learner.method_state.means).any()


def test_later_classes_get_the_best_that_are_left(bench, based):
  """By the means of all their rows when their task begins; what the first have they keep, also when they come back."""
  end = based[1]
  split, rows = bench.stream.dataset.train, bench.stream.train[1]
  z, y = projected(end.params, split.x[rows]), split.y[rows]
  means = np.stack([z[y == c].mean(0) for c in (2, 3)])
  later = bench.boundary("start_task", end, 1, (0,))
  free = [k for k in range(4) if k not in places(end)[:2]]
  cosines = unit(means) @ directions().T
  want = max(itertools.permutations(free, 2), key=lambda p: cosines[0, p[0]] + cosines[1, p[1]])
  assert places(later).tolist() == [*places(end)[:2], *want]
  assert np.asarray(later.method_state.taken).all()
  assert not np.asarray(later.method_state.waiting).any()
  x, y = batch_of(bench, 1, 0)
  loss = float(bench.step(later, *bench.arguments(1, met=(0,)))[2])
  np.testing.assert_allclose(loss, crossed(later, x, y), rtol=1e-5)
  test = bench.stream.dataset.test.x
  said = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(test), jnp.int32(0)))(later)
  np.testing.assert_allclose(said, 16 * projected(later.params, test) @ directions()[places(later)].T, atol=2e-5)
  ended = bench.boundary("end_task", bench.steps(later, 1, 2, met=(0,)), 1, (0,))
  back = bench.boundary("start_task", ended, 0, (0, 1))
  np.testing.assert_array_equal(places(back), places(later))
  assert not np.asarray(back.method_state.waiting).any()
  x, y = batch_of(bench, 0, 0)
  loss = float(bench.step(back, *bench.arguments(0, met=(0, 1)))[2])
  np.testing.assert_allclose(loss, crossed(back, x, y), rtol=1e-5)


def test_later_tasks_move_the_part_alone_at_their_rate(bench, based):
  """The share of the smallest weights when the first task ended, by ``later_rate`` of the whole update."""
  middle, _ = based
  for share in (0.3, 0.0, 1.0):
    end = bench.boundary("end_task", middle, 0, subnet=share)
    later = bench.boundary("start_task", end, 1, (0,), subnet=share)
    step = lambda rate, later=later: bench.step(later, *bench.arguments(1, met=(0,)), later_rate=rate)[0].params
    free = jax.tree.map(np.asarray, targets.part_of(middle.params, jnp.float32(share)))
    whole = bench.step(
      later._replace(opt_state=later.opt_state._replace(finalize=bench.start().opt_state.finalize)),
      *bench.arguments(1, met=(0,)), later_rate=1.0,
    )[0].params  # fmt: skip
    for rate in (1.0, 0.25):
      tree = (later.params, whole, step(rate), free)
      for before, full, got, mine in zip(*map(jax.tree.leaves, tree), strict=True):
        before, full, got = (np.asarray(a) for a in (before, full, got))
        np.testing.assert_array_equal(got[~mine], before[~mine])
        np.testing.assert_allclose(got[mine], (before + rate * (full - before))[mine], atol=1e-6)
    moved = [np.asarray(a != b) for a, b in zip(*map(jax.tree.leaves, (step(1.0), later.params)), strict=True)]
    assert any(m.any() for m in moved) == (share > 0)
    again = bench.boundary("end_task", later._replace(params=step(1.0)), 1, (0,), subnet=share)
    assert_same(again.opt_state.finalize, end.opt_state.finalize)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_running_statistics_stay_where_a_part_moves(class_stream, share):
  bench = Bench("fscil_tricks", class_stream, normed(), PLAIN)
  end = bench.train(2, (0,), subnet=share)
  assert bool(end.model_state["held"]) == (share < 1)
  later = bench.steps(bench.boundary("start_task", end, 1, (0,), subnet=share), 1, 1, met=(0,), subnet=share)
  pairs = list(zip(*(jax.tree.leaves(l.model_state["network"]) for l in (end, later)), strict=True))
  assert all((np.asarray(a) == np.asarray(b)).all() == (share < 1) for a, b in pairs)
  assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(
    jax.tree.leaves(bench.start().model_state["network"]), jax.tree.leaves(end.model_state["network"]), strict=True
  ))  # fmt: skip


@pytest.mark.parametrize("on", ["turns", "pseudo", "views"])
def test_the_contrast_is_of_second_views_turned_rows_and_mixtures(on, class_stream, small_model, monkeypatch):
  """Views are mirrored here and mixtures are halves; each second one is made of second views."""
  monkeypatch.setattr(views, "second_view", lambda key, x, *_, **__: 2.0 * x[:, ::-1])
  monkeypatch.setattr(tricks, "MIXED", (0.5, 0.5))
  monkeypatch.setattr(tricks, "partners", lambda key, there: (jnp.arange(8) + 1) % 8)
  bench = Bench("fscil_tricks", class_stream, small_model, {**ALL, "turns": on == "turns", "pseudo": on == "pseudo"})
  x, y = batch_of(bench, 0, 0)
  start = bench.boundary("start_task", bench.start(), 0)
  got = float(bench.step(start, *bench.arguments(0))[2])
  pair = np.roll(y, -1)
  if on == "turns":
    made = lambda a: np.concatenate([np.rot90(a, k, axes=(1, 2)) for k in range(4)])
    y = np.concatenate([4 * y + k for k in range(4)])
  elif on == "pseudo":
    mixed = y != pair
    made = lambda a: np.concatenate([a, ((a + np.roll(a, -1, 0)) / 2)[mixed]])
    y = np.r_[y, (100 + np.minimum(y, pair) * 10 + np.maximum(y, pair))[mixed]]
  else:
    made = lambda a: a
  want = contrast(projected(start.params, made(x)), projected(start.params, made(2.0 * x[:, ::-1])), y)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_all_of_the_contrast_at_once(class_stream, small_model, monkeypatch):
  """A whole step with every part: absent rows are as if they were not there."""
  bench = Bench("fscil_tricks", class_stream, small_model, ALL)
  start = bench.boundary("start_task", bench.start(), 0)
  weight = np.r_[np.ones(6, np.int32), 0, 0]
  index, task, there = bench.rows(0, 0, weight)
  one = bench.step(start, *bench.arguments(0, weight=weight))
  other = bench.step(start, *bench.arguments(0)[:3], index.at[6:].set(index[0]), task, there)
  assert np.isfinite(float(one[2]))
  assert_same(one[0].params, other[0].params)


def test_without_its_tricks_it_is_plain_training(class_stream, small_model):
  given = {"targets": "learned", "pseudo": False, "views": False, "width": 6}
  bench, plain = Bench("fscil_tricks", class_stream, small_model, given), Bench("finetune", class_stream, small_model)
  learner = bench.train(3, contrast=0.0, later_rate=1.0, subnet=1.0)
  other = plain.start()._replace(params=bench.start().params["network"])
  for task, met in ((0, ()), (1, (0,))):
    other = plain.steps(other, task, 3, met=met)
  assert_same(learner.params["network"], other.params)
  assert_same(learner.params["projection"], bench.start().params["projection"])
  x = class_stream.dataset.test.x
  said = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))(learner)
  np.testing.assert_allclose(said, forward(learner.params["network"], x)[1], atol=1e-5)
  start, (x, y) = bench.boundary("start_task", bench.start(), 0), batch_of(bench, 0, 0)
  z = projected(start.params, x)
  want = cross_entropy(forward(start.params["network"], x)[1], y).mean() + 2 * contrast(z, z, y, 0.1)
  np.testing.assert_allclose(float(bench.step(start, *bench.arguments(0), contrast=2.0)[2]), want, rtol=1e-5)


def test_targets_of_classes_that_go_whole_are_free_again(bench, based):
  scrub = jax.jit(bench.parts.scrub)
  left = scrub(based[1], jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 1)
  assert np.asarray(left.method_state.taken).tolist() == [True, False, False, False]
  assert_same(left._replace(method_state=()), based[1]._replace(method_state=()))


def test_the_tricks_refuse_what_they_can_not_do(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  flat = spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32))
  make = lambda spec, **given: methods.make("fscil_tricks", small_model, spec, **given)
  with pytest.raises(UsageError, match=r"second views of pictures; .* or method.views=False"):
    make(flat)
  oblong = spec._replace(shown=jax.ShapeDtypeStruct((4, 5, 1), jnp.float32))
  with pytest.raises(UsageError, match=r"method.turns: .* expected square inputs \[H, H, C\], got \[4, 5, 1\]"):
    make(oblong, turns=True)
  with pytest.raises(UsageError, match=r"method.turns: .* got \[5\]"):
    make(flat, turns=True, views=False)
  for shown in (jax.ShapeDtypeStruct((5,), jnp.int32), {"x": flat.shown}):
    with pytest.raises(UsageError, match=r"method.pseudo: .* one array of numbers, or pseudo=False"):
      make(spec._replace(shown=shown, scale=None), views=False)
  with pytest.raises(UsageError, match=r"method.width: got 3; targets of 4 classes need at least as many, or 0"):
    make(spec, width=3)
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'fscil_tricks' needs a model that returns features"):
    methods.make("fscil_tricks", bare, spec)
  shape = lambda spec, **given: jax.eval_shape(make(spec, **given).model.init, jax.random.key(0))[0]["projection"]
  assert shape(spec)["out"]["bias"].shape == (128,)
  assert shape(spec._replace(num_classes=130))["out"]["bias"].shape == (130,)
  assert shape(spec, width=4)["out"]["bias"].shape == (4,)
