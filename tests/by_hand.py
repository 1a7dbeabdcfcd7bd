"""The fixture's MLP, its loss and its gradient in NumPy: what methods' tests compare with."""

from __future__ import annotations

import jax
import numpy as np

from cljax.core import tree

RATE = 0.1  # of the bench's SGD


def leaves(params):
  return dict(zip(tree.paths(params), (np.asarray(v, np.float64) for v in jax.tree.leaves(params)), strict=True))


def forward(params, x):
  """``relu(x W + b) V + c``: hidden values and logits."""
  p = leaves(params)
  h = np.maximum(np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0)
  return h, h @ p["head/kernel"] + p["head/bias"]


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def cross_entropy(z, y):
  return -log_softmax(z)[np.arange(len(y)), y]


def backward(params, x, d):
  """The gradient of a loss whose slope with respect to the logits is ``d [B, C]``."""
  p, (h, _) = leaves(params), forward(params, x)
  back = (d @ p["head/kernel"].T) * (h > 0)
  flat = np.asarray(x, np.float64).reshape(len(x), -1)
  return {
    "head/bias": d.sum(0), "head/kernel": h.T @ d, "hidden_0/bias": back.sum(0), "hidden_0/kernel": flat.T @ back,
  }  # fmt: skip


def gradient(params, x, y):
  """The gradient of the mean cross-entropy."""
  d = np.exp(log_softmax(forward(params, x)[1]))
  d[np.arange(len(y)), y] -= 1
  return backward(params, x, d / len(y))


def batch_of(bench, task, k):
  """``(x, y)`` of the bench's k-th batch of a task, where the stream shows rows as they are."""
  index = np.asarray(bench.rows(task, k)[0])
  split = bench.stream.dataset.train
  return split.x[index], split.y[index]


KERNELS = ("hidden_0/kernel", "head/kernel")


def near(params, want, atol=2e-6, rtol=2e-4):
  got = leaves(params)
  assert set(got) == set(want)
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol, atol, err_msg=name)
