"""Networks that grow in NumPy: copies of the fixture's MLP, which of them train, and the classifier of all features."""

from __future__ import annotations

import numpy as np
from by_hand import leaves, log_softmax


def network(params, copy):
  """``{name: array}`` of one copy; layers of which there is one are as they are."""
  p = leaves(params["network"])
  return {n: a if copy is None else a[copy] for n, a in p.items()}


def hidden(p, x):
  """The hidden values of a network of one layer."""
  return np.maximum(np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0)


def features(params, x, count):
  """``[B, S, D]``: of the first ``count`` copies, 0 of the others."""
  slots = len(leaves(params["network"])["hidden_0/kernel"])
  f = [hidden(network(params, s), x) for s in range(slots)]
  return np.stack([a if s < count else 0 * a for s, a in enumerate(f)], 1)


def logits(params, f):
  head = leaves(params["classifier"])
  return np.einsum("bsd,sdc->bc", f, head["kernel"]) + head["bias"]


def auxiliary(params, f):
  head = leaves(params["auxiliary"])
  return f @ head["kernel"] + head["bias"]


def slope_of_cross_entropy(z, y, inside=None):
  """The loss of each row and its slope in the logits; ``inside [C]`` bool: the places of the softmax."""
  z = np.where(np.ones(z.shape[1], bool) if inside is None else inside, z, -np.inf)
  with np.errstate(invalid="ignore"):
    p = log_softmax(z)
  return -p[np.arange(len(y)), y], np.exp(p) - np.eye(z.shape[1])[y]


def stored(state):
  return np.asarray(state.rows["id"])[: int(state.count)]


def back_to_copy(params, copy, x, f, d):
  """The gradient of a copy's layer for the slope ``d [B, D]`` of its features ``f``."""
  del params, copy
  d = d * (f > 0)
  flat = np.asarray(x, np.float64).reshape(len(x), -1)
  return {"hidden_0/kernel": flat.T @ d, "hidden_0/bias": d.sum(0)}
