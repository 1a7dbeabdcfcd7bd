"""The MLP of the fixture with a pair for each task beside its hidden kernel, in NumPy."""

from __future__ import annotations

import numpy as np
from by_hand import log_softmax

from cljax.core import tree

NAME = "hidden_0/kernel"


def numbers(learner):
  """``(base, trained)``: leaves by path, in float64."""
  wide = lambda leaves: {n: np.asarray(v, np.float64) for n, v in leaves.items()}
  return wide(learner.model_state["frozen"]), wide(tree.by_path(learner.params))


def total(p):
  return np.einsum("tir,tro->io", p[f"{NAME}/lora_a"], p[f"{NAME}/lora_b"])


def forward(base, p, x, delta=None):
  """Hidden values and logits; ``delta [d_in, d_out]`` defaults to the sum over tasks."""
  delta = total(p) if delta is None else delta
  h = np.maximum(np.asarray(x, np.float64).reshape(len(x), -1) @ (base[NAME] + delta) + base["hidden_0/bias"], 0)
  return h, h @ p["head/kernel"] + p["head/bias"]


def slopes(base, p, x, y, mask=None):
  """The gradient of the mean cross-entropy: of the hidden kernel as a whole, and of the head."""
  h, z = forward(base, p, x)
  z = z if mask is None else np.where(mask, z, -np.inf)
  d = np.exp(log_softmax(z))
  d[np.arange(len(y)), y] -= 1
  d /= len(y)
  flat = np.asarray(x, np.float64).reshape(len(x), -1)
  return {
    "kernel": flat.T @ ((d @ p["head/kernel"].T) * (h > 0)), "head/kernel": h.T @ d, "head/bias": d.sum(0),
  }  # fmt: skip
