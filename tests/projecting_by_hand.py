"""What projecting methods do with gradients and inputs, in NumPy: the memory's rows, both projections, spans."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
from by_hand import forward

ROWS = 10  # of each class


def rows_of(stream, *tasks):
  split, index = stream.dataset.train, np.concatenate([stream.train[t] for t in tasks])
  return split.x[index], split.y[index]


def flat(tree_):
  return np.concatenate([np.ravel(tree_[p]) for p in sorted(tree_)])


def on_one(g, references, offset=0.0):
  """A-GEM: the mean reference gradient alone."""
  inner, square = g @ references, references @ references
  return g - inner / (square + offset) * references if inner < 0 else g


def on_all(g, references, margin, ridge):
  """GEM's dual by trial of every set of multipliers at their bound."""
  if (references @ g >= 0).all():
    return g
  count = len(references)
  gram, inner = references @ references.T + ridge * np.eye(count), references @ g
  for size in range(count + 1):
    for free in map(list, itertools.combinations(range(count), size)):
      v = np.full(count, float(margin))
      if free:
        rest = [i for i in range(count) if i not in free]
        v[free] = np.linalg.solve(gram[np.ix_(free, free)], -inner[free] - gram[np.ix_(free, rest)] @ v[rest])
      slope = gram @ v + inner
      at_bound = [i for i in range(count) if i not in free]
      if (v >= margin - 1e-9).all() and (slope[at_bound] >= -1e-9).all():
        return g + references.T @ v
  raise AssertionError("no solution")


def nested(by_path):
  out: dict = {}
  for path, value in by_path.items():
    layer, leaf = path.split("/")
    out.setdefault(layer, {})[leaf] = jnp.asarray(value, jnp.float32)
  return out


def widened(basis, inputs, threshold, room=None):
  """GPM's basis ``[d, r]`` with the leading left directions of what it leaves of ``inputs [n, d]``."""
  rest = inputs.T - basis @ (basis.T @ inputs.T)
  u, s, _ = np.linalg.svd(rest, full_matrices=False)
  total, kept = (inputs**2).sum(), (inputs**2).sum() - (s**2).sum()
  r = 0
  while r < len(s) and (kept + (s[:r] ** 2).sum()) / total < threshold - 1e-9:
    r += 1
  new = np.concatenate([basis, u[:, :r]], 1)
  return new[:, :room]


def inputs_of(params, x):
  """What each kernel multiplies."""
  return {"hidden_0/kernel": x.reshape(len(x), -1).astype(np.float64), "head/kernel": forward(params, x)[0]}


def off(basis, a):
  return a - basis @ (basis.T @ a)
