"""Edits of one step on models of one's own: influence, one layer, noise, kernels, units; against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import unlearning
from cljax.unlearning._gradients import exact_fisher

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype(np.float32)
Y = np.argmax(X @ RNG.normal(size=(5, 3)) + 0.3 * RNG.normal(size=(40, 3)), 1).astype(np.int32)
PARAMS = {
  "first": {"kernel": jnp.asarray(RNG.normal(size=(5, 6)), jnp.float32), "bias": jnp.full(6, 0.1)},
  "head": {"kernel": jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32), "bias": jnp.zeros(3)},
}
FORGET, RETAIN = (X[:8], Y[:8]), (X[8:], Y[8:])


def apply_fn(params, batch):
  hidden = jnp.tanh(batch.x @ params["first"]["kernel"] + params["first"]["bias"])
  return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def loss_fn(params, batch):
  return optax.softmax_cross_entropy_with_integer_labels(apply_fn(params, batch), batch.y)


def changed(after, before=PARAMS):
  pairs = zip(cljax.core.tree.paths(before), jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  return {path for path, a, b in pairs if (np.asarray(a) != np.asarray(b)).any()}


GRADIENT = jax.jit(jax.grad(lambda p, x, y: loss_fn(p, cljax.Batch(x, y, None, None, None)).sum()))


def gradient(params, x, y):
  return GRADIENT(params, x, y)


def test_iau_is_the_papers_sum_and_the_released_sign():
  call = jax.jit(
    lambda variant, f, r: unlearning.iau(
      loss_fn, PARAMS, forget=f, retain=r, learning_rate=0.01, variant=variant, batch=8
    ),
    static_argnums=0,
  )
  rows = lambda at, weight=1.0: {"x": X[at], "y": Y[at], "weight": np.full(20, weight, np.float32)}
  first, second, nothing = rows(slice(20)), rows(slice(20, 40)), rows(slice(20), 0.0)
  paper, released, swapped = (
    call("paper", first, second),
    call("released", first, second),
    call("released", second, first),
  )
  leaves = map(jax.tree.leaves, (gradient(PARAMS, X[:20], Y[:20]), gradient(PARAMS, X[20:], Y[20:]), PARAMS))
  for f, r, before, p, a, b in zip(*leaves, *map(jax.tree.leaves, (paper, released, swapped)), strict=True):
    np.testing.assert_allclose(p - before, 0.01 * (f - r), atol=1e-6)
    np.testing.assert_allclose(a - before, 0.01 * np.sign(f - r), atol=2e-6)
    np.testing.assert_allclose(b - before, before - a, atol=2e-6)
  for f, before, alone in zip(*map(jax.tree.leaves, (GRADIENT(PARAMS, X[:20], Y[:20]), PARAMS,
                                                     call("released", first, nothing))), strict=True):  # fmt: skip
    np.testing.assert_allclose(alone - before, 0.01 * np.sign(f), atol=2e-6)  # nothing is left to keep
  assert not changed(call("paper", nothing, second))
  assert not changed(call("released", nothing, second))


def test_slug_moves_one_tensor_up_its_forget_gradient():
  of_class, others = (X[Y == 0], Y[Y == 0]), (X[Y != 0], Y[Y != 0])
  call = jax.jit(
    lambda p, first: unlearning.slug(apply_fn, p, forget=of_class, retain=others, first_step=first, rows=40)
  )
  trained = PARAMS
  for _ in range(200):
    trained = jax.tree.map(lambda p, g: p - 0.02 * g, trained, gradient(trained, X, Y))
  hits = lambda p: np.argmax(apply_fn(p, cljax.Batch(X, Y, None, None, None)), 1) == Y
  assert hits(trained)[Y == 0].all()
  after = call(trained, 0.1)
  (path,) = changed(after, trained)
  layer, name = path.split("/")
  assert name == "kernel"
  assert not hits(after)[Y == 0].any()
  delta = np.asarray(after[layer][name] - trained[layer][name])
  steep = np.asarray(gradient(trained, *of_class)[layer][name])
  cosine = (delta * steep).sum() / np.linalg.norm(delta) / np.linalg.norm(steep)
  assert cosine > 0.9999
  # The least step found: three quarters of it forget too little.
  less = {**trained, layer: {**trained[layer], name: trained[layer][name] + 0.75 * delta}}
  assert hits(less)[Y == 0].any()
  assert not changed(call(trained, 0.0), trained)


def test_the_pareto_front_by_definition():
  importance, alignment = RNG.random(12).round(1), RNG.random(12).round(1)
  front = np.asarray(unlearning.pareto_front(jnp.asarray(importance), jnp.asarray(alignment)))
  beaten = [any(importance[j] > importance[i] and alignment[j] < alignment[i] for j in range(12)) for i in range(12)]
  np.testing.assert_array_equal(front, ~np.asarray(beaten))
  assert front.any()
  assert not front.all()


def test_slug_needs_a_matrix():
  with pytest.raises(cljax.UsageError, match="two axes"):
    unlearning.slug(lambda p, b: p["b"] + b.x[:, :3], {"b": jnp.zeros(3)}, forget=FORGET, retain=RETAIN)


def test_exact_fisher_and_the_noise_by_numpy():
  weights = {"kernel": jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)}
  linear = lambda p, batch: batch.x @ p["kernel"]
  rows = cljax.core.types.rows_from_arrays(X, Y)
  fisher = np.asarray(exact_fisher(linear, weights, rows)["kernel"])
  p = np.asarray(jax.nn.softmax(X @ np.asarray(weights["kernel"])))
  each = (X[:, None, :, None] * (np.eye(3) - p[:, None])[:, :, None]) ** 2  # [n, label, 5, 3]
  want = np.einsum("nc,ncij->ij", p, each) / len(X)
  np.testing.assert_allclose(fisher, want, rtol=1e-4)

  def noise(key, variant="paper", classes=None, alpha=1e-2):
    given = {"retain": rows, "key": key, "alpha": alpha, "variant": variant, "classes": classes}
    return unlearning.fisher_forgetting(linear, weights, importance=lambda *_: {"kernel": fisher}, **given)["kernel"]

  keys = jax.random.split(jax.random.key(0), 4000)
  many = jax.jit(jax.vmap(noise))(keys) - weights["kernel"]
  variance = 1e-2 / (want + 1e-8)
  np.testing.assert_allclose(many.mean(0) / np.sqrt(variance), 0, atol=5 / np.sqrt(4000))  # E[theta] = theta_0
  np.testing.assert_allclose((many**2).mean(0) / variance, 1, atol=0.15)
  order = np.argsort(fisher.ravel())
  assert (np.diff(np.asarray((many**2).mean(0)).ravel()[order[[0, 7, 14]]]) < 0).all()
  released = jax.jit(jax.vmap(lambda k: noise(k, "released", jnp.asarray([True, False, False]))))
  many = released(keys)
  np.testing.assert_allclose(many[..., 0].mean(0), 0, atol=3e-3)  # the column of a class forgotten whole
  np.testing.assert_allclose(many[..., 0].var(0), 1e-3, rtol=0.2)
  capped = 1e-2 * 10 * np.minimum(1 / (want + 1e-8), 1e2).mean(0)
  np.testing.assert_allclose(many[..., 1:].var(0), np.broadcast_to(capped[1:], (5, 2)), rtol=0.2)


def ridge(features, start, labels, decay):
  """The minimiser of ``sum |z - onehot|^2 / 2 + n decay / 2 |w - start|^2``."""
  n = len(features)
  kernel = features.T @ features + n * decay * np.eye(features.shape[1])
  return start + np.linalg.solve(kernel, features.T @ (np.eye(3)[labels] - features @ start))


def test_ntk_is_retraining_on_a_linear_model():
  start = RNG.normal(size=(5, 3))
  trained, retrained = ridge(X, start, Y, 0.1), ridge(X[8:], start, Y[8:], 0.1)
  linear = lambda p, batch: batch.x @ p["kernel"]
  as_tree = lambda w: {"kernel": jnp.asarray(w, jnp.float32)}
  rows = lambda weight: {"x": X[:8], "y": Y[:8], "weight": np.full(8, weight, np.float32)}
  given = {"retain": RETAIN, "loss": "squared", "rows": 40}
  call = jax.jit(lambda p, first, forget: unlearning.ntk(linear, p, initial=first, forget=forget, **given))
  after = call(as_tree(trained), as_tree(start), rows(1))["kernel"]
  assert np.abs(trained - retrained).max() > 0.02
  np.testing.assert_allclose(after, retrained, atol=2e-5)
  # At the trained parameters the step is another: the initial ones are what makes it exact.
  wrong = call(as_tree(trained), as_tree(trained), rows(1))["kernel"]
  assert np.abs(wrong - retrained).max() > 1e-3
  assert not changed(call(as_tree(trained), as_tree(start), rows(0)), as_tree(trained))


def test_fast_ntk_moves_its_leaves_alone_and_exactly():
  """The head is linear given its features: over the head alone, the retrained head."""
  features = np.tanh(X @ np.asarray(PARAMS["first"]["kernel"]) + 0.1)
  start = np.asarray(PARAMS["head"]["kernel"])
  head = lambda w: {**PARAMS, "head": {**PARAMS["head"], "kernel": jnp.asarray(w, jnp.float32)}}
  trained, retrained = ridge(features, start, Y, 0.1), ridge(features[8:], start, Y[8:], 0.1)
  given = {"initial": PARAMS, "forget": FORGET, "retain": RETAIN, "rows": 40}
  call = lambda **more: jax.jit(lambda p: unlearning.fast_ntk(apply_fn, p, **given, **more))(head(trained))
  after = call(leaves="head/kernel", loss="squared")
  assert changed(after, head(trained)) == {"head/kernel"}
  np.testing.assert_allclose(after["head"]["kernel"], retrained, atol=5e-5)
  assert changed(call(), head(trained)) == {"first/bias", "head/bias"}
  released = call(leaves="head/kernel", loss="squared", variant="released")["head"]["kernel"]
  step, rest = retrained - trained, trained - retrained
  factor = 1 + 2 * abs((step * rest).sum()) / (step**2).sum()
  np.testing.assert_allclose(released, trained + factor * step, atol=2e-4)
  with pytest.raises(cljax.UsageError, match="'norm' matches no parameter; there are first/bias"):
    call(leaves="norm")


def test_ntk_is_fast_ntk_of_all_leaves_with_the_rows_of_its_key():
  """Of more rows than are used, the key says which."""
  given = {"initial": jax.tree.map(lambda p: 0.5 * p, PARAMS), "forget": FORGET, "retain": RETAIN, "rows": 3}
  one = jax.jit(lambda key: unlearning.ntk(apply_fn, PARAMS, key=key, **given))
  other = jax.jit(lambda key: unlearning.fast_ntk(apply_fn, PARAMS, key=key, leaves="", **given))
  first, second = (one(jax.random.key(i)) for i in (1, 2))
  assert len(changed(first, second)) > 0
  for a, b in zip(*map(jax.tree.leaves, (second, other(jax.random.key(2)))), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
