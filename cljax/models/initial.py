"""Initialisation from one flat draw: one random call to compile, whatever the number of layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax.core.tree import paths
from cljax.core.types import Array, Tree, UsageError

_TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at +-2


def _std(path: str, shape, gain: float) -> float | None:
  """Standard deviation of a leaf's noise; None where the leaf is constant."""
  name = path.rsplit("/", 1)[-1]
  if name == "kernel" and len(shape) >= 2:
    return math.sqrt(gain / math.prod(shape[:-1]))
  if name == "embedding":
    return 1.0 / math.sqrt(shape[-1])
  if name in ("position", "token"):
    return 0.02
  if name in ("bias", "scale", "mean", "var", "log_width", "log_height"):
    return None
  raise UsageError(
    f"flat_init: no rule for leaf {path!r}; known: kernel, embedding, position, token, bias, scale, mean, var, "
    "log_width, log_height"
  )


def flat_init(shapes: Tree, key: Array, gain: float | Callable[[str], float] = 1.0) -> Tree:
  """Arrays for a tree of shapes, by leaf name, from one truncated-normal draw that is sliced leaf by leaf.

  ``kernel``: variance ``gain / fan_in`` with ``fan_in = prod(shape[:-1])``, cut at two standard deviations and
  rescaled, as Flax's ``lecun_normal`` (gain 1) and ``he_normal`` (gain 2); ``gain`` is a number or ``path -> number``.
  ``embedding``: standard deviation ``1/sqrt(features)``; ``position`` and ``token``: 0.02; ``bias``, ``mean``,
  ``log_width`` and ``log_height``: 0; ``scale``, ``var``: 1. A leaf of another name raises UsageError. Deterministic in
  ``key``; the draws of two leaves are independent, but differ from those of Flax's own initialisers.
  """
  leaves, treedef = jax.tree.flatten(shapes)
  named = list(zip(paths(shapes), leaves, strict=True))
  stds = [_std(n, s.shape, gain(n) if callable(gain) else gain) for n, s in named]
  total = sum(math.prod(s.shape) for (_, s), std in zip(named, stds, strict=True) if std is not None)
  noise = jax.random.truncated_normal(key, -2.0, 2.0, (total,), jnp.float32) / _TRUNCATED_STD
  out, at = [], 0
  for (name, s), std in zip(named, stds, strict=True):
    if std is None:
      out.append(jnp.full(s.shape, float(name.endswith(("scale", "var"))), s.dtype))
      continue
    size = math.prod(s.shape)
    out.append((noise[at : at + size].reshape(s.shape) * std).astype(s.dtype))
    at += size
  return jax.tree.unflatten(treedef, out)


def relu_gain(path: str) -> float:
  """2 (He) for hidden kernels, 1 (LeCun) for the head, which no rectifier follows."""
  return 1.0 if path.startswith("head/") or "/head/" in path else 2.0
