"""The MLP of the fixture with an adapter of each place beside its hidden layer, in NumPy, float64."""

from __future__ import annotations

import numpy as np

PARTS = ("down", "down_bias", "up", "up_bias")


def f64(a):
  return np.asarray(a, np.float64)


def base_of(learner):
  """The frozen leaves by path."""
  return {n: f64(a) for n, a in learner.model_state.base["state"]["frozen"].items()}


def parts_of(params, slot):
  return [f64(params["stack"][f"hidden_0/adapter/{n}"][slot]) for n in PARTS]


def features(base, params, slot, x):
  """``relu(x W + b + relu(x D + d) U + u)``."""
  down, down_bias, up, up_bias = parts_of(params, slot)
  x = np.asarray(x, np.float64).reshape(len(x), -1)
  beside = np.maximum(x @ down + down_bias, 0) @ up + up_bias
  return np.maximum(x @ base["hidden_0/kernel"] + base["hidden_0/bias"] + beside, 0)


def unit(a):
  return a / np.linalg.norm(a, axis=-1, keepdims=True)


def stands(one, other, slot=None):
  """The frozen network, and (slot) the parts of a place, have the same bits."""
  for name, leaf in one.model_state.base["state"]["frozen"].items():
    np.testing.assert_array_equal(leaf, other.model_state.base["state"]["frozen"][name], err_msg=name)
  if slot is not None:
    for name, leaf in one.params["stack"].items():
      np.testing.assert_array_equal(leaf[slot], other.params["stack"][name][slot], err_msg=name)
