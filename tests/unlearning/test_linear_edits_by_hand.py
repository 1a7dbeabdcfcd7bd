"""Edits of a linear model by steps that are written out in NumPy, from one row to forget and one to keep."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from linear_by_hand import PARAMS, RATE, K, W, X, Y, apply_fn, ce, kl, loss_fn, numeric, softmax, steps_of
from scipy.optimize import nnls

import cljax
from cljax import unlearning
from cljax.core.tree import fold
from cljax.unlearning.gs_lora import factors_of

SGD = optax.sgd(RATE)
X64, W64 = X.astype(np.float64), W.astype(np.float64)


def near(value, wanted, rtol=1e-4, atol=3e-6):
  np.testing.assert_allclose(value, wanted, rtol, atol)


def loss(w, row):
  return -np.log(softmax(X64[row] @ w)[Y[row]])


def test_finetuning_is_descent_on_the_retain_row():
  call = steps_of(unlearning.finetune_retain, loss_fn, optimizer=SGD, forget=None)
  w = W64
  for i in range(3):
    near(call(i), w)
    w = w - RATE * ce(w, 1)


def test_graddiff_towards_the_model_as_it_was():
  call = steps_of(unlearning.graddiff, loss_fn, optimizer=SGD, retain_loss="kl", apply_fn=apply_fn)
  w = W64
  for i in range(4):
    near(call(i, forget_weight=0.4, retain_weight=0.9), w, 1e-3)
    w = w - RATE * (0.9 * kl(w, 1, W64) - 0.4 * ce(w, 0))


@pytest.mark.parametrize("opposed", [False, True])
def test_adaptive_orthogonality_through_both_gradients(opposed):
  """Where they oppose each other, and where they do not and the penalty is 0. Differentiated by differences."""
  against = lambda label: (-ce(W64, 0) * ce(W64, 1, label)).sum() < 0
  y = [Y[0], next(label for label in range(K) if against(label) == opposed)]

  def value(w):
    u, v = -ce(w, 0), ce(w, 1, y[1])
    cosine = (u * v).sum() / np.linalg.norm(u) / np.linalg.norm(v)
    penalty = ((1 - cosine) / 2) ** 1.5 if cosine < 0 else 0.0
    lost = [-np.log(softmax(X64[i] @ w)[y[i]]) for i in (0, 1)]
    return 0.9 * lost[1] - 0.2 * lost[0] + 0.7 * penalty, penalty

  kept = X[1:], np.array(y[1:], np.int32)
  call = steps_of(unlearning.adaptive_orthogonality, loss_fn, optimizer=SGD, retain=kept)
  given = {"forget_weight": 0.2, "retain_weight": 0.9, "strength": 0.7, "gamma": 1.5}
  w, penalties = W64, []
  for i in range(3):
    near(call(i, **given), w, 1e-3, 1e-5)
    penalties.append(value(w)[1])
    w = w - RATE * numeric(lambda w: value(w)[0], w)
  assert penalties[0] > 0.01 if opposed else penalties[0] == 0


@pytest.mark.parametrize("constraint", ["descent", "orthogonal"])
def test_geometric_disentanglement_is_the_nearest_allowed_update(constraint):
  """Against ``u - sum_i l_i a_i``, ``l >= 0`` or free, by least squares; two batches are remembered. In float64: the
  retain gradients that follow each other are nearly parallel."""
  with jax.enable_x64(True):
    run = lambda p, x, steps, given: unlearning.geometric_disentanglement(
      loss_fn, p, forget=(x, Y[:1]), retain=(X64[1:], Y[1:]), steps=steps, batch=2, **given
    )
    call = jax.jit(lambda *a: run(*a[:3], {"constraint": constraint, "history": 2, **a[3]})["w"])
    given = {"forget_weight": 3.0, "retain_weight": 4.0, "learning_rate": 0.2}
    for sign in (1.0, -1.0):  # a forget gradient that opposes the retain one, and one that does not
      x, w, past = sign * X64[0], W64, []
      for i in range(4):
        near(call({"w": W64}, x[None], i, given), w, 1e-5, 1e-6)
        g_f, g_r = np.outer(x, softmax(x @ w) - np.eye(K)[Y[0]]), ce(w, 1)
        walls = np.stack([g.ravel() for g in [*past, g_r]], 1)
        u = 0.2 * 3.0 * g_f.ravel()
        weights = nnls(walls, u)[0] if constraint == "descent" else np.linalg.lstsq(walls, u, rcond=None)[0]
        past = [*past, g_r][-2:]
        w = w + (u - walls @ weights).reshape(W.shape) - 0.2 * 4.0 * g_r


def fallen(kind, w, beta):
  """A forget loss of row 0 and its derivative by the loss: NPO's against the loss before."""
  s = beta * (loss(w, 0) - (loss(W64, 0) if kind == "npo" else 0.0))
  return 2 / beta * np.log1p(np.exp(-s)), -2 / (1 + np.exp(s))


@pytest.mark.parametrize(("kind", "constraint"), [("npo", "descent"), ("simnpo", "orthogonal")])
def test_any_forget_loss_goes_in_adam_s_metric(kind, constraint):
  """Adam by its definition, and SciPy's least squares after both sides are multiplied by the metric's roots."""
  beta, a, b, rate = 0.7, 0.8, 0.3, 0.05
  with jax.enable_x64(True):
    call = jax.jit(lambda steps: unlearning.geometric_disentanglement(
      loss_fn, {"w": W64}, forget=(X64[:1], Y[:1]), retain=(X64[1:], Y[1:]), batch=2, history=1, steps=steps,
      forget_loss=kind, beta=beta, optimizer="adam", learning_rate=rate, constraint=constraint, forget_weight=a,
      retain_weight=b,
    )["w"])  # fmt: skip
    w, past, moments = W64, [], np.zeros((2, 2, W64.size))
    for i in range(4):
      near(call(i), w, 1e-5, 1e-6)
      p = softmax(X64[0] @ w)
      g_f = fallen(kind, w, beta)[1] * np.outer(X64[0], p - np.eye(K)[Y[0]])
      slopes = np.stack([g_f.ravel(), ce(w, 1).ravel()])
      moments[:, 0] = 0.9 * moments[:, 0] + 0.1 * slopes
      moments[:, 1] = 0.999 * moments[:, 1] + 0.001 * slopes**2
      first, second = moments[:, 0] / (1 - 0.9 ** (i + 1)), moments[:, 1] / (1 - 0.999 ** (i + 1))
      forget, retain = -rate * first / (np.sqrt(second) + 1e-8)
      root = np.sqrt(np.sqrt(moments[0, 1]) + 1e-8)
      past = [*past, slopes[1]][-2:]
      walls, z = np.stack(past, 1) / root[:, None], root * a * forget
      found = nnls(walls, z)[0] if constraint == "descent" else np.linalg.lstsq(walls, z, rcond=None)[0]
      w = w + ((z - walls @ found) / root + b * retain).reshape(w.shape)
    assert np.abs(np.stack(past) @ ((z - walls @ found) / root)).max() < 1e-6 or constraint == "descent"


@pytest.mark.parametrize(
  ("budget", "wanted"),
  [(0.0, [0, 0, 0, 0]), (0.02, [0.125, 0, 0, 0]), (1.0, [0.25, 0.125, 0.125, 1]), (10.0, [0.5, 1, 1, 1])],
)
def test_back_tracking_takes_the_first_share_within_the_budget(budget, wanted):
  """A long step off the retain gradient raises the retain loss to second order; each step's share is found anew."""
  a, rate = 1.0, 4.0
  with jax.enable_x64(True):
    call = jax.jit(lambda steps, budget: unlearning.geometric_disentanglement(
      loss_fn, {"w": W64}, forget=(-X64[:1], Y[:1]), retain=(X64[1:], Y[1:]), batch=2, history=0, steps=steps,
      constraint="orthogonal", learning_rate=rate, forget_weight=a, retain_weight=0.0, backtracking=True, budget=budget,
    )["w"])  # fmt: skip
    w, shares = W64, []
    for i in range(4):
      near(call(i, budget), w, 1e-5, 1e-6)
      g_f, g_r = np.outer(-X64[0], softmax(-X64[0] @ w) - np.eye(K)[Y[0]]), ce(w, 1)
      d = rate * a * (g_f - (g_f * g_r).sum() / (g_r * g_r).sum() * g_r)
      within = [s for s in (1.0, 0.5, 0.25, 0.125) if loss(w + s * d, 1) <= loss(w, 1) + budget]
      shares.append(within[0] if within else 0.0)
      w = w + shares[-1] * d
  assert shares == wanted


def test_forget_losses_and_optimizers_of_ones_own():
  """A function and a transformation do what their names do; other names are refused in one line."""
  given = {"forget": (X[:1], Y[:1]), "retain": (X[1:], Y[1:]), "steps": 3, "batch": 2}
  run = lambda **more: unlearning.geometric_disentanglement(loss_fn, PARAMS, **given, **more)["w"]
  near(run(forget_loss=lambda p, batch: -loss_fn(p, batch)), run())
  near(run(optimizer=optax.sgd(0.2)), run(learning_rate=0.2))
  near(run(optimizer=optax.adam(0.2)), run(learning_rate=0.2, optimizer="adam"))
  assert np.abs(run(optimizer="adam") - run()).max() > 1e-3
  with pytest.raises(cljax.UsageError, match="forget_loss: got 'dpo'; allowed: ascent, npo, simnpo, or a function"):
    run(forget_loss="dpo")
  with pytest.raises(cljax.UsageError, match="optimizer: got 'lion'; allowed: sgd, adam, or an optax transformation"):
    run(optimizer="lion")


def away(row, w, centre):
  """``KL(softmax(centre) || softmax(x w))`` and its gradient in w."""
  q, p = softmax(centre), softmax(X64[row] @ w)
  return (q * np.log(q / p)).sum(), np.outer(X64[row], p - q)


@pytest.mark.parametrize(
  ("bound", "prototypes", "schedule"),
  [(b, p, "constant") for b, p in ((2.0, False), (2.0, True), (0.1, True))]
  + [(2.0, p, "cosine") for p in (False, True)],
  ids=["2.0-False", "2.0-True", "0.1-True", "cosine", "cosine-True"],
)
def test_gs_lora_trains_the_factors_of_a_bounded_loss(bound, prototypes, schedule):
  """B leaves 0 at the first step, the group lasso acts after a fifth of them, prototypes from the second on, and
  a forget term beyond its bound not at all; with prototypes the factors are averaged from three tenths on."""
  outputs = lambda p, batch: cljax.Outputs(apply_fn(p, batch), apply_fn(p, batch))
  start = factors_of(fold(fold(jax.random.key(0), "gs_lora"), "factors"), PARAMS, 2)["w"]
  given = {"forget_weight": 0.6, "bound": bound, "sparsity": 0.3}
  given |= {"prototype_forget_weight": 0.8, "prototype_retain_weight": 0.5, "prototype_bound": bound - 0.09}
  given |= {"ema_decay": 0.8}

  def after(steps):
    a, b = mean = [np.asarray(v, np.float64) for v in start]
    for i in range(steps):
      w, rate = W64 + a @ b, 0.5 * (0.5 * (1 + np.cos(np.pi * i / steps)) if schedule == "cosine" else 1)
      g = ce(w, 1) - (0.6 * ce(w, 0) if loss(w, 0) < bound * np.log(K) else 0)
      if prototypes:
        (far, of_far), (_, of_near) = (away(row, w, X64[row] @ W64) for row in (0, 1))
        g = g - (0.8 * of_far if far < (bound - 0.09) * np.log(K) else 0) + 0.5 * of_near
      size = 0.0 if i < 0.2 * steps else 0.3 / np.sqrt((a**2).sum() + (b**2).sum())
      a, b = a - rate * (g @ b.T + size * a), b - rate * (a.T @ g + size * b)
      mean = [0.8 * m + 0.2 * v if i > 0.3 * steps and prototypes else v for m, v in zip(mean, (a, b), strict=True)]
    return W64 + mean[0] @ mean[1], far if prototypes else None

  fixed = {"rank": 2, "prototypes": prototypes, "optimizer": optax.sgd(0.5), "rate_schedule": schedule}
  call = steps_of(unlearning.gs_lora, outputs, **fixed)
  for steps in (1, 2, 4, 6):
    near(call(steps, **given), after(steps)[0], 1e-3, 1e-5)
