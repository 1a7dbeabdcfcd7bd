"""Registered answers to a Forget event by Fisher, tangent kernels, oracles and datamodels, against float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forgetting_by_hand import (
  DRAW,
  FORGET,
  KEY,
  LABELS,
  LR,
  MANY,
  RATE,
  STARTS,
  adam,
  forgotten,
  model_of,
  near,
  rows,
  sgd,
)
from linear_by_hand import OTHER, W, X, Y, outer, softmax

from cljax import methods
from cljax.core import tree, types
from cljax.unlearning._common import key_of
from cljax.unlearning.matching import random_subset


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_fisher_forgetting_by_hand(variant):
  """The noise is read from the same draw; its size is that of the retain row's exact Fisher."""
  alpha, p = 1e-2, softmax(X[1].astype(np.float64) @ W)
  fisher = sum(p[c] * outer(1, p - np.eye(4)[c]) ** 2 for c in range(4))
  noise = np.asarray(jax.random.normal(tree.fold(key_of(KEY, "fisher_forgetting"), "w"), W.shape), np.float64)
  variance = alpha * np.minimum(1 / (fisher + 1e-8), 1e3)
  mean = STARTS.copy()
  if variant == "released":  # a column for each class: the head
    variance = np.tile(alpha * np.minimum(1 / (fisher + 1e-8), 1e2).mean(0), (5, 1))
    mean[:, 1], variance[:, 1] = 0, 1e-4
    variance = variance * 10
  near(forgotten("fisher_forgetting", alpha=alpha, variant=variant)[0]["w"], mean + np.sqrt(variance) * noise)


def affine(x, params):
  return types.Outputs(x @ params["w"] + params["b"])


@pytest.mark.parametrize("name", ["ntk", "fast_ntk"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_tangent_steps_by_hand(name, variant):
  """``theta + scale (w_r - w_D)`` with the Jacobian written out, at what the leaves were before training."""
  decay, scale = 0.2, 0.7
  before, now = ({"b": DRAW.normal(size=4), "w": DRAW.normal(size=(5, 4))} for _ in range(2))
  every = name == "ntk"
  at = before if every else {"w": now["w"], "b": before["b"]}
  z = MANY.astype(np.float64) @ at["w"] + at["b"]
  error = (np.stack([softmax(v) for v in z]) - np.eye(4)[LABELS]).ravel()
  of_b = np.tile(np.eye(4), (10, 1))
  of_w = np.stack([np.outer(x, e).ravel() for x in MANY for e in np.eye(4)])
  jacobian = np.hstack([of_b, of_w]) if every else of_b

  def step(some):
    j, n = jacobian[some], some.stop is None and 10 - some.start // 4
    return -j.T @ np.linalg.solve(j @ j.T + n * decay * np.eye(len(j)), error[some])

  of_all, of_rest = step(slice(0, None)), step(slice(4 * 3, None))
  move = of_rest - of_all
  flat = lambda p: np.concatenate([p["b"], p["w"].ravel()]) if every else p["b"]
  if variant == "released":
    rest = flat(now) - flat(before) - of_rest
    cosine = move @ rest / np.sqrt((move @ move) * (rest @ rest))
    scale *= 1 + 2 * abs(cosine) * np.sqrt(rest @ rest) / np.sqrt(move @ move)
  want = flat(now) + scale * move

  model = model_of(affine, None)
  leaves = {} if every else {"leaves": "^b$"}
  method = methods.make(name, model, None, **leaves)
  first = types.Learner(jnp.int32(0), KEY, jax.tree.map(jnp.float32, before), {}, (), ())
  state = method.init(KEY, first)
  sets = {"forget": rows(MANY[:3], LABELS[:3], np.arange(3)), "retain": rows(MANY[3:], LABELS[3:], np.arange(3, 10))}
  options = {"scale": 0.7, "weight_decay": decay, "rows": 12, "variant": variant, "search": 0, **leaves}
  after, _ = forgotten(name, now, model=model, state=state, **sets, **options)
  near(flat(after), want, atol=1e-4)
  if not every:
    np.testing.assert_array_equal(np.float32(after["w"]), np.float32(now["w"]))


SAME = rows(X[:1], Y[1:], [8])  # the forget row's input: whatever a batch draws, its logits are these


def centred(z):
  return z - z.mean()


def test_oracle_matching_by_hand():
  """An oracle starts where ``model.init`` does and takes SGD steps on retain rows; then its logits are matched."""
  options = {"oracles": 2, "oracle_steps": 3, "oracle_learning_rate": 0.2, "rows": 2, "weight_decay": 0.3, "steps": 3}
  at_x0 = lambda w: np.outer(X[0], softmax(X[0] @ w) - np.eye(4)[Y[1]])
  oracle = sgd(OTHER.astype(np.float64), lambda w, i: at_x0(w), 3, 0.2)
  own = X[0] @ STARTS
  target = own + centred(X[0] @ oracle - own)
  pull = lambda w, i: 2 * outer(0, X[0] @ w - target) + 2 * 0.3 * (w - STARTS)
  near(forgotten("oracle_matching", retain=SAME, **options, **LR)[0]["w"], adam(STARTS, pull, 3))


@pytest.mark.parametrize("rescale", [False, True])
def test_datamodel_matching_by_hand(rescale):
  """Which rows a net saw is read from the same draw: the net, the ridge regression and the matching are NumPy's.

  Rescaled, a row's effect is divided by the mean of the diagonal of what the regression projects with."""
  oracles, ridge, multiplier = 5, 0.5, 0.8
  weight = jnp.array([1.0, 0.0])  # the second row is absent
  forget = types.rows_from_arrays(np.repeat(X[:1], 2, 0), np.repeat(Y[1:], 2), weight, ids=jnp.array([7, 9]))
  key = key_of(KEY, "datamodel")
  seen = []
  for i in range(oracles):
    own = tree.fold(jax.random.fold_in(key, i), "subset")
    seen.append(np.asarray(random_subset(own, FORGET, 0.5)[1](jnp.array([7, 8]))))
  included = np.stack(seen).astype(np.float64)
  assert 0 < included[:, 0].mean() < 1
  assert not included.any(1).all()  # one saw nothing
  at_x0 = lambda w: np.outer(X[0], softmax(X[0] @ w) - np.eye(4)[Y[1]])
  net = sgd(OTHER.astype(np.float64), lambda w, i: at_x0(w), 3, 0.2)
  z = np.stack([centred(X[0] @ (net if any(s) else OTHER)) for s in included])
  a = included - included.mean(0)
  tau = a.T @ np.linalg.solve(a @ a.T + ridge * np.eye(oracles), z - z.mean(0))
  if rescale:
    tau = tau / np.diag(a.T @ np.linalg.solve(a @ a.T + ridge * np.eye(oracles), a)).mean()
  target = X[0] @ STARTS - multiplier * tau[0]
  pull = lambda w, i: 2 * outer(0, X[0] @ w - target)
  options = {"oracles": oracles, "oracle_steps": 3, "oracle_learning_rate": 0.2, "rows": 2, "steps": 3, "ridge": ridge,
             "multiplier": multiplier, "learning_rate": RATE, "batch": 40, "rescale": rescale}  # fmt: skip
  near(forgotten("datamodel_matching", forget=forget, retain=SAME, **options)[0]["w"], adam(STARTS, pull, 3))


@pytest.mark.parametrize("importance", ["empirical", "batched"])
def test_ssd_measures_batches_as_the_released_code(importance):
  """Squares of each row's gradient, or of a batch's mean."""
  grads = [np.outer(x, softmax(x @ W) - np.eye(4)[y]) for x, y in zip(MANY.astype(np.float64), LABELS, strict=True)]

  def measured(some):
    size = 2 if importance == "batched" else 1
    parts = [some[i : i + size] for i in range(0, len(some), size)]
    squares = [len(p) * np.mean([grads[r] for r in p], 0) ** 2 for p in parts]
    return sum(squares) / len(some)

  of_forget, of_retain = measured(range(4)), measured(range(4, 10))
  whole = 0.4 * of_forget + 0.6 * of_retain
  want = np.where(of_forget > 1.1 * whole, W * np.minimum(0.7 * whole / of_forget, 1), W)
  assert 3 < (want != W).sum() < 17
  sets = {"forget": rows(MANY[:4], LABELS[:4], np.arange(4)), "retain": rows(MANY[4:], LABELS[4:], np.arange(4, 10))}
  options = {"alpha": 1.1, "dampening": 0.7, "importance": importance, "importance_batch": 2, "search": 0}
  near(forgotten("ssd", **sets, **options)[0]["w"], want, atol=1e-6)
