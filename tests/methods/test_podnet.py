"""PODNet's losses, its centres and its balanced training against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE

from cljax import methods, models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.estimators import clusters
from cljax.methods.replay import podnet
from cljax.models import heads

HYPER = {"capacity": 12, "replay_batch": 12, "directions": 3, "passes": 2, "rate": 0.05, "spatial": 3.0, "flat": 2.0}


def unit(f, axis=-1):
  return f / np.linalg.norm(f, axis=axis, keepdims=True)


def stored(state):
  return np.asarray(state.rows["id"])[: int(state.count)]


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def network():
  return models.cnn((4, 4, 1), 6, widths=(3, 5))


@pytest.fixture(scope="module")
def trained(three, network):
  """A bench; the learner after one task; at the beginning of the second; a step on; after the second."""
  bench = Bench("podnet", three, network, HYPER)
  one = bench.train(3, (0,))
  begun = bench.boundary("start_task", one, 1)
  moved = bench.step(begun, *bench.arguments(1, 1))[0]
  return bench, one, begun, moved, bench.boundary("end_task", moved, 1)


def said(network, params, x):
  """Features and maps of the network, which is Flax's own."""
  out, _ = network.apply(params["network"], {}, jnp.asarray(x, jnp.float32), train=False, key=jax.random.key(0))
  return jax.tree.map(lambda a: np.asarray(a, np.float64), (out.features, out.hidden))


def similarity(params, f):
  """``sum_k softmax_k(c) c`` of the cosines with each class's directions."""
  w = unit(np.asarray(params["cosine"]["directions"], np.float64), 0)
  c = np.einsum("bd,dck->bck", unit(f), w)
  s = np.exp(c) / np.exp(c).sum(-1, keepdims=True)
  return (s * c).sum(-1)


def nca(c, s, y, margin, classes):
  each = []
  for i, label in enumerate(y):
    rest = np.logaddexp.reduce([s * c[i, k] for k in classes if k != label])
    each.append(max(0.0, rest - s * (c[i, label] - margin)))
  return np.array(each)


def pooled(h):
  flat = lambda a: a.reshape(len(a), -1)
  return unit(np.concatenate([flat((h**2).sum(1)), flat((h**2).sum(2))], -1))


def test_podnet_s_loss_by_hand(trained, network):
  """``NCA + sqrt(4 / 2) (3 mean_stages |P - P_old| + 2 (1 - cos))`` over the union of rows and exemplars."""
  bench, one, _, moved, _ = trained
  after, _, loss = bench.step(moved, *bench.arguments(1, 0))
  split, kept = bench.stream.dataset.train, stored(one.method_state.memory)
  share = len(kept) / (len(kept) + len(bench.stream.train[1]))
  total, s = 0.0, float(moved.params["cosine"]["scale"])
  for part, rows in ((1 - share, np.asarray(bench.rows(1, 0)[0])), (share, kept)):
    (f, h), (g, k) = (said(network, l.params, split.x[rows]) for l in (moved, one))
    gap = np.mean([np.linalg.norm(pooled(a) - pooled(b), axis=-1) for a, b in zip(h, k, strict=True)], 0)
    held = 3.0 * gap + 2.0 * (1 - (unit(f) * unit(g)).sum(-1))
    each = nca(similarity(moved.params, f), s, split.y[rows], 0.6, range(4)) + np.sqrt(2) * held
    total += part * each.mean()
    assert len(h) == 2
    assert gap.min() > 0
  np.testing.assert_allclose(float(loss), total, rtol=2e-5)
  step = jax.tree.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / -RATE, after.params, moved.params)
  np.testing.assert_array_equal(step["cosine"]["directions"][:, :2], 0)
  np.testing.assert_array_equal(step["cosine"]["directions"][:, 4:], 0)
  assert np.abs(step["cosine"]["directions"][:, 2:4]).max() > 1e-4


def test_layers_of_other_forms_are_maps_too(trained, class_stream):
  """Tokens are a map one wide, a dense layer one of one place; a model that returns none is refused."""
  rng = np.random.default_rng(0)
  for shape, four in (((5, 6), (5, 1, 1, 6)), ((5, 3, 6), (5, 3, 1, 6)), ((5, 3, 2, 6), (5, 3, 2, 6))):
    a = rng.normal(size=shape)
    np.testing.assert_allclose(podnet.pooled(jnp.asarray(a, jnp.float32)), pooled(a.reshape(four)), atol=1e-6)
  model = models.mlp((4, 4, 1), 4, hidden=(8,))
  bare = model._replace(apply=lambda *a, **k: (model.apply(*a, **k)[0]._replace(hidden=()), {}))
  with pytest.raises(UsageError, match="'podnet' needs a model that returns hidden activations"):
    methods.make("podnet", bare, spec_of(class_stream, 8))


def test_the_first_step_behind_a_boundary_is_not_held(trained):
  """Distances are 0, and so are their slopes, not NaN: any weight gives the same step."""
  bench, _, begun, *_ = trained
  some = [bench.step(begun, *bench.arguments(1, 0), spatial=v, flat=v)[0] for v in (0.0, 30.0)]
  for a, b in zip(*(jax.tree.leaves(l.params) for l in some), strict=True):
    assert np.isfinite(np.asarray(a)).all()
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_margin_is_the_label_s_alone():
  """It moves the loss by s times itself where it is not cut; the released one is the same for 0 and 0.6, and its sum
  has e^0 for the label."""
  rng = np.random.default_rng(0)
  c, y = rng.uniform(-1, 1, (7, 5)), rng.integers(0, 3, 7)
  mask = np.tile([True, True, True, True, False], (7, 1))
  of = lambda margin, form: np.asarray(podnet.nca(jnp.asarray(c), 2.0, jnp.asarray(y), margin, jnp.asarray(mask), form))
  np.testing.assert_allclose(of(0.6, "paper"), nca(c, 2.0, y, 0.6, range(4)), rtol=1e-5, atol=1e-6)
  hit = (of(0.0, "paper") > 0) & (of(0.6, "paper") > 0)
  np.testing.assert_allclose((of(0.6, "paper") - of(0.0, "paper"))[hit], 1.2, rtol=1e-5)
  np.testing.assert_array_equal(of(0.6, "released"), of(0.0, "released"))
  for i in range(7):
    z = 2.0 * c[i, :4] - 2.0 * c[i, :4].max()
    rest = np.exp(np.delete(z, y[i])).sum()
    np.testing.assert_allclose(of(0.6, "released")[i], -z[y[i]] + np.log(1 + rest), rtol=1e-5)
  alone = podnet.nca(jnp.asarray(c), 2.0, jnp.asarray(y), 0.6, jnp.asarray(np.eye(5, dtype=bool)[y]))
  np.testing.assert_array_equal(alone, 0)
  slope = jax.grad(lambda c: podnet.nca(c, 2.0, jnp.asarray(y), 0.6, jnp.asarray(np.eye(5, dtype=bool)[y])).sum())
  np.testing.assert_array_equal(slope(jnp.asarray(c)), 0)


def test_equal_directions_are_one():
  """A class whose directions are equal is a plain cosine."""
  rng = np.random.default_rng(0)
  w, f = rng.normal(size=(6, 4, 1)), rng.normal(size=(5, 6))
  got = heads.cosines({"directions": jnp.asarray(np.tile(w, 3), jnp.float32)}, jnp.asarray(f, jnp.float32))
  np.testing.assert_allclose(got, unit(f) @ unit(w[..., 0], 0), atol=1e-6)
  several = rng.normal(size=(6, 4, 3))
  got = heads.cosines({"directions": jnp.asarray(several, jnp.float32)}, jnp.asarray(f, jnp.float32))
  np.testing.assert_allclose(got, similarity({"cosine": {"directions": several}}, f), atol=1e-6)


def test_new_directions_begin_at_centres_of_their_rows(trained, network):
  """Each is the mean of the rows that are nearest to it; at the mean norm of old ones."""
  bench, one, begun, *_ = trained
  split, rows = bench.stream.dataset.train, np.asarray(bench.stream.train[1])
  before, after = (np.asarray(l.params["cosine"]["directions"], np.float64) for l in (one, begun))
  size = np.linalg.norm(before[:, :2], axis=0).mean()
  np.testing.assert_array_equal(after[:, [0, 1, 4, 5]], before[:, [0, 1, 4, 5]])
  np.testing.assert_allclose(np.linalg.norm(after[:, 2:4], axis=0), size, rtol=1e-5)
  assert_same(begun.params["network"], one.params["network"])
  start = bench.start()
  assert_same(bench.boundary("start_task", start, 0).params, start.params)
  for c in (2, 3):
    f = unit(said(network, one.params, split.x[rows[split.y[rows] == c]])[0])
    near = (f @ unit(after[:, c], 0)).argmax(-1)  # the centres' lengths differ little
    for k in set(near.tolist()):
      assert unit(f[near == k].mean(0)) @ unit(after[:, c, k]) > 0.99


def test_k_means_is_lloyd_s():
  """Against loops from the same rows; absent rows are not there; of too few rows some centres repeat."""
  rng = np.random.default_rng(0)
  x = np.concatenate([rng.normal(c, 0.3, (8, 2)) for c in ((0, 0), (3, 0), (0, 4))])
  weight = np.ones(24)
  weight[[1, 9]] = 0
  broken = np.where(weight[:, None] > 0, x, np.nan)
  start = np.asarray(clusters.k_means(jax.random.key(0), jnp.asarray(broken), jnp.asarray(weight), 3, 0), np.float64)
  assert all((np.abs(x[weight > 0] - s).max(-1) < 1e-6).any() for s in start)
  centres = start.copy()
  for _ in range(5):
    near = ((x[:, None] - centres) ** 2).sum(-1).argmin(-1)
    centres = np.stack([x[(near == k) & (weight > 0)].mean(0) for k in range(3)])
  got = clusters.k_means(jax.random.key(0), jnp.asarray(broken), jnp.asarray(weight), 3, 5)
  np.testing.assert_allclose(got, centres, rtol=1e-4, atol=1e-5)
  few = clusters.k_means(jax.random.key(0), jnp.asarray(x), jnp.asarray(weight * (np.arange(24) < 3)), 4, 3)
  assert np.isfinite(np.asarray(few)).all()
  gap = np.abs(np.asarray(few)[:, None] - x[[0, 2]][None]).max(-1)
  assert (gap.min(1) < 1e-6).all()
  assert (gap.min(0) < 1e-6).all()
  np.testing.assert_array_equal(clusters.k_means(jax.random.key(0), jnp.asarray(x), jnp.zeros(24), 3), 0)


def test_directions_are_trained_on_exemplars_when_a_task_ends(trained, network):
  """SGD with momentum on the NCA by hand, both passes in one batch of all twelve; nothing else moves; not in the first
  task. The teacher is what is left."""
  bench, _one, _, moved, two = trained
  whole = Bench("podnet", bench.stream, network, HYPER, rows=12)
  end = whole.boundary("end_task", moved, 1)
  split, kept = bench.stream.dataset.train, stored(end.method_state.memory)
  assert np.bincount(split.y[kept]).tolist() == [3] * 4
  assert_same(end.params["network"], moved.params["network"])
  assert_same(end.method_state.teacher.params, end.params)
  f = said(network, moved.params, split.x[kept])[0]
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), moved.params["cosine"])
  loss = lambda w, s, fixed=None: nca(
    similarity({"cosine": {"directions": w}}, f), s, split.y[kept], 0.6 * (fixed or s) / s, range(4)
  ).mean()
  velocity = jax.tree.map(np.zeros_like, params)
  for _ in range(2):
    w, s = params["directions"], params["scale"]
    slope = {"scale": (loss(w, s + 1e-6, s) - loss(w, s - 1e-6, s)) / 2e-6, "directions": np.zeros_like(w)}
    for at in np.ndindex(*w.shape):
      h = np.zeros_like(w)
      h[at] = 1e-6
      slope["directions"][at] = (loss(w + h, s) - loss(w - h, s)) / 2e-6
    velocity = {n: 0.9 * velocity[n] + slope[n] for n in params}
    params = {n: params[n] - 0.05 * velocity[n] for n in params}
  for name, value in params.items():
    np.testing.assert_allclose(end.params["cosine"][name], value, atol=5e-6)
  assert np.abs(np.asarray(two.params["cosine"]["directions"] - moved.params["cosine"]["directions"])).max() > 1e-5
  start = bench.steps(bench.start(), 0, 1)
  assert_same(bench.boundary("end_task", start, 0).params, start.params)
