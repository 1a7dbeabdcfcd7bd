"""A linear model of one's own and its gradients in NumPy.

With one row to forget and one to keep, every random batch is that row: a step is exactly known.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cljax import losses

K = 4
RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 5)).astype(np.float32)
Y = np.array([1, 2], np.int32)
W = RNG.normal(size=(5, K)).astype(np.float32)
OTHER = RNG.normal(size=(5, K)).astype(np.float32)  # a teacher
PARAMS = {"w": jnp.asarray(W)}
FORGET, RETAIN = {"x": X[:1], "y": Y[:1], "id": [7]}, {"x": X[1:], "y": Y[1:], "id": [8]}
RATE = 0.1


def apply_fn(params, batch):
  return batch.x @ params["w"]


def loss_fn(params, batch):
  return losses.cross_entropy(apply_fn(params, batch), batch.y)


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def outer(row: int, d):
  """The gradient in w of a loss on one row with gradient ``d [K]`` in its logits."""
  return np.outer(X[row].astype(np.float64), d)


def ce(w, row: int, label: int | None = None):
  """The gradient of the cross-entropy of row 0 (forget) or 1 (retain)."""
  return outer(row, softmax(X[row] @ w) - np.eye(K)[Y[row] if label is None else label])


def kl(w, row: int, teacher, temperature=1.0):
  """The gradient of ``T^2 KL_T(teacher || w)``."""
  p, q = (softmax(X[row] @ v / temperature) for v in (w, teacher))
  return outer(row, temperature * (p - q))


def steps_of(call, first=apply_fn, **fixed):
  """``(steps, **traced) -> w`` of a pure call on the two rows; compiled once."""
  rows = {"forget": FORGET, "retain": RETAIN}
  options = {**rows, "batch": 2, **fixed}
  options = {k: v for k, v in options.items() if v is not None}
  program = jax.jit(lambda p, steps, traced: call(first, p, steps=steps, **options, **traced))
  return lambda steps, **traced: np.asarray(program(PARAMS, steps, traced)["w"])


def numeric(value, at, step=1e-5):
  """The gradient of ``value(at)``, float64, by central differences."""
  out = np.zeros_like(at)
  for i in np.ndindex(at.shape):
    e = np.zeros_like(at)
    e[i] = step
    out[i] = (value(at + e) - value(at - e)) / (2 * step)
  return out


def ce_of(x, label: int, w):
  """The gradient in w of the cross-entropy of any row."""
  return np.outer(x, softmax(x @ w) - np.eye(w.shape[1])[label])
