"""One number out of several: accuracy against cost, forgotten against learned, and laws fitted to forgetting."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError


def netscore(
  accuracy: ArrayLike, memory: ArrayLike, compute: ArrayLike, kappa: float = 2.0, beta: float = 0.5, gamma: float = 0.5
) -> np.ndarray:
  """``20 log10(accuracy^kappa / (memory^beta compute^gamma))`` in decibels (NetScore, Wong 2018).

  ``accuracy`` in percent, ``memory`` in millions of parameters, ``compute`` in giga multiply-adds. For continual
  learning (Harun et al. 2023) ``memory`` is model plus buffer, ``compute`` the training updates or time, and the
  accuracy is divided by that of joint training; the exponents used there are UNVERIFIED. Scores compare only where all
  units agree. Doubling the compute costs 3.01, doubling the accuracy gives 12.04.
  """
  a, m, c = (np.asarray(v, np.float64) for v in (accuracy, memory, compute))
  for name, v in (("accuracy", a), ("memory", m), ("compute", c)):
    if not (v > 0).all():
      raise UsageError(f"{name}: got {v}; expected numbers above 0")
  return 20.0 * (kappa * np.log10(a) - beta * np.log10(m) - gamma * np.log10(c))


def fuar(
  kept_then: ArrayLike, kept_now: ArrayLike, updated_then: ArrayLike, updated_now: ArrayLike, acquired_then: ArrayLike,
  acquired_now: ArrayLike,
) -> float:  # fmt: skip
  """``FUAR = sum_i (K_i - K_n)+ / sum_i [(U_n - U_i)+ + (A_n - A_i)+]``: forgotten over updated plus acquired.

  Scores on kept (K), updated (U) and newly acquired (A) knowledge (Jang et al., ICLR 2022): 1 breaks even, below 1 is
  a gain. ``*_then [n]`` are those of the model after each earlier corpus ``i``, ``*_now`` (``[n]`` or a scalar) those
  of the last model. Recalled, UNVERIFIED in its details; that both sums run over ``i`` is our reading. NaN ("no
  gain") where nothing was updated or acquired: never infinite.
  """
  then = [np.atleast_1d(np.asarray(v, np.float64)) for v in (kept_then, updated_then, acquired_then)]
  now = [np.asarray(v, np.float64) for v in (kept_now, updated_now, acquired_now)]
  for name, v, w in zip(("kept", "updated", "acquired"), then, now, strict=True):
    if v.shape != then[0].shape or w.shape not in ((), v.shape):
      raise UsageError(f"{name}_now: has shape {w.shape}; {name}_then has {v.shape}; expected {then[0].shape}")
  gain = sum(np.maximum(w - v, 0.0).sum() for v, w in zip(then[1:], now[1:], strict=True))
  lost = np.maximum(then[0] - now[0], 0.0).sum()
  return float(lost / gain) if gain > 0 else float("nan")


class ScalingLaw(NamedTuple):
  """``F(P, N) = ceiling - a P^-alpha - b N^-beta`` and the share of variance it explains."""

  ceiling: float
  a: float
  b: float
  alpha: float
  beta: float
  r2: float

  def __call__(self, parameters, steps):
    P, N = np.asarray(parameters, np.float64), np.asarray(steps, np.float64)
    return self.ceiling - self.a * P**-self.alpha - self.b * N**-self.beta


def fit_scaling_law(parameters: ArrayLike, steps: ArrayLike, forgetting: ArrayLike) -> ScalingLaw:
  """Least squares of ``F = c - k [(A/P)^alpha + (B/N)^beta]`` over fine-tuned parameters P and steps N.

  Form of Kalajdzievski 2024 (arXiv 2401.05605; its constants UNVERIFIED). ``k A^alpha`` and ``k B^beta`` cannot be told
  apart from F alone, so they come as ``a`` and ``b``. Exponents are searched in ``[0.01, 5]``; ``c, a, b`` follow
  linearly (variable projection). All inputs ``[K]``, at least 6 points, with at least 3 values of P and of N.
  """
  from scipy.optimize import least_squares

  P, N, F = (np.asarray(v, np.float64).ravel() for v in (parameters, steps, forgetting))
  if not P.shape == N.shape == F.shape or len(F) < 6:
    raise UsageError(
      f"forgetting: has {len(F)} points, parameters {len(P)}, steps {len(N)}; expected equal, at least 6"
    )
  for name, v in (("parameters", P), ("steps", N)):
    if not (v > 0).all() or len(np.unique(v)) < 3:
      raise UsageError(f"{name}: expected at least 3 values, all above 0")
  # Scaled by their geometric means, so that the columns of any exponent stay comparable.
  p0, n0 = np.exp(np.log(P).mean()), np.exp(np.log(N).mean())

  def solve(exponents):
    alpha, beta = np.exp(exponents)
    columns = np.stack([np.ones_like(F), -((P / p0) ** -alpha), -((N / n0) ** -beta)], 1)
    coefficients = np.linalg.lstsq(columns, F, rcond=None)[0]
    return coefficients, columns @ coefficients - F

  bounds = (np.log([0.01, 0.01]), np.log([5.0, 5.0]))
  starts = [np.log([s, t]) for s in (0.1, 0.5, 2.0) for t in (0.1, 0.5, 2.0)]
  fits = [least_squares(lambda e: solve(e)[1], s, bounds=bounds, xtol=1e-12, ftol=1e-12, gtol=1e-14) for s in starts]
  best = min(fits, key=lambda f: f.cost)
  (c, a, b), residual = solve(best.x)
  alpha, beta = np.exp(best.x)
  return ScalingLaw(float(c), float(a * p0**alpha), float(b * n0**beta), float(alpha), float(beta), _r2(residual, F))


def fit_forgetting_tradeoff(finetuning_loss: ArrayLike, forgetting: ArrayLike) -> tuple[float, float, float]:
  """Least squares of ``F = s - k L`` over ``[K]`` runs: ``(s, k, r2)``; ``k > 0`` says that lower loss forgets more.

  Kalajdzievski 2024: forgetting is linear and inverse in the fine-tuning loss.
  """
  L, F = (np.asarray(v, np.float64).ravel() for v in (finetuning_loss, forgetting))
  if L.shape != F.shape or len(np.unique(L)) < 2:
    raise UsageError(f"finetuning_loss: has {len(L)} points, forgetting {len(F)}; expected equal, at least 2 values")
  (s, slope) = np.linalg.lstsq(np.stack([np.ones_like(L), L], 1), F, rcond=None)[0]
  return float(s), float(-slope), _r2(s + slope * L - F, F)


def _r2(residual, target) -> float:
  spread = ((target - target.mean()) ** 2).sum()
  return float(1.0 - (residual**2).sum() / spread) if spread > 0 else float("nan")
