"""The transformer, the denoiser and what is built by name for tokens, pairs and noise, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import models
from cljax.core.types import UsageError

RNG = np.random.default_rng(0)
B, L, V, W = 3, 5, 7, 8


def noisy(model, seed=1):
  """Parameters away from where biases are 0."""
  params, _ = model.init(jax.random.key(0))
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  return jax.tree.unflatten(tree, [np.float32(a + 0.2 * rng.normal(size=a.shape)) for a in leaves])


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(x, p):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
  return x @ p["kernel"] + p["bias"]


def test_a_transformer_is_its_formula():
  """Attention by loops over places and heads; with a mask the places that it leaves out are not looked at."""
  model = models.transformer(L, V, width=W, depth=2, heads=2, mlp_ratio=3)
  params = noisy(model)
  wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  token, mask = RNG.integers(0, V, (B, L)), np.ones((B, L), np.uint8)
  mask[1, 2], mask[2, 3:] = 0, 0

  def through(mask):
    x = wide["tokens"]["embedding"][token] + wide["places"]["position"]
    for i in range(2):
      qkv = dense(norm(x, wide[f"norm_{i}_0"]), wide[f"attention_{i}"]["qkv"]).reshape(B, L, 3, 2, W // 2)
      out = np.zeros((B, L, 2, W // 2))
      for b in range(B):
        for at in range(L):
          seen = [k for k in range(at + 1) if mask[b, k]]
          for h in range(2):
            fit = np.array([qkv[b, at, 0, h] @ qkv[b, k, 1, h] for k in seen]) / np.sqrt(W / 2)
            share = np.exp(fit - fit.max())
            out[b, at, h] = sum(s * qkv[b, k, 2, h] for s, k in zip(share / share.sum(), seen, strict=True))
      x = x + dense(out.reshape(B, L, W), wide[f"attention_{i}"]["out"])
      x = x + dense(gelu(dense(norm(x, wide[f"norm_{i}_1"]), wide[f"mlp_{i}_in"])), wide[f"mlp_{i}_out"])
    x = norm(x, wide["norm"])
    return x, dense(x, wide["head"])

  for given, there in ((token, np.ones_like(mask)), ({"token": token, "mask": mask}, mask)):
    out = model.apply(params, {}, given, train=False, key=None)[0]
    features, logits = through(there)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out.features, features, rtol=1e-4, atol=1e-4)
  short = model.apply(params, {}, token[:, :3], train=False, key=None)[0]
  np.testing.assert_allclose(short.logits, through(np.ones_like(mask))[1][:, :3], rtol=1e-4, atol=1e-4)
  absent = {"token": np.zeros((1, L), np.int32), "mask": np.zeros((1, L), np.uint8)}
  assert np.isfinite(model.apply(params, {}, absent, train=False, key=None)[0].logits).all()


def test_a_denoiser_is_its_formula():
  model = models.denoiser((2, 3), hidden=(5,), conditions=4)
  params = noisy(model)
  wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  x, time, kind = RNG.normal(size=(B, 2, 3)).astype(np.float32), np.array([0, 7, 900]), np.array([3, -1, 0])
  angle = time[:, None] * 10000.0 ** (-np.arange(16) / 16)
  table = wide["condition"]["embedding"]
  assert table.shape == (5, 32), "the last is for none"
  given = np.concatenate([x.reshape(B, 6), np.sin(angle), np.cos(angle), table[[3, 4, 0]]], 1)
  want = dense(gelu(dense(given, wide["hidden_0"])), wide["head"]).reshape(B, 2, 3)
  out = model.apply(params, {}, {"x": x, "time": time, "condition": kind}, train=False, key=None)[0]
  np.testing.assert_allclose(out.logits, want, rtol=1e-3, atol=1e-3)
  with pytest.raises(UsageError, match="conditions: got 4; the inputs have none"):
    model.apply(params, {}, {"x": x, "time": time}, train=False, key=None)
  plain = models.denoiser((2, 3), hidden=(5,))
  less = noisy(plain)
  with pytest.raises(UsageError, match="conditions: got 0; the inputs have a condition"):
    plain.apply(less, {}, {"x": x, "time": time, "condition": kind}, train=False, key=None)


SIZES = [
  ("vae", (4, 4), {"latent": 3, "hidden": (6, 5)}),
  ("matrix_factorisation", (2,), {"users": 4, "items": 6, "dim": 3}),
  ("transformer", (L,), {"width": W, "depth": 2, "heads": 2, "mlp_ratio": 3}),
  ("transformer", {"token": (L,), "mask": (L,)}, {"width": W}),
  ("denoiser", (2, 3), {"hidden": (5, 4)}),
  ("denoiser", {"x": (2, 3), "condition": ()}, {"hidden": (5,), "conditions": 4}),
]


@pytest.mark.parametrize(("name", "shape", "options"), SIZES)
def test_sizes_are_told_before_a_model_is_made(name, shape, options):
  from cljax.models.build import parameters

  params, _ = jax.eval_shape(models.build(name, shape, V, **options).init, jax.random.key(0))
  told = parameters(name, shape, V, {**models.options(name), **options})
  assert told == sum(int(np.prod(a.shape)) for a in jax.tree.leaves(params))


REFUSED = [
  ("mlp", {"a": (3,), "b": ()}, {}, (), "model: mlp takes inputs that are one array; these are several: a, b"),
  ("vae", {"x": (3,)}, {}, (), "model: vae takes inputs that are one array; these are several: x"),
  ("matrix_factorisation", (2,), {}, (), "users: got 0; expected integers of at least 1"),
  ("matrix_factorisation", (3,), {"users": 1, "items": 1}, (), "model: matrix_factorisation takes rows (user, item)"),
  ("matrix_factorisation", (2,), {"users": 3, "items": 5}, [np.array([[0, 1], [2, 5]])],
   "model.items: got 5; the data hold items 1..5, expected 0..4"),
  ("matrix_factorisation", (2,), {"users": 3, "items": 5}, [np.zeros((2, 2))], "model.users: the data hold float64"),
  ("transformer", (2, 3), {}, (), "model: transformer takes tokens [L], or a dict with 'token'; these are of"),
  ("transformer", (5,), {"width": 6}, (), "heads: got 4, which does not divide width 6"),
  ("transformer", (2,), {}, [np.array([[0, V]])], "model.vocabulary: got 7; the data hold tokens 0..7, expected 0..6"),
  ("denoiser", {"a": (2,)}, {}, (), "model: denoiser takes one array, or a dict with 'x'; these are a"),
  ("denoiser", {"x": (2,), "condition": ()}, {"conditions": 3},
   [{"x": np.zeros((2, 2)), "condition": np.array([-1, 3])}], "model.conditions: got 3; the data hold condi"),
  ("denoiser", (2,), {"conditions": -1}, (), "conditions: got -1; expected integers of at least 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "options", "rows", "said"), REFUSED, ids=range(len(REFUSED)))
def test_refused_in_one_line(name, shape, options, rows, said):
  with pytest.raises(UsageError) as error:
    models.build(name, shape, V, rows=rows, **options)
  assert str(error.value).startswith(said)
  assert "\n" not in str(error.value)


def test_rows_of_a_dict_have_importances_of_their_own():
  """A Fisher through the layers of a model on a dict is the mean of rows' squared gradients."""
  from cljax import estimators, objectives
  from cljax.core.types import Batch, Rows

  model = models.transformer(L, V, width=W, depth=1, heads=2)
  params = noisy(model)
  x = {"token": jnp.asarray(RNG.integers(0, V, (B, L))), "mask": jnp.ones((B, L), jnp.uint8).at[1, 3:].set(0)}
  y = jnp.asarray(np.where(RNG.random((B, L)) < 0.3, -1, RNG.integers(0, V, (B, L))))

  def batch(start, size):
    at = jnp.minimum(start + jnp.arange(size), B - 1)
    there = (start + jnp.arange(size) < B).astype(jnp.float32)
    return Batch(jax.tree.map(lambda a: a[at], x), y[at], there, at, at * 0)

  got = estimators.fisher_diagonal(
    model, params, {}, Rows(B, B, batch), kind="empirical", learned=objectives.sequence()(None, None, {})
  )

  def loss(p, row):
    z = model.apply(p, {}, jax.tree.map(lambda a: a[row][None], x), train=False, key=None)[0].logits[0]
    picked = jnp.take_along_axis(jax.nn.log_softmax(z), jnp.maximum(y[row], 0)[:, None], 1)[:, 0]
    return -jnp.sum(jnp.where(y[row] >= 0, picked, 0))

  each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, jnp.arange(B))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(each), strict=True):
    np.testing.assert_allclose(a, np.square(b).mean(0), rtol=2e-3, atol=1e-6)
