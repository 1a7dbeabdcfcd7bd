"""The evidence lower bound against float64 NumPy and against the evidence itself, absent rows, and a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_laws import batch, check_absent, run, scored, stream_of, value_and_slope

from cljax import models, objectives
from cljax.core.types import Spec, UsageError
from cljax.objectives import objective

B, N, D = 5, 6, 2
RNG = np.random.default_rng(30)
X = RNG.integers(256, size=(B, 2, 3)).astype(np.float32)
SPEC = Spec(2, 2, (2, 3), np.float32, B, B, B, B, np.ones((2, 2), bool), scale=1 / 256)
PREDICTION = {
  "reconstruction": RNG.normal(size=(B, 2, 3)).astype(np.float32),
  "mean": RNG.normal(size=(B, D)).astype(np.float32),
  "log_variance": RNG.normal(size=(B, D)).astype(np.float32),
}
WEIGHT = np.float64([1, 2, 1, 0, 0])
MODEL = models.vae((2, 3), D, (4,))


def made(likelihood="bernoulli", **values):
  chosen = objectives.reconstruction(likelihood=likelihood)
  return chosen(None, SPEC, {f"objective.{k}": jnp.float32(v) for k, v in values.items()})


def vae(params, x, key):
  train = key is not None
  return MODEL.apply(params, {}, x / 256, train=train, key=key)[0].logits


def close(a, b, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_an_elbo_by_hand(likelihood):
  x, r = X.astype(np.float64).reshape(B, N) / 256, PREDICTION["reconstruction"].astype(np.float64).reshape(B, N)
  m, v = (PREDICTION[k].astype(np.float64) for k in ("mean", "log_variance"))
  kl, p = 0.5 * (m**2 + np.exp(v) - 1 - v).sum(-1), 1 / (1 + np.exp(-r))
  unlikely = {
    "bernoulli": -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(-1),
    "gaussian": ((x - r) ** 2).sum(-1) / 0.6,
  }[likelihood]
  back = p if likelihood == "bernoulli" else r
  given, one = batch(X, weight=WEIGHT), made(likelihood, beta=4.0, noise=0.3)
  each, inside = one.each(PREDICTION, given)
  close(each[:3], (unlikely + 4 * kl)[:3])
  close(objective.reduced(each, inside, given), (WEIGHT * (unlikely + 4 * kl)).sum() / WEIGHT.sum())
  totals = scored(one, lambda params, x, key: params)(PREDICTION, given)
  close(totals["negative_elbo"], [(unlikely + kl)[:3].sum(), 3])
  close(totals["reconstruction"], [((x - back) ** 2).mean(-1)[:3].sum(), 3])


def test_gaussian_elbo_is_a_bound():
  """x = w z + e, one number: the loss, averaged over z, with its constant is -log N(x; 0, w^2 + noise) at the true
  posterior, and above it at any other."""
  w, noise, x = 1.7, 0.4, 0.9
  z = jax.random.normal(jax.random.key(0), (200_000,))
  spec = SPEC._replace(scale=None)
  one = objectives.reconstruction(likelihood="gaussian", noise=noise)(None, spec, {})
  variance = noise / (noise + w**2)

  def bound(mean, log_variance):
    codes = mean + np.exp(log_variance / 2) * z
    tile = lambda a: jnp.full((len(z), 1), a)
    prediction = {"reconstruction": w * codes[:, None], "mean": tile(mean), "log_variance": tile(log_variance)}
    return float(jnp.mean(one.each(prediction, batch(np.full((len(z), 1), x, np.float32)))[0]))

  constant = 0.5 * np.log(2 * np.pi * noise)
  evidence = 0.5 * np.log(2 * np.pi * (w**2 + noise)) + x**2 / (2 * (w**2 + noise))
  best = bound(w * x / (noise + w**2), np.log(variance)) + constant
  assert abs(best - evidence) < 0.02
  assert bound(w * x / (noise + w**2) + 0.3, np.log(variance)) + constant > evidence + 0.1
  assert bound(w * x / (noise + w**2), np.log(variance) + 0.7) + constant > evidence + 0.1


def test_a_vae_is_its_formula():
  params, _ = MODEL.init(jax.random.key(1))
  params = jax.tree.map(lambda a: a + 0.1, params)
  x = X / 256
  assert [[*params[name]] for name in ("encoder", "decoder")] == [["layer_0", "layer_1"]] * 2

  def through(of, a):
    one, two = ({n: np.asarray(v, np.float64) for n, v in of[k].items()} for k in ("layer_0", "layer_1"))
    return np.maximum(a @ one["kernel"] + one["bias"], 0) @ two["kernel"] + two["bias"]

  code = through(params["encoder"], x.reshape(B, N).astype(np.float64))
  still = MODEL.apply(params, {}, x, train=False, key=None)[0]
  close(still.logits["mean"], code[:, :D])
  close(still.logits["log_variance"], code[:, D:])
  close(still.features, code[:, :D])
  close(still.logits["reconstruction"], through(params["decoder"], code[:, :D]).reshape(X.shape), 1e-4, 1e-5)
  # In training the code is drawn: standardised, over keys, it is standard normal.
  linear = models.vae((2, 3), 6, ())
  start, _ = linear.init(jax.random.key(2))
  start["decoder"]["layer_0"] = {"kernel": jnp.eye(6), "bias": jnp.zeros(6)}
  draw = jax.jit(jax.vmap(lambda k: linear.apply(start, {}, x, train=True, key=k)[0].logits))
  out = jax.tree.map(lambda a: np.asarray(a, np.float64), draw(jax.random.split(jax.random.key(3), 2000)))
  e = (out["reconstruction"].reshape(-1, B, N) - out["mean"]) / np.exp(out["log_variance"] / 2)
  close(e.mean(0), np.zeros((B, N)), 0, 4.5 / np.sqrt(2000))
  close(e.var(0), np.ones((B, N)), 0, 4.5 * np.sqrt(2 / 2000))
  close(np.corrcoef(e[:, 0, 0], e[:, 1, 0])[0, 1], 0, 0, 4.5 / np.sqrt(2000))


def test_absent_rows_of_an_autoencoder_are_as_if_absent():
  """The model sees them (the engine has zeroed them); the objective does not: here it is given a NaN there."""
  params, _ = MODEL.init(jax.random.key(1))
  blind = lambda params, x, key: vae(params, jnp.where(jnp.isnan(x), 0, x), key)
  check_absent(made(), blind, params, batch(X, weight=WEIGHT), 3)
  gone = jax.tree.map(lambda a: jnp.asarray(a).at[3:].set(jnp.nan), PREDICTION)
  given = batch(X, weight=WEIGHT)
  slope = jax.grad(lambda p: objective.reduced(*made().each(p, given), given))(gone)
  for leaf in jax.tree.leaves(slope):
    assert (np.asarray(leaf)[3:] == 0).all()
    assert (np.asarray(leaf)[:3] != 0).any()


def test_a_run_of_a_vae_learns_to_reconstruct():
  rng = np.random.default_rng(5)
  code, group = rng.integers(2, size=(48, 1)), np.repeat([0, 1], 24)
  x = (255 * np.concatenate([code, 1 - code, code, group[:, None]], 1)).astype(np.uint8)
  stream = stream_of(x, np.zeros((48, 1), np.float32), group, 1 / 255)
  chosen = objectives.reconstruction(beta=0.2)
  result = run(stream, models.vae((4,), 2, (8,)), chosen, "er", hyper={"capacity": 8}, epochs=12, rate=0.05)
  for name in ("negative_elbo", "reconstruction"):
    assert result.scores[name][0, -1, 1] < 0.7 * result.scores[name][0, 0, 1]
  back = result.predict(stream.dataset.test.x)["reconstruction"]
  error = np.square(1 / (1 + np.exp(-np.asarray(back, np.float64))) - stream.dataset.test.x / 255).mean(1)
  for t, rows in enumerate(stream.test):
    close(result.scores["reconstruction"][0, -1, t], error[rows].mean(), 1e-4)
  assert error.mean() < 0.1


def test_importances_of_an_autoencoder_are_those_of_rows():
  """A Fisher through a prediction of several arrays: the mean of squared gradients of rows' own losses."""
  from cljax import estimators
  from cljax.core.types import rows_from_arrays
  from cljax.engine.step import rescaled

  scaled = rescaled(MODEL, 1 / 256)
  params, _ = MODEL.init(jax.random.key(1))
  rows = rows_from_arrays(X, np.zeros(B, np.int32), weight=np.float32(WEIGHT))
  got = estimators.fisher_diagonal(scaled, params, {}, rows, kind="empirical", learned=made())

  def loss(p, x):
    out = scaled.apply(p, {}, x[None], train=False, key=None)[0].logits
    r, m, v = (out[k][0] for k in ("reconstruction", "mean", "log_variance"))
    unlikely = jnp.sum(jnp.logaddexp(0.0, r) - x / 256 * r)
    return unlikely + 0.5 * jnp.sum(jnp.exp(v) + m**2 - 1 - v)

  each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, X)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(each), strict=True):
    close(a, np.tensordot(WEIGHT, np.square(np.float64(b)), 1) / WEIGHT.sum(), 2e-3, 1e-5)


def test_wrong_autoencoders_are_one_line():
  stream = stream_of(np.zeros((16, 4), np.float32), np.zeros((16, 1), np.float32), np.repeat([0, 1], 8), 1.0)
  with pytest.raises(UsageError, match="model: reconstruction expects a dict of reconstruction, mean, log_variance"):
    run(stream, models.mlp((4,), 4), "reconstruction")
  short = lambda params, x, key: {**PREDICTION, "reconstruction": PREDICTION["mean"]}
  with pytest.raises(UsageError, match=r"model: reconstructs \(2,\); a row has \(2, 3\)"):
    value_and_slope(made(), short)(0.0, batch(X))
  with pytest.raises(UsageError, match="latent: got 0; expected an integer of at least 1"):
    models.vae((4,), 0)
