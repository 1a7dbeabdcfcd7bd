"""SCR and its views against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import batch_of, forward

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods import views
from cljax.models import heads

HYPER = {"capacity": 20, "replay_batch": 20, "width": 5, "temperature": 0.3}


def unit(f):
  return f / np.linalg.norm(f, axis=-1, keepdims=True)


def projected(params, x):
  """``relu(f A + a) B + b`` of norm 1."""
  head = jax.tree.map(lambda a: np.asarray(a, np.float64), params["projection"])
  f = forward(params["network"], x)[0]
  h = np.maximum(f @ head["hidden"]["kernel"] + head["hidden"]["bias"], 0)
  return unit(h @ head["out"]["kernel"] + head["out"]["bias"])


def contrast(a, b, y, temperature):
  """Row by row, over both views."""
  z, label, each = np.concatenate([a, b]), np.r_[y, y], []
  for i in range(len(z)):
    others = np.arange(len(z)) != i
    s = z @ z[i] / temperature
    log_p = s - np.logaddexp.reduce(s[others])
    each.append(-log_p[others & (label == label[i])].mean())
  return np.mean(each)


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench whose second views are doubled pictures; at its start, a step on, and after two of each task."""
  patch = pytest.MonkeyPatch()
  patch.setattr(views, "second_view", lambda key, x, *_, **__: 2.0 * x[:, ::-1])
  bench = Bench("scr", class_stream, small_model, HYPER)
  start = bench.start()
  one, _, first = bench.step(start, *bench.arguments(0, 0))
  two, _, second = bench.step(one, *bench.arguments(0, 1))
  end = bench.steps(two, 1, 3, met=(0,))
  patch.undo()
  return bench, (start, one, two, end), (float(first), float(second))


def test_nothing_is_learned_while_nothing_is_stored(trained):
  _bench, (start, one, *_), losses = trained
  assert losses[0] == 0
  assert_same(one.params, start.params)


def test_scr_s_loss_is_the_contrast_of_two_views(trained):
  """Of the batch and all that is stored, a row's own second view among its positives; the classifier stands still."""
  bench, (start, one, two, end), losses = trained
  parts = [batch_of(bench, 0, k) for k in (1, 0)]
  x, y = (np.concatenate(a) for a in zip(*parts, strict=True))
  views_ = projected(one.params, x), projected(one.params, 2.0 * x[:, ::-1])
  np.testing.assert_allclose(losses[1], contrast(*views_, y, 0.3), rtol=1e-5)
  assert_same(end.params["network"]["head"], start.params["network"]["head"])
  for part in ("network", "projection"):
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)).max(), two.params[part], one.params[part])
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_scr_answers_by_the_nearest_mean_of_stored_rows(trained):
  """Under the network of now, without the projection; of a class without rows never."""
  bench, (start, _one, two, end), _ = trained
  split, x = bench.stream.dataset.train, bench.stream.dataset.test.x
  predict = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  np.testing.assert_allclose(predict(start), forward(start.params["network"], x)[1], atol=1e-5)
  for learner in (two, end):
    state = learner.method_state.memory
    ids = np.asarray(state.rows["id"])[: int(state.count)]
    of = lambda x, learner=learner: unit(forward(learner.params["network"], x)[0])
    want = np.full((len(x), 4), -np.inf)
    for c in set(split.y[ids].tolist()):
      mean = unit(of(split.x[ids[split.y[ids] == c]]).mean(0))
      want[:, c] = -((of(x) - mean) ** 2).sum(-1)
    np.testing.assert_allclose(predict(learner), want, atol=2e-5)
    assert np.isinf(want).any() == (learner is two)
  named = jnp.zeros(bench.spec.num_rows, bool).at[np.flatnonzero(split.y == 3)].set(True)
  left = jax.jit(bench.parts.scrub)(end, named, jnp.zeros(4, bool))
  assert np.isneginf(np.asarray(predict(left))[:, 3]).all()


def test_the_contrast_knows_no_scale_of_features_and_no_order():
  rng = np.random.default_rng(0)
  head = {
    "hidden": {"kernel": rng.normal(size=(6, 6)), "bias": np.zeros(6)},
    "out": {"kernel": rng.normal(size=(6, 4)), "bias": np.zeros(4)},
  }
  head = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), head)
  f = jnp.asarray(np.abs(rng.normal(size=(7, 6))), jnp.float32)
  np.testing.assert_allclose(heads.projected(head, 5.0 * f), heads.projected(head, f), atol=1e-6)


def test_scr_needs_pictures(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"'scr' makes second views of pictures; expected inputs \[H, W, C\]"):
    methods.make("scr", small_model, spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32)))
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'scr' needs a model that returns features"):
    methods.make("scr", bare, spec)


def keys(n):
  return jax.random.split(jax.random.key(0), n)


def test_cuts_are_parts_of_the_picture():
  """Of a picture that is linear in its place a cut is too: its slopes say how large it is, its corners lie inside."""
  height, width = 12, 16
  i, j = np.mgrid[:height, :width]
  x = jnp.asarray(np.stack([i + 0.5, j + 0.5], -1), jnp.float32)
  cut = np.asarray(jax.vmap(lambda key: views.cut_out(key, x, 0.2))(keys(400)))
  inner = cut[:, 3:-3, 3:-3]
  tall, wide = np.diff(inner[..., 0], axis=1), np.diff(inner[..., 1], axis=2)
  for d in (tall, wide):
    np.testing.assert_allclose(d, np.broadcast_to(d[:, :1, :1], d.shape), atol=1e-3)
  tall, wide = tall[:, 0, 0], wide[:, 0, 0]
  area, ratio = tall * wide, wide / tall
  assert 0.19 < area.min() < 0.25
  assert area.max() <= 1.001
  free = (tall < 0.999) & (wide < 0.999)
  assert ratio[free].min() > 0.74
  assert ratio[free].max() < 1.34
  assert np.log(ratio[free]).mean() == pytest.approx(0, abs=0.05)
  assert cut.min() > 0
  assert cut[..., 0].max() < height
  assert cut[..., 1].max() < width
  whole = jax.vmap(lambda key: views.cut_out(key, jnp.ones((8, 8, 1)), 1.0))(keys(9))
  np.testing.assert_allclose(whole, 1.0, atol=1e-5)


def test_colours_keep_what_they_should():
  """Strength 0 is the picture; a hue keeps the luminance and the chroma's size; one channel is a line."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.uniform(0, 1, (5, 6, 3)), jnp.float32)
  np.testing.assert_allclose(views.recoloured(jax.random.key(0), x, 0.0), x, atol=1e-5)
  luma = np.asarray(x, np.float64) @ np.array(views.LUMA)
  for key in keys(5):
    got = np.asarray(views.recoloured(key, x, 0.4), np.float64)
    factors = 1 + 0.4 * np.asarray(jax.random.uniform(views.fold(key, "factors"), (3,), minval=-1.0, maxval=1.0))
    want = factors[0] * (luma.mean() + factors[1] * (luma - luma.mean()))
    np.testing.assert_allclose(got @ np.array(views.LUMA), want, atol=1e-4)
    chroma = lambda a: np.linalg.norm(a @ views.YIQ[1:].T.astype(np.float64), axis=-1)
    np.testing.assert_allclose(chroma(got), factors.prod() * chroma(np.asarray(x, np.float64)), atol=1e-4)
    one = np.asarray(views.recoloured(key, x[..., :1], 0.4))
    line = factors[0] * (x[..., :1].mean() + factors[1] * (x[..., :1] - x[..., :1].mean()))
    np.testing.assert_allclose(one, line, atol=1e-5)


def test_views_are_mirrored_and_grey_as_often_as_said():
  x = jnp.asarray(np.tile(np.linspace(0.1, 1, 8)[None, :, None] * np.array([1, 0.5, 0.2]), (600, 8, 1, 1)), jnp.float32)
  view = jax.jit(lambda key, grey, flip: views.second_view(key, x, 1.0, 0.0, grey, flip))
  got = np.asarray(view(jax.random.key(0), 0.3, True))
  mirrored = got[:, 4, 1, 0] > got[:, 4, 6, 0]
  grey = np.abs(got[..., 0] - got[..., 2]).max((1, 2)) < 1e-4
  np.testing.assert_allclose([mirrored.mean(), grey.mean()], [0.5, 0.3], atol=0.06)
  straight = np.asarray(view(jax.random.key(0), 0.0, False))
  assert (straight[:, 4, 1, 0] < straight[:, 4, 6, 0]).all()
  coloured = views.second_view(jax.random.key(0), x, 1.0, 0.4, 0.0, False)
  changed = np.abs(np.asarray(coloured) - straight).max((1, 2, 3)) > 1e-3
  assert changed.mean() == pytest.approx(0.8, abs=0.06)
