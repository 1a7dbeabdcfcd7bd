"""Contrast with proxies, and what is held of it, in NumPy: what tests of pcr and hpcr compare with."""

from __future__ import annotations

import numpy as np
from by_hand import forward


def unit(f, axis=-1):
  return f / np.linalg.norm(f, axis=axis, keepdims=True)


def features(params, x):
  return forward(params["network"], x)[0]


def cosines(params, x):
  return unit(features(params, x)) @ unit(np.asarray(params["cosine"]["directions"], np.float64)[..., 0], 0)


def contrast(c, y, temperature):
  """Row by row against the proxies of all rows, the mean over those of its label. c ``[N, C]``: cosines."""
  s, each = c[:, y] / temperature, []
  for i in range(len(y)):
    log_p = s[i] - np.log(np.exp(s[i]).sum())
    each.append(-log_p[y == y[i]].mean())
  return np.mean(each)


def doubled(key, x, **how):
  """In place of second views."""
  del key, how
  return 2.0 * x[:, ::-1]


def of_two_views(params, x, y, temperature):
  """The contrast of rows and their :func:`doubled` views."""
  other = doubled(None, np.asarray(x, np.float64))
  return contrast(np.concatenate([cosines(params, x), cosines(params, other)]), np.r_[y, y], temperature)


def likeness(f, old, temperature):
  """Row by row ``-sum_{j != i} p'(j|i) log p(j|i)``, the mean."""
  each = []
  for i in range(len(f)):
    others = [j for j in range(len(f)) if j != i]
    s, t = (np.array([unit(g[i]) @ unit(g[j]) for j in others]) / temperature for g in (f, old))
    p = np.exp(t) / np.exp(t).sum()
    each.append(-(p * (s - np.log(np.exp(s).sum()))).sum())
  return np.mean(each)
