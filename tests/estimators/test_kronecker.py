"""Kronecker factors of the Fisher information against per-row gradients in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import backward, forward, log_softmax
from projecting_by_hand import inputs_of

from cljax import estimators, models
from cljax.core.types import UsageError, rows_from_arrays
from cljax.estimators import kronecker_factors
from cljax.objectives import OBJECTIVES

MODEL = models.mlp((4,), 3, hidden=(5,))
RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(7, 4)).astype(np.float32), np.asarray([0, 1, 2, 0, 1, 2, 0], np.int32)
WEIGHT = np.asarray([1, 1, 0, 2, 1, 1, 1], np.float32)
PARAMS = jax.tree.map(lambda a: a + 0.3, MODEL.init(jax.random.key(1))[0])
ROWS = rows_from_arrays(X, Y, WEIGHT)
found = jax.jit(
  lambda params, kind, key=None: kronecker_factors(MODEL, params, {}, ROWS, kind=kind, key=key, batch_size=3),
  static_argnames=("kind",),
)  # fmt: skip


def slopes(d):
  """What the loss's slope by the logits ``[n, 3]`` is by each layer's output: a bias's gradient, row by row."""
  each = [backward(PARAMS, X[[i]], d[[i]]) for i in range(len(X))]
  return {p: np.stack([g[p.replace("kernel", "bias")] for g in each]) for p in ("hidden_0/kernel", "head/kernel")}


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_factors_are_correlations_of_inputs_and_of_output_gradients(kind):
  """All rows in both, one of weight 2, one of weight 0, in batches of three: means, the bias's 1 among the inputs."""
  p, total = np.exp(log_softmax(forward(PARAMS, X)[1])), WEIGHT.sum()
  got = found(PARAMS, kind)
  inputs = inputs_of(PARAMS, X)
  labels = range(3) if kind == "exact" else [Y]
  outputs = {n: 0 for n in inputs}
  for c in labels:
    share = WEIGHT / total * (p[:, c] if kind == "exact" else 1.0)
    for n, g in slopes(p - np.eye(3)[np.broadcast_to(c, len(X))]).items():
      outputs[n] = outputs[n] + (share[:, None] * g).T @ g
  for n, a in inputs.items():
    a = np.concatenate([a, np.ones((len(a), 1))], 1)
    np.testing.assert_allclose(got[n].inputs, (WEIGHT[:, None] / total * a).T @ a, atol=1e-5)
    np.testing.assert_allclose(got[n].outputs, outputs[n], atol=1e-5)


def test_of_one_row_the_factors_are_the_fisher_and_have_its_diagonal():
  """No approximation there: the diagonal of ``A (x) G`` is the diagonal Fisher of another code."""
  one = rows_from_arrays(X[:1], Y[:1])
  got = kronecker_factors(MODEL, PARAMS, {}, one)
  diagonal = estimators.fisher_diagonal(MODEL, PARAMS, {}, one)
  for layer in ("hidden_0", "head"):
    f = got[f"{layer}/kernel"]
    both = np.outer(np.diag(f.inputs), np.diag(f.outputs))
    np.testing.assert_allclose(both[:-1], diagonal[layer]["kernel"], atol=1e-6)
    np.testing.assert_allclose(both[-1], diagonal[layer]["bias"], atol=1e-6)


def test_sampled_labels_have_the_exact_ones_mean():
  many = jax.vmap(lambda i: found(PARAMS, "sampled", jax.random.key(i)))(jnp.arange(2000))
  exact = found(PARAMS, "exact")
  for n, f in exact.items():
    np.testing.assert_allclose(np.asarray(many[n].outputs).mean(0), f.outputs, atol=0.02)
    np.testing.assert_allclose(np.asarray(many[n].inputs)[0], f.inputs, atol=1e-6)


def test_a_convolution_sums_its_inputs_over_places_and_averages_its_gradients():
  """KFC: ``A = sum_p``, ``G = mean_p``, so that the product has the trace of the sum of independent places (averages of
  both, or of the gradient first, are faults of S11.5), against gradients by each place in JAX without the library."""
  model = models.cnn((4, 4, 1), 3, widths=(2,))
  params, state = model.init(jax.random.key(0))
  x = RNG.normal(size=(2, 4, 4, 1)).astype(np.float32)
  got = kronecker_factors(model, params, state, rows_from_arrays(x, Y[:2]), kind="empirical")
  name = next(n for n, f in got.items() if f.inputs.shape == (10, 10))
  call = model.capture(params, state, x, None)[1]
  layer = next(k for k, c in call.items() if c.spec.leaves["kernel"] == name)

  def loss(probe):
    logits = model.capture(params, state, x, {layer: probe})[0]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(Y[:2, None]), 1).sum()

  g = np.asarray(jax.grad(loss)(jnp.zeros_like(call[layer].output))).reshape(2, -1, 2)
  places = g.shape[1]
  stride = int(4 / np.sqrt(places))
  padded = np.pad(x[..., 0], ((0, 0), (1, 1), (1, 1)))
  patches = np.stack([padded[:, i : i + 3, j : j + 3].reshape(2, 9)
                      for i in range(0, 4, stride) for j in range(0, 4, stride)], 1)  # fmt: skip
  patches = np.concatenate([patches, np.ones((2, places, 1))], -1)
  np.testing.assert_allclose(got[name].inputs, np.einsum("bpi,bpj->ij", patches, patches) / 2, atol=1e-5)
  np.testing.assert_allclose(got[name].outputs, np.einsum("bpi,bpj->ij", g, g) / 2 / places, atol=1e-6)


def test_what_has_no_factors_is_refused():
  with pytest.raises(UsageError, match="kind: got 'batched'; allowed: exact, sampled, empirical"):
    kronecker_factors(MODEL, PARAMS, {}, ROWS, kind="batched")
  with pytest.raises(UsageError, match="key: kind='sampled' draws labels and needs a key; got None"):
    kronecker_factors(MODEL, PARAMS, {}, ROWS, kind="sampled")
  with pytest.raises(UsageError, match="model: has no capture"):
    kronecker_factors(MODEL._replace(capture=None), PARAMS, {}, ROWS)


def test_factors_of_regression_are_those_of_its_noise():
  """A linear model of two outputs under the regression objective: ``A = E a a^T``, ``G = I`` times one row's curvature,
  which is that of its squared loss by the output."""
  model = models.from_linen(Linear(), (4,))
  params, state = model.init(jax.random.key(0))
  learned = OBJECTIVES["regression"].make(model, None, noise=0.7)
  y = RNG.normal(size=(7, 2)).astype(np.float32)
  got = kronecker_factors(model, params, state, rows_from_arrays(X, y), learned=learned)["out/kernel"]
  a = np.concatenate([X, np.ones((7, 1))], 1)
  np.testing.assert_allclose(got.inputs, a.T @ a / 7, atol=1e-5)
  batch = rows_from_arrays(X, y).batch(0, 1)
  curvature = jax.hessian(lambda z: learned.each(z[None], batch)[0].sum())(jnp.zeros(2))
  np.testing.assert_allclose(curvature, np.eye(2) / 0.7, rtol=1e-5)
  np.testing.assert_allclose(got.outputs, curvature, atol=1e-5)


class Linear(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2, name="out")(x)
