"""Methods on objectives other than classification: their Fisher, importance, distillation and edits by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import estimators, objectives
from cljax.core.types import Batch, UsageError, rows_from_arrays
from cljax.models import from_apply

RNG = np.random.default_rng(3)
X, W = RNG.normal(size=(5, 3)), RNG.normal(size=(3, 2))
Y, WEIGHT = RNG.normal(size=(5, 2)), np.array([1.0, 0.5, 0.0, 1.0, 1.0])
TOKENS, T = RNG.integers(0, 4, (5, 3)), RNG.normal(size=(3, 3, 4))
TOKENS[1, 2] = TOKENS[3, 0] = -1


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def linear(params, x):
  return x @ params["w"]


def text(params, x):
  return jnp.einsum("bi,ilv->blv", x, params["t"])


MODELS = {
  "regression": (from_apply(lambda key: {"w": jnp.float32(W)}, linear), {"w": jnp.float32(W)}, Y),
  "sequence": (from_apply(lambda key: {"t": jnp.float32(T)}, text), {"t": jnp.float32(T)}, TOKENS),
}


def slopes(name):
  """Each row's gradient of minus its log likelihood, by hand."""
  if name == "regression":  # noise 1/2
    return 2 * np.einsum("bi,bo->bio", X, X @ W - Y)
  gap = softmax(np.einsum("bi,ilv->blv", X, T)) - np.eye(4)[np.maximum(TOKENS, 0)]
  return np.einsum("bi,blv->bilv", X, gap * (TOKENS >= 0)[..., None])


def rows_of(name):
  _, _, y = MODELS[name]
  x = np.where(WEIGHT[:, None] > 0, X, np.nan)  # absent rows hold what must reach nothing
  return rows_from_arrays(jnp.float32(x), jnp.asarray(y, jnp.float32 if name == "regression" else jnp.int32),
                          weight=jnp.float32(WEIGHT))  # fmt: skip


def learned(name):
  options = {"noise": 0.5} if name == "regression" else {}
  return objectives.chosen(name, options)(None, None, {})


def fisher(name, **given):
  model, params, _ = MODELS[name]
  (leaf,) = jax.tree.leaves(
    estimators.fisher_diagonal(model, params, (), rows_of(name), learned=learned(name), **given)
  )
  return np.asarray(leaf, np.float64) if "key" not in given else leaf


def drawn_fishers(name, count):
  """``[count, ...]``: one for each key ``0, 1, ...``, by one program."""
  keys = jax.vmap(jax.random.key)(jnp.arange(count))
  return np.asarray(jax.jit(jax.vmap(lambda k: fisher(name, kind="sampled", key=k)))(keys), np.float64)


@pytest.mark.parametrize("name", list(MODELS))
def test_fisher_of_an_objective_by_hand(name):
  """Rows' own targets: the mean of squared gradients; by batches: the square of the mean over all parts."""
  each, share = slopes(name), WEIGHT.reshape(-1, *(1,) * (slopes(name).ndim - 1))
  np.testing.assert_allclose(fisher(name, kind="empirical"), (share * each**2).sum(0) / WEIGHT.sum(), rtol=2e-5)
  parts = WEIGHT.sum() if name == "regression" else (WEIGHT[:, None] * (TOKENS >= 0)).sum()
  want = ((share * each).sum(0) / parts) ** 2
  np.testing.assert_allclose(fisher(name, kind="batched", batch_size=5), want, rtol=2e-5, atol=1e-6)


def test_exact_fisher_of_regression_is_the_second_moment_of_inputs_over_the_noise():
  want = np.broadcast_to(((WEIGHT[:, None] * X**2).sum(0) / WEIGHT.sum() / 0.5)[:, None], (3, 2))
  np.testing.assert_allclose(fisher("regression", kind="exact"), want, rtol=2e-5)
  drawn = drawn_fishers("regression", 200)
  np.testing.assert_allclose(np.mean(drawn, 0), want, rtol=0.25)
  assert np.std(drawn, 0).min() > 0


def test_sampled_fisher_of_text_is_unbiased_and_draws_by_place():
  p = softmax(np.einsum("bi,ilv->blv", X, T))
  inner = (TOKENS >= 0) * WEIGHT[:, None]
  want = np.einsum("bi,bl,blv->ilv", X**2, inner, p * (1 - p)) / WEIGHT.sum()
  drawn = drawn_fishers("sequence", 300)
  np.testing.assert_allclose(np.mean(drawn, 0), want, rtol=0.3, atol=0.02)
  one = fisher("sequence", kind="sampled", key=jax.random.key(7), batch_size=2)
  np.testing.assert_allclose(one, drawn[7], rtol=1e-5)


def test_what_an_objective_lacks_is_refused():
  with pytest.raises(UsageError, match="kind: got 'exact', which needs factor; the objective 'sequence' has none"):
    fisher("sequence", kind="exact")
  assert [estimators.default_kind(learned(n)) for n in ("regression", "sequence")] == ["exact", "sampled"]
  with pytest.raises(UsageError, match="'none' has no loss of one row"):
    estimators.default_kind(objectives.Objective("none", None, {}, ""))


@pytest.mark.parametrize("name", list(MODELS))
def test_mas_sums_over_all_outputs(name):
  model, params, _ = MODELS[name]
  (got,) = jax.tree.leaves(estimators.mas_importance(model, params, (), rows_of(name)))
  z = X @ W if name == "regression" else np.einsum("bi,ilv->blv", X, T)
  each = np.abs(2 * X.reshape(5, 3, *(1,) * (z.ndim - 1)) * z[:, None])
  want = (WEIGHT.reshape(-1, *(1,) * (each.ndim - 1)) * each).sum(0) / WEIGHT.sum()
  np.testing.assert_allclose(got, want, rtol=2e-5)
  (got,) = jax.tree.leaves(estimators.mas_importance(model, params, (), rows_of(name), batched=True, batch_size=5))
  signed = 2 * X.reshape(5, 3, *(1,) * (z.ndim - 1)) * z[:, None]
  want = np.abs((WEIGHT.reshape(-1, *(1,) * (signed.ndim - 1)) * signed).sum(0)) / WEIGHT.sum()
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def test_factor_of_classes_is_the_softmax_s_information():
  z, mask = np.array([[0.3, -1.0, 2.0]]), np.array([[True, False, True]])
  batch = Batch(None, jnp.zeros(1, jnp.int32), jnp.ones(1), None, None, jnp.asarray(mask))
  factor = np.asarray(objectives.chosen("classification")(None, None, {}).factor(jnp.float32(z), batch))[0]
  p = softmax(np.where(mask, z, -np.inf))[0]
  np.testing.assert_allclose(factor.T @ factor, np.diag(p) - np.outer(p, p), atol=1e-6)


@pytest.mark.parametrize("reduction", ["tokens", "rows", "sum"])
def test_divergence_of_text_has_the_shape_of_its_loss(reduction):
  """``T^2 KL(teacher || student)`` of each token, in the reduction's shape; 0 for equal predictions."""
  own, teacher = RNG.normal(size=(2, 5, 3, 4))
  made = objectives.chosen("sequence", {"reduction": reduction})(None, None, {})
  batch = Batch(None, jnp.asarray(TOKENS, jnp.int32), jnp.ones(5), None, None)
  got = made.divergence(jnp.float32(own), jnp.float32(teacher), batch, 2.0)
  q, p = softmax(teacher / 2), softmax(own / 2)
  token, inner = 4 * (q * np.log(q / p)).sum(-1), TOKENS >= 0
  want = {"tokens": token, "rows": (inner * token).sum(-1) / inner.sum(-1), "sum": (inner * token).sum(-1)}[reduction]
  np.testing.assert_allclose(got, want, rtol=2e-5)
  assert got.shape == made.each(jnp.float32(own), batch)[0].shape
  np.testing.assert_allclose(made.divergence(jnp.float32(own), jnp.float32(own), batch, 2.0), 0 * want, atol=1e-6)
