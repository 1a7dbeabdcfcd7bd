"""PCR against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of
from normed import normed
from proxies_by_hand import contrast, cosines, doubled, of_two_views

from cljax import losses, methods, models
from cljax.core import tree
from cljax.core.types import Batch, UsageError
from cljax.engine.setup import spec_of
from cljax.methods import views
from cljax.methods.replay import pcr
from cljax.models import heads

T = 0.3
HYPER = {"capacity": 20, "replay_batch": 20, "temperature": T}


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench whose second views are mirrored pictures of twice the size; at its start, a step on, then one of task 1."""
  patch = pytest.MonkeyPatch()
  patch.setattr(views, "second_view", doubled)
  bench = Bench("pcr", class_stream, small_model, HYPER)
  start = bench.start()
  one, _, first = bench.step(start, *bench.arguments(0, 0))
  two, _, second = bench.step(one, *bench.arguments(1, 1, met=(0,)))
  patch.undo()
  return bench, (start, one, two), (float(first), float(second))


def rows_of_step(bench):
  """Of the second step: its own and all that is stored."""
  parts = [batch_of(bench, *at) for at in ((1, 1), (0, 0))]
  return tuple(np.concatenate(a) for a in zip(*parts, strict=True))


def test_pcr_s_loss_is_the_contrast_with_proxies_of_the_batch(trained):
  """Of both views of the step's rows and of all that is stored; the first step has its own rows alone, and learns."""
  bench, (start, one, _two), losses_ = trained
  x, y = batch_of(bench, 0, 0)
  np.testing.assert_allclose(losses_[0], of_two_views(start.params, x, y, T), rtol=1e-5)
  np.testing.assert_allclose(losses_[1], of_two_views(one.params, *rows_of_step(bench), T), rtol=1e-5)
  moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)).max(), one.params, start.params)
  assert moved["network"]["hidden_0"]["kernel"] > 1e-4
  assert moved["cosine"]["directions"] > 1e-4


def test_pcr_s_gradient_by_differences(trained):
  """Along random directions, against the loss by hand; the model's own classifier stands still."""
  bench, (_, one, two), _ = trained
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - np.asarray(b)) / -RATE, two.params, one.params)
  assert_same(two.params["network"]["head"], one.params["network"]["head"])
  rng, rows = np.random.default_rng(0), rows_of_step(bench)
  for _ in range(3):
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), step)
    at = lambda t, direction=direction: of_two_views(
      jax.tree.map(lambda p, d: np.asarray(p, np.float64) + t * d, one.params, direction), *rows, T
    )
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3)


def test_proxies_of_absent_classes_stand_still(trained):
  """In the first task those of the second, to the bit; all of them in the second, where both are replayed."""
  _, (start, one, two), _ = trained
  moved = lambda a, b: np.abs(np.asarray(b.params["cosine"]["directions"] - a.params["cosine"]["directions"])).max(
    (0, 2)
  )
  assert (moved(start, one)[2:] == 0).all()
  assert (moved(start, one)[:2] > 1e-5).all()
  assert (moved(one, two) > 1e-5).all()


def test_answers_are_of_labels_that_were_seen(trained):
  """-inf for others, the cosines over the temperature for these; a class that is forgotten whole is unseen again."""
  bench, (start, one, two), _ = trained
  x = bench.stream.dataset.test.x
  predict = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  for learner, open_ in ((start, [1, 1, 1, 1]), (one, [1, 1, 0, 0]), (two, [1, 1, 1, 1])):
    want = np.where(np.array(open_) > 0, cosines(learner.params, x) / T, -np.inf)
    np.testing.assert_allclose(predict(learner), want, rtol=1e-4, atol=1e-5)
  split = bench.stream.dataset.train
  named = jnp.zeros(bench.spec.num_rows, bool).at[np.flatnonzero(split.y == 1)].set(True)
  left = jax.jit(bench.parts.scrub)(two, named, jnp.arange(4) == 1)
  state, before = left.method_state, two.method_state
  np.testing.assert_array_equal(state.seen, [True, False, True, True])
  kept = np.asarray(before.replay.memory.rows["id"])[:8]
  kept = kept[split.y[kept] != 1]
  assert 0 < len(kept) == int(state.replay.memory.count) < 8
  np.testing.assert_array_equal(np.sort(np.asarray(state.replay.memory.rows["id"])[: len(kept)]), np.sort(kept))
  assert not np.asarray(state.replay.memory.rows["x"])[len(kept) :].any()
  assert np.isneginf(np.asarray(predict(left))[:, 1]).all()


def test_proxy_contrast_is_cross_entropy_with_the_batch_s_prior():
  """Over the classes that are there, n_c their prior, plus the mean of log n_y: 2, 1 and 3 rows of classes 0, 1, 3."""
  rng = np.random.default_rng(0)
  z, y = rng.normal(size=(7, 5)), np.array([0, 3, 0, 1, 3, 3, 4])
  weight = np.array([1.0, 1, 1, 1, 1, 1, 0])
  count = np.array([2.0, 1, 0, 3, 0])
  got = np.asarray(
    pcr.proxy_contrast(*(jnp.asarray(a, d) for a, d in ((z, "float32"), (y, "int32"), (weight, "float32"))))
  )
  with np.errstate(divide="ignore"):
    adjusted = z[:6] + np.log(count)
  own = np.arange(6), y[:6]
  cross = np.logaddexp.reduce(adjusted, -1) - adjusted[own]
  np.testing.assert_allclose(got[:6], cross + np.log(count[y[:6]]), rtol=1e-5)
  np.testing.assert_allclose(got[:6].mean(), contrast(z[:6], y[:6], 1.0), rtol=1e-5)
  slope = jax.jit(
    jax.grad(lambda z: losses.reduce(pcr.proxy_contrast(z, jnp.asarray(y), jnp.asarray(weight)), jnp.asarray(weight)))
  )
  d = np.asarray(slope(jnp.asarray(z, jnp.float32)))
  assert (d[:, [2, 4]] == 0).all()
  assert (d[6] == 0).all()
  assert (np.abs(d[:6][:, [0, 1, 3]]) > 1e-6).all()
  np.testing.assert_allclose(d.sum(1), 0, atol=1e-6)
  mask = np.ones((7, 5), bool)
  mask[0, 3] = mask[1, 0] = False
  masked = np.asarray(pcr.proxy_contrast(jnp.asarray(z), jnp.asarray(y), jnp.asarray(weight), jnp.asarray(mask)))
  np.testing.assert_allclose(masked[0], np.log(2 * np.exp(z[0, 0]) + np.exp(z[0, 1])) - z[0, 0], rtol=1e-5)
  np.testing.assert_allclose(masked[1], np.log(np.exp(z[1, 1]) + 3 * np.exp(z[1, 3])) - z[1, 3], rtol=1e-5)
  np.testing.assert_allclose(masked[2:6], got[2:6], rtol=1e-6)


def test_only_directions_of_features_and_proxies_count(class_stream, small_model):
  """Features or proxies of another size leave the loss where it is; another temperature does not."""
  spec = spec_of(class_stream, 8)
  network = heads.cosine_classifier(small_model, spec, "pcr", scale=1 / T, learned=False)
  params, state = network.init(jax.random.key(0))
  assert set(params["cosine"]) == {"directions"}
  x, y = class_stream.dataset.train.x[:8], jnp.asarray(class_stream.dataset.train.y[:8])
  told = {"train": True, "key": jax.random.key(0), "task": None, "mask": None}

  def made(network):
    return jax.jit(lambda p: pcr.proxy_contrast(network.apply(p, state, x, **told)[0].logits, y, jnp.ones(8)))

  loss = made(network)

  def larger(part):
    return tree.map_named(lambda n, a: 3.0 * a if n.startswith(part) else a, params)

  np.testing.assert_allclose(loss(larger("network/hidden_0")), loss(params), rtol=1e-5)
  np.testing.assert_allclose(loss(larger("cosine/directions")), loss(params), rtol=1e-5)
  np.testing.assert_allclose(loss(params).mean(), contrast(cosines(params, x), np.asarray(y), T), rtol=1e-5)
  cold = heads.cosine_classifier(small_model, spec, "pcr", scale=2 / T, learned=False)
  np.testing.assert_allclose(made(cold)(params).mean(), contrast(cosines(params, x), np.asarray(y), T / 2), rtol=1e-5)


def test_without_views_pcr_takes_rows_of_any_form(class_stream, small_model):
  """The loss is then of the rows as they are; absent ones have no part. Pictures are needed for views."""
  bench = Bench("pcr", class_stream, small_model, {**HYPER, "views": False})
  there = np.r_[np.ones(5), np.zeros(3)].astype(np.int32)
  learner = bench.step(bench.start(), *bench.arguments(0, 0))[0]
  _, _, loss = bench.step(learner, *bench.arguments(1, 1, there, met=(0,)))
  x, y = rows_of_step(bench)
  some = np.r_[0:5, 8:16]
  np.testing.assert_allclose(float(loss), contrast(cosines(learner.params, x[some]), y[some], T), rtol=1e-5)
  spec = spec_of(class_stream, 8)
  flat = spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32))
  with pytest.raises(UsageError, match=r"'pcr' makes second views of pictures; expected inputs \[H, W, C\], or"):
    methods.make("pcr", small_model, flat)
  assert methods.make("pcr", models.mlp((5,), 4, hidden=(8,)), flat, views=False).model is not None
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'pcr' needs a model that returns features"):
    methods.make("pcr", bare, spec)
  with pytest.raises(UsageError, match=r"method.temperature: got 0.0; expected a number above 0"):
    methods.make("pcr", small_model, spec, temperature=0.0)


def test_second_views_of_pcr_are_as_its_options_say(class_stream, small_model, monkeypatch):
  """Each option reaches the view that it names, and the pass is of the rows as the model eats them."""
  told = []
  monkeypatch.setattr(views, "second_view", lambda key, x, **how: told.append((x.shape, how)) or x)
  given = {"least_area": 0.7, "jitter": 0.1, "grey": 0.3, "flip": False}
  bench = Bench("pcr", class_stream, small_model, {**HYPER, **given})
  jax.eval_shape(lambda l: bench.parts.step(l, *bench.arguments(0, 0)), bench.start())
  shape, how = told[-1]
  assert shape == (28, 4, 4, 1)
  assert {k: float(v) for k, v in how.items()} == pytest.approx(
    {"least": 0.7, "jitter": 0.1, "grey_share": 0.3, "flip": 0}
  )


@pytest.mark.parametrize("name", ["pcr", "hpcr"])
def test_a_small_memory_is_drawn_whole_by_proxies(name, class_stream, small_model):
  """Once, where it is smaller than the batch; else as many rows as the batch has, or as are asked for."""
  for capacity, asked, more in ((3, 0, 3), (40, 0, 8), (40, 5, 5)):
    bench = Bench(name, class_stream, small_model, {"capacity": capacity, "replay_batch": asked})
    np.testing.assert_array_equal(bench.start().method_state.replay.pending["id"], -1)  # of no row
    batch = Batch(*(jnp.asarray(a) for a in batch_of(bench, 0, 0)), jnp.ones(8), *(jnp.zeros(8, jnp.int32),) * 2)
    batch = batch._replace(visit=bench.where(0).visit, fresh=jnp.ones(8))
    made = jax.eval_shape(bench.parts.method.prepare, jax.random.key(0), bench.start(), batch)[1]
    assert made.weight.shape == (8 + more,)


def test_second_views_are_not_counted_by_batch_norm(class_stream):
  """Its running statistics are those of the first pass; they are views of other numbers all the same."""
  benches = [Bench("pcr", class_stream, normed(), {"capacity": 20, "views": v}) for v in (True, False)]
  (twice, _, a), (once, _, b) = (bench.step(bench.start(), *bench.arguments(0, 0)) for bench in benches)
  assert_same(twice.model_state, once.model_state)
  assert abs(float(a) - float(b)) > 1e-4
