"""What each transform must give, in float64 NumPy: functions of the values of a case (``cases.Values``)."""

from __future__ import annotations

import numpy as np


def dot(a, b):
  return sum(np.sum(a[n] * b[n]) for n in a)


def each(fn):
  return lambda v: {n: fn(v, n) for n in v.G}


def pull(factor, weighted=True):
  return each(lambda v, n: v.G[n] + factor * (v.F[n] if weighted else 1.0) * (v.W[n] - v.A[n]))


def hierarchical(v):
  names = list(dict.fromkeys(map(v.layer, v.F)))
  norms = np.array([np.sqrt(sum(np.sum(v.F[n] ** 2) for n in v.F if v.layer(n) == k)) for k in names])
  soft = np.exp(norms - norms.max()) / np.exp(norms - norms.max()).sum()
  return {n: v.G[n] + 2 * 0.5 * soft[names.index(v.layer(n))] * v.F[n] * (v.W[n] - v.A[n]) for n in v.G}


def spectral(v, n: str):
  if v.W[n].ndim < 2:
    return v.G[n] + 0.5 * 4 * np.sum(v.W[n] ** 2) * v.W[n]
  u, s, vt = np.linalg.svd(v.W[n])
  return v.G[n] + 0.5 * 4 * s[0] * (s[0] ** 2 - 1) * np.outer(u[:, 0], vt[0])


def wasserstein(v, n: str):
  rank = np.argsort(np.argsort(v.W[n].ravel()))
  return v.G[n] + 2 * 0.5 * (v.W[n] - np.sort(v.A[n].ravel())[rank].reshape(v.W[n].shape))


def off(v):
  """G without its part along R."""
  share = dot(v.G, v.R) / dot(v.R, v.R)
  return {n: v.G[n] - share * v.R[n] for n in v.G}


def first_row_held(vectors: bool):
  """Old inputs are the first axis: the first row of each kernel is held, and the vectors where they are frozen."""

  def rule(v, n):
    out = v.G[n].copy()
    if out.ndim == 2:
      out[0] = 0
    return np.zeros_like(out) if out.ndim == 1 and vectors else out

  return each(rule)


def kron(left, middle, right):
  return left @ middle @ right


def owm(v, n):
  """Old inputs are the first axis, seen once: its row by ``alpha / (alpha + 1)``."""
  out = v.G[n].copy()
  if out.ndim == 2:
    out[0] /= 3
  return out


def sgp(v, n):
  """Old inputs are the first two axes, of importances 1 and ``3 / 2 / (1 + 1)``."""
  out = v.G[n].copy()
  if out.ndim == 2:
    out[:2] *= np.array([[0.0], [0.25]])
  return out


def cuber_pull(v, n):
  out = v.G[n].copy()
  if out.ndim == 2:
    out[0] += 2 * 0.5 * (v.W[n] - v.A[n])[0]
  return out


def coso(v, n):
  """The first step: Adam's signs in coordinates of the left singular vectors of ``G [out, in]``."""
  if v.G[n].ndim < 2:
    return v.G[n]
  left = np.linalg.svd(v.G[n].T)[0][:, :2]
  small = v.G[n] @ left
  return small / (np.abs(small) + 1e-6) @ left.T


def classp(v, n):
  g, s = v.G[n], np.where(v.G0[n] ** 2 > 0.5, np.abs(v.G0[n]), 0)
  return np.where(g**2 > 0.5, g / (s + np.abs(g) + 1e-5), 0)


def tag(v, n):
  m0, v0, m, new = 0.1 * v.G0[n], 0.01 * v.G0[n] ** 2, 0.1 * v.G[n], 0.01 * v.G[n] ** 2
  cosine = np.sum(m * m0) / np.sqrt(np.sum(m**2) * np.sum(m0**2))
  return v.G[n] / (np.sqrt(np.exp(-2.0 * cosine) * v0 + np.exp(-2.0) * new) + 1e-8)


SPREAD = -1.0


def natural(v, n):
  return v.G[n] * 2.0 * np.log1p(np.exp(SPREAD)) ** 2
