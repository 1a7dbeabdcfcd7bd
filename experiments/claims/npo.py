"""Negative preference optimisation loses what is to be kept more slowly than gradient ascent."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import losses, objectives, unlearning
from cljax.models.decoder import decoder
from experiments.claims import Claim, Measured

CLAIM = Claim(
  methods=("npo", "gradient_ascent"),
  paper="arXiv 2404.05868",
  sentence="Along an unlearning run without a retain term, negative preference optimisation damages what is to be kept "
  "more slowly than gradient ascent does.",
  protocol="60 made-up facts of 8 tokens (3 of a name, 1 of a relation, 4 of an answer; 32 tokens), learned to the end "
  "by a decoder (1 block, width 32, 2 heads, Adam 3e-3, 300 steps of all rows); 6 of them forgotten, no row kept in "
  "sight, by 40 steps of Adam at 3e-4 on batches of 6, with npo (beta 0.1 and 1) and by ascent on the same sums of the "
  "answer's tokens (npo at beta 1e-4, of which the slope is ascent's to 1 in 100). Likelihood of an answer's token on "
  "the other 54 facts, exp of the mean loss, read after 10, 20 and 40 steps; its mean over the three, npo's minus "
  "ascent's, in points; beta 1 and beta 0.1 each an effect.",
)
STEPS = (10, 20, 40)
BETAS = {"npo, beta 1": 1.0, "npo, beta 0.1": 0.1, "ascent": 1e-4}
MODEL = decoder(7, 32, width=32, depth=1, heads=2)


def facts(seed: int):
  """``(x [60, 7], y [60, 7])``: only the last four tokens, the answer, are learned."""
  text = np.random.default_rng(seed).integers(0, 32, (60, 8)).astype(np.int32)
  y = text[:, 1:].copy()
  y[:, :3] = -1
  return text[:, :-1], y


def apply_fn(params, batch):
  return MODEL.apply(params, {}, batch.x, train=False, key=None)[0]


def loss_of(params, x, y):
  nll, count = losses.sequence_nll(MODEL.apply(params, {}, x, train=False, key=None)[0].logits, y)
  return nll.sum() / count.sum()


@jax.jit
def learned(key, x, y):
  tx = optax.adam(3e-3)
  params = MODEL.init(key)[0]

  def body(_, carry):
    params, state = carry
    updates, state = tx.update(jax.grad(loss_of)(params, x, y), state)
    return optax.apply_updates(params, updates), state

  return jax.lax.fori_loop(0, 300, body, (params, tx.init(params)))[0]


@jax.jit
def forgotten(params, key, x, y, beta, steps):
  """The likelihood of an answer's token, in percent, of the rows to forget and of the others, after ``steps``."""
  sides: dict[str, Any] = {"forget": (x[:6], y[:6]), "retain": (x[6:], y[6:])}
  given: dict[str, Any] = {
    "key": key,
    "beta": beta,
    "retain_weight": 0.0,
    "steps": steps,
    "batch": 6,
    "optimizer": optax.adam(3e-4),
  }
  after = unlearning.npo(apply_fn, params, **sides, learned=objectives.chosen("sequence")(None, None, {}), **given)
  return jnp.stack([100 * jnp.exp(-loss_of(after, *of)) for of in sides.values()])


@functools.cache
def curves(seed: int):
  """``{arm: [3, 2]}``, and the likelihoods before, ``[2]``."""
  x, y = map(jnp.asarray, facts(seed))
  key = jax.random.key(seed)
  params = learned(key, x, y)
  arms = {name: np.stack([forgotten(params, key, x, y, b, n) for n in STEPS]) for name, b in BETAS.items()}
  return arms, np.asarray(forgotten(params, key, x, y, 1.0, 0))


def measure(seeds):
  found = [curves(seed) for seed in range(seeds)]
  kept = {arm: np.stack([arms[arm][:, 1].mean() for arms, _ in found]) for arm in BETAS}
  effects = {f"kept likelihood, {arm} - ascent": kept[arm] - kept["ascent"] for arm in BETAS if arm != "ascent"}
  figures = {"before: kept": np.stack([start[1] for _, start in found])}
  for arm in BETAS:
    for i, steps in enumerate(STEPS):
      for side, what in enumerate(("to forget", "kept")):
        figures[f"{arm}, {steps} steps: {what}"] = np.stack([arms[arm][i, side] for arms, _ in found])
  return Measured(effects, figures)
