"""A linear classifier that learns by SGD on draws of class Gaussians, in NumPy, float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core import tree
from cljax.methods.pretrained import gaussians


def by_sgd(key, head, state, *, rate, passes, samples):
  """The same draws; softmax, slopes and steps in float64, over the classes there are."""
  w, b = (np.float64(head[n]) for n in ("kernel", "bias"))
  v, u = np.zeros_like(w), np.zeros_like(b)
  there = np.asarray(state.counts) > 0
  label = np.repeat(np.arange(len(there)), samples)
  for p in range(passes):
    own = jax.random.fold_in(key, p)
    f = np.float64(gaussians.drawn(tree.fold(own, "features"), state, samples)).reshape(len(label), -1)
    bits = np.asarray(jax.random.bits(tree.fold(own, "order"), label.shape, jnp.uint32))
    order = sorted(np.flatnonzero(there[label]), key=lambda i, bits=bits: bits[i])
    now = rate * (1 + np.cos(np.pi * p / passes)) / 2
    assert len(order) == samples * there.sum()
    for at in np.split(np.asarray(order), there.sum()):
      z = np.where(there, f[at] @ w + b, -np.inf)
      d = np.exp(z - z.max(-1, keepdims=True))
      d /= d.sum(-1, keepdims=True)
      d[np.arange(len(at)), label[at]] -= 1
      d /= len(at)
      v, u = 0.9 * v + f[at].T @ d + 5e-4 * w, 0.9 * u + d.sum(0) + 5e-4 * b
      w, b = w - now * v, b - now * u
  return {"kernel": w, "bias": b}
