"""Registered answers to a Forget event that descend: their steps by their own optimizer, in float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from forgetting_by_hand import (
  DEEP,
  DEEP_MODEL,
  FORGET,
  KEY,
  LABELS,
  LR,
  MANY,
  RATE,
  STARTS,
  adam,
  forgotten,
  ids_of,
  loss,
  near,
  packed,
  rows,
  sgd,
  slope,
  stages,
  unpacked,
)
from linear_by_hand import OTHER, W, X, Y, ce, kl, outer, softmax

from cljax.core import tree
from cljax.unlearning._common import key_of
from cljax.unlearning.misdirection import unit_direction


def entropy_pull(w, i):
  return outer(0, softmax(X[0] @ w) - 0.25)


def contraction(w, i):
  z = X[0] @ w
  return ce(w, 1) + 0.7 * outer(0, z / np.sqrt((z**2).sum()))


def scrubbed(w, i):
  """A round is one step away and two back; away in the first two rounds."""
  if i % 3 == 0 and i < 6:
    return -kl(w, 0, W, 2.0) if i else 0.0 * w  # at first it is where it was: Adam would blow up a rounding
  return 0.8 * ce(w, 1) + 0.5 * kl(w, 1, W, 2.0)


def erased(w, i):
  return kl(w, 0, OTHER, 2.0) if i < 2 else ce(w, 1) + kl(w, 1, W, 2.0)


def two_teachers(w, i):
  share = 1 / (1 + 0.5)
  return share * kl(w, 0, OTHER, 1.5) + (1 - share) * kl(w, 1, W, 1.5)


def preferred(beta, margin=None):
  """Slope of NPO on the row to forget, from where it started; of SimNPO, from a margin."""
  of = lambda w: loss(X[0] @ w, Y[0])
  start = of(STARTS) if margin is None else margin
  return lambda w: -2 / (1 + np.exp(beta * (of(w) - start))) * ce(w, 0)


def weighed(weight):
  """Slope of an ascent on the row to forget, weighed by its own likelihood, through which no slope goes."""
  return lambda w: -weight(softmax(X[0] @ w)[Y[0]]) * ce(w, 0)


def demoted(strength):
  """Slope of the cross-entropy to the first answers of which the label's logit was cut."""
  target = softmax(X[0] @ STARTS - strength * np.eye(4)[Y[0]])
  return lambda w: outer(0, softmax(X[0] @ w) - target)


CASES = {
  "wga": (
    adam, lambda w, i: 0.4 * weighed(lambda p: p**0.5)(w) + 0.7 * ce(w, 1),
    {"steps": 4, "beta": 0.5, "forget_weight": 0.4, "retain_weight": 0.7},
  ),
  "satimp": (
    adam, lambda w, i: 0.4 * weighed(lambda p: p**0.5 * (1 - p) ** 0.2)(w) + 0.7 * ce(w, 1),
    {"steps": 4, "saturation": 0.5, "importance": 0.2, "forget_weight": 0.4, "retain_weight": 0.7},
  ),
  "undial": (
    adam, lambda w, i: 0.4 * demoted(2.0)(w) + 0.7 * ce(w, 1),
    {"steps": 4, "strength": 2.0, "forget_weight": 0.4, "retain_weight": 0.7},
  ),
  "npo": (
    adam, lambda w, i: 0.4 * preferred(3.0)(w) + 0.7 * ce(w, 1),
    {"steps": 4, "beta": 3.0, "forget_weight": 0.4, "retain_weight": 0.7},
  ),
  "simnpo": (
    adam, lambda w, i: 0.4 * preferred(3.0, 0.8)(w) + 0.7 * ce(w, 1),
    {"steps": 4, "beta": 3.0, "delta": 0.8, "forget_weight": 0.4, "retain_weight": 0.7},
  ),
  "npo-kl": (
    adam, lambda w, i: preferred(0.5)(w) + 2.0 * kl(w, 1, W) * (i > 0),
    {"steps": 4, "beta": 0.5, "retain_weight": 2.0, "retain_loss": "kl"},
  ),
  "finetune_retain": (sgd, lambda w, i: ce(w, 1), {"steps": 3}),
  "gradient_ascent": (sgd, lambda w, i: -ce(w, 0), {"steps": 3, "bound": 1e9}),
  "graddiff": (
    sgd, lambda w, i: 0.7 * ce(w, 1) - 0.3 * ce(w, 0),
    {"steps": 3, "forget_weight": 0.3, "retain_weight": 0.7, "bound": 1e9},
  ),
  "graddiff-kl": (
    sgd, lambda w, i: 0.7 * kl(w, 1, W) - 0.3 * ce(w, 0),
    {"steps": 3, "forget_weight": 0.3, "retain_weight": 0.7, "retain_loss": "kl", "bound": 1e9},
  ),
  "bad_teacher": (adam, two_teachers, {"steps": 3, "retain_fraction": 0.5, "temperature": 1.5}),
  "stochastic_teacher": (adam, erased, {"steps": 2, "erase_steps": 2, "temperature": 2.0}),
  "scrub": (
    adam, scrubbed, {"steps": 8, "max_steps": 1, "min_steps": 2, "max_rounds": 2, "ce_weight": 0.8, "kl_weight": 0.5},
  ),
  "famr": (
    adam, lambda w, i: entropy_pull(w, i) + 0.3 * (w - STARTS),
    {"steps": 4, "anchor": 0.3, "optimizer": "adam", "bound": 1e9},
  ),
  "one_point_contraction": (adam, contraction, {"steps": 3, "forget_weight": 0.7}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_registered_descents_by_hand(case):
  optimizer, gradient, options = CASES[case]
  steps = options["steps"] + options.get("erase_steps", 0)
  after = forgotten(case.partition("-")[0], **options, **LR)[0]["w"]
  want = optimizer(STARTS, gradient, steps)
  assert np.abs(want - W).max() > 0.02
  near(after, want)


def test_random_labels_by_hand():
  """One of the three wrong labels, and the same at each step."""
  options = {"forget": FORGET, "retain": rows(np.repeat(X[1:], 3, 0), np.repeat(Y[1:], 3), [8, 9, 10])}
  after = forgotten("random_labels", steps=3, **options, **LR)[0]["w"]
  fits = [
    np.abs(adam(STARTS, lambda w, i, c=c: 0.25 * ce(w, 0, c) + 0.75 * ce(w, 1), 3) - after).max() for c in range(4)
  ]
  assert np.argmin(fits) != Y[0]
  assert sorted(fits)[0] < 1e-4 < 1e-2 < sorted(fits)[1]


@pytest.mark.parametrize(("constraint", "history", "bound"), [("descent", 1, 9.0), ("orthogonal", 0, 1.7)])
def test_geometric_disentanglement_by_hand(constraint, history, bound):
  """Against SciPy: the nearest update with ``<g_r, d> <= 0``, or 0, for this gradient and those before it; a row whose
  class goes whole rises to ``bound ln 4``."""
  a, b, w, past, rising = 0.6, 0.2, STARTS, [], []
  for _ in range(4):
    rising.append(bool(-np.log(softmax(X[0] @ w)[Y[0]]) < bound * np.log(4)))
    past = [*past, ce(w, 1).ravel()][-1 - history :]
    basis, d = np.stack(past, 1), rising[-1] * RATE * a * ce(w, 0).ravel()
    solve = scipy.optimize.nnls if constraint == "descent" else lambda m, v: np.linalg.lstsq(m, v, rcond=None)
    d = d - basis @ solve(basis, d)[0]
    w = w + d.reshape(w.shape) - RATE * b * ce(w, 1)
  assert rising[0]
  assert all(rising) is (bound == 9.0)
  options = {"forget_weight": a, "retain_weight": b, "constraint": constraint, "history": history, "bound": bound}
  near(forgotten("geometric_disentanglement", steps=4, **options, **LR)[0]["w"], w)


def test_adaptive_orthogonality_by_hand():
  """``b L_r - a L_f + strength AO`` by differences, once with gradients in conflict and once without."""
  a, b, strength, gamma = 0.4, 0.8, 0.6, 1.5
  options = {"forget_weight": a, "retain_weight": b, "strength": strength, "gamma": gamma, "steps": 2}
  for sign in (1.0, -1.0):
    x = np.stack([X[0], sign * X[0] + 0.1 * X[1]]).astype(np.float32)
    y = np.array([1, 1 if sign > 0 else 2])
    grad = lambda w, row, x=x, y=y: np.outer(x[row], softmax(x[row] @ w) - np.eye(4)[y[row]])
    conflicts = []

    def objective(w, x=x, y=y, grad=grad, conflicts=conflicts):
      u, v = -grad(w, 0).ravel(), grad(w, 1).ravel()
      cosine = u @ v / np.sqrt(u @ u) / np.sqrt(v @ v)
      conflicts.append(cosine < 0)
      penalty = ((1 - cosine) / 2) ** gamma if cosine < 0 else 0.0
      return b * loss(x[1] @ w, y[1]) - a * loss(x[0] @ w, y[0]) + strength * penalty

    want = sgd(STARTS, lambda w, i, f=objective: slope(f, w), 2)
    assert np.all(conflicts) or not np.any(conflicts)
    sets = {"forget": rows(x[:1], y[:1], [7]), "retain": rows(x[1:], y[1:], [8])}
    near(forgotten("adaptive_orthogonality", bound=1e9, **sets, **options, **LR)[0]["w"], want, atol=1e-4)


def test_unsir_by_hand():
  """Noise is learned by Adam at 0.1 on the class; then both are trained on, then the retain row alone."""
  noise_rows, noise_steps, penalty, steps = 3, 4, 0.2, 2
  n = np.asarray(jax.random.normal(tree.fold(key_of(KEY, "unsir"), "noise"), (noise_rows, 5)), np.float64)
  mean, std = X[1].mean(), X[1].std()

  def unlikely(n, i):
    p = softmax((mean + std * n) @ W)
    return (2 * penalty * n - std * (p - np.eye(4)[1]) @ W.T) / noise_rows

  x = mean + std * adam(n, unlikely, noise_steps, 0.1)
  of = lambda w: sum(np.outer(v, softmax(v @ w) - np.eye(4)[1]) for v in x)

  def repaired(w, i):
    return (2 * ce(w, 1) + of(w)) / (2 + noise_rows) if i < steps else ce(w, 1)

  options = {"noise_rows": noise_rows, "noise_steps": noise_steps, "noise_penalty": penalty, "steps": steps}
  near(forgotten("unsir", **options, **LR)[0]["w"], adam(STARTS, repaired, 2 * steps))


def test_iau_by_hand():
  both = rows(np.stack([X[1], X[0] - X[1]]), np.array([2, 0]), [8, 9])
  other = X[0] - X[1]
  g_f = ce(W, 0)
  g_r = ce(W, 1) + np.outer(other, softmax(other @ W) - np.eye(4)[0])
  near(forgotten("iau", retain=both, learning_rate=0.01, variant="paper", search=0)[0]["w"], W + 0.01 * (g_f - g_r))
  released = forgotten("iau", retain=both, learning_rate=0.01, variant="released", search=0)[0]["w"]
  near(released, W + 0.01 * np.sign(g_f - g_r / 2), atol=1e-5)


def test_group_reweight_by_hand():
  """Batches are read from the same draw; a row weighs as many as its group has lost."""
  sets = {"forget": (MANY[4:], LABELS[4:], np.arange(4, 10)), "retain": (MANY[:4], LABELS[:4], np.arange(4))}
  groups = np.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 1])
  weight = np.bincount(groups) / np.bincount(groups[:4])
  key, w = key_of(KEY, "group_reweight"), STARTS
  for i in range(3):
    (at,) = map(np.asarray, ids_of(jax.random.fold_in(key, i), sets, 5, ("retain",)))
    g = 0.0
    for r in at:
      g = g + weight[groups[r]] * np.outer(MANY[r], softmax(MANY[r] @ w) - np.eye(4)[LABELS[r]])
    w = w - RATE * g / weight[groups[at]].sum()
  given = {"groups": jnp.asarray(groups), **{k: rows(*v) for k, v in sets.items()}}
  near(forgotten("group_reweight", **given, steps=3, learning_rate=RATE, batch=5)[0]["w"], w)


def test_upcore_by_hand():
  """Seven rows alike and one far off, which is left out: the rest is GradDiff on the seven."""
  x = np.concatenate([np.repeat(X[:1], 7, 0), 40 * X[1:]])
  gone = rows(x[[0, 1, 7, 2, 3, 4, 5, 6]], np.full(8, Y[0]), np.arange(8))
  options = {"contamination": 0.12, "forget_weight": 0.3, "retain_weight": 0.7, "steps": 3}
  want = sgd(STARTS, lambda w, i: 0.7 * ce(w, 1) - 0.3 * ce(w, 0), 3)
  near(forgotten("upcore", bound=1e9, forget=gone, **options, **LR)[0]["w"], want)


def test_rmu_by_hand():
  """Steered from a layer of its own: the second layer of three, of whose kernel the slope is known."""
  u = np.asarray(unit_direction(tree.fold(key_of(KEY, "rmu"), "u"), 3, "normal"), np.float64)
  start = {k: np.asarray(v, np.float32).astype(np.float64) for k, v in DEEP.items()}

  def value(flat):
    p, _ = unpacked(flat)
    (_, f, _), held = stages(p, X), stages(start, X[1:])[1]
    return 0.8 * np.mean((f[0] - 2.0 * u) ** 2) + 0.5 * np.mean((f[1] - held[0]) ** 2)

  want = adam(packed(start), lambda p, i: slope(value, p) * (np.abs(slope(value, p)) > 1e-9), 3)
  options = {"coefficient": 2.0, "direction": "normal", "layer": 1, "forget_weight": 0.8, "retain_weight": 0.5}
  after = forgotten("rmu", DEEP, model=DEEP_MODEL, steps=3, **options, **LR)[0]
  near(packed(after), want, atol=1e-4)
  np.testing.assert_array_equal(after["c"], np.float32(DEEP["c"]))
