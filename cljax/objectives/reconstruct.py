"""Variational autoencoders: inputs are to come back from a code that is close to standard normal."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.types import UsageError
from cljax.objectives.objective import Objective, Score, supervised
from cljax.objectives.registry import Number, Text, offered
from cljax.objectives.rows import eaten, present

PARTS = ("reconstruction", "mean", "log_variance")


@offered(beta=Number(1.0), likelihood=Text("bernoulli", ("bernoulli", "gaussian")), noise=Number(1.0, above=True))
def reconstruction(model, spec, *, beta, likelihood: str, noise) -> Objective:
  """``-log p(x | z) + beta KL(q(z | x) || N(0, 1))``, z drawn by the model (Kingma and Welling 2014).

  The model gives a dict, as :func:`cljax.models.vae` does: ``reconstruction`` of x's shape, ``mean`` and
  ``log_variance [B, D]`` of the code. Likelihoods of x as the model eats it, sums over its numbers: 'bernoulli' of
  logits, x in [0, 1]; 'gaussian' ``|x - r|^2 / (2 noise)``, less its constant. ``beta`` as Higgins et al. 2017 have it.
  Targets are not looked at. Scores, lower: negative_elbo (beta 1 whatever is trained), reconstruction (squared error of
  a number, of the mean of x). In evaluation the model's code has no noise, so both are of the mean code. Raises
  UsageError where the prediction is none of these.
  """
  del model

  def rows(prediction, batch):
    """``(r, x) [B, N]``, float32."""
    if not isinstance(prediction, dict) or not set(PARTS) <= set(prediction):
      raise UsageError(f"model: reconstruction expects a dict of {', '.join(PARTS)}; it gives another prediction")
    r, x = prediction["reconstruction"], eaten(present(batch, batch.x), spec.scale)
    if math.prod(r.shape[1:]) != math.prod(x.shape[1:]):
      raise UsageError(f"model: reconstructs {r.shape[1:]}; a row has {x.shape[1:]}")
    flat = lambda a: a.astype(jnp.float32).reshape(a.shape[0], -1)
    return flat(present(batch, r)), flat(x)

  def divergent(prediction, batch):
    return losses.gaussian_kl(*(present(batch, prediction[name]) for name in PARTS[1:]))

  def unlikely(prediction, batch):
    r, x = rows(prediction, batch)
    if likelihood == "bernoulli":
      return losses.binary_cross_entropy(r, x)
    return jnp.sum(jnp.square(r - x), -1) / (2 * noise)

  def each(prediction, batch):
    return unlikely(prediction, batch) + beta * divergent(prediction, batch), None

  def elbo(key, predict, batch):
    del key
    prediction = predict(batch)
    return unlikely(prediction, batch) + divergent(prediction, batch), jnp.ones(batch.weight.shape)

  def error(key, predict, batch):
    del key
    r, x = rows(predict(batch), batch)
    r = jax.nn.sigmoid(r) if likelihood == "bernoulli" else r
    return jnp.mean(jnp.square(r - x), -1), jnp.ones(batch.weight.shape)

  def check_rows(prediction, x, y):
    del prediction, y
    x, scale = x["x"] if isinstance(x, dict) else x, 1.0 if spec.scale is None else spec.scale
    low, high = (float(a) * scale for a in (x.min(initial=0), x.max(initial=0)))
    if likelihood == "bernoulli" and (low < 0 or high > 1 + 1e-6):
      raise UsageError(
        f"objective.likelihood: 'bernoulli' expects numbers in 0..1; the data hold {low:g}..{high:g}; try 'gaussian'"
      )

  scores = {"negative_elbo": Score(elbo, better="lower"), "reconstruction": Score(error, better="lower")}
  return supervised("reconstruction", each, scores, "negative_elbo", check_rows=check_rows)
