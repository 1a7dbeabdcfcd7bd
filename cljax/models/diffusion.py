"""A small network that tells noise from what it was added to, for :func:`cljax.objectives.denoising`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cljax.core.checks import check_look_up
from cljax.core.types import Model, Outputs, UsageError
from cljax.models.initial import flat_init
from cljax.models.linen import from_linen

WAVES = 16


def waves(time):
  """``[B, 32]``: ``sin(t f_i), cos(t f_i)`` with ``f_i = 10000^(-i / 16)`` (Vaswani et al. 2017)."""
  angle = time.astype(jnp.float32)[:, None] * jnp.exp(-math.log(10000.0) * jnp.arange(WAVES) / WAVES)
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


class Denoiser(nn.Module):
  hidden: tuple[int, ...]
  conditions: int

  @nn.compact
  def __call__(self, x):
    if ("condition" in x) != bool(self.conditions):
      given = "have a condition" if "condition" in x else "have none"
      raise UsageError(f"conditions: got {self.conditions}; the inputs {given}")
    rows = x["x"].shape[0]
    parts = [x["x"].reshape(rows, -1), waves(x["time"])]
    if self.conditions:
      c = x["condition"]
      parts.append(nn.Embed(self.conditions + 1, 2 * WAVES, name="condition")(jnp.where(c < 0, self.conditions, c)))
    h, hidden = jnp.concatenate(parts, -1), []
    for i, width in enumerate(self.hidden):
      h = nn.gelu(nn.Dense(width, name=f"hidden_{i}")(h))
      hidden.append(h)
    return Outputs(nn.Dense(parts[0].shape[1], name="head")(h).reshape(x["x"].shape), h, tuple(hidden))


def denoiser(input_shape: Sequence[int], hidden: Sequence[int] = (256, 256), conditions: int = 0) -> Model:
  """A multilayer perceptron on x, :func:`waves` of the time and an embedding of the condition; it gives x's shape.

  Inputs are the dict that :func:`cljax.objectives.denoising` shows: ``x [B, *input_shape]``, ``time [B]`` int and, with
  ``conditions`` above 0, ``condition [B]`` int below it, -1 for none. UsageError where one is there without the other.
  """
  rows = lambda shape, dtype: jax.ShapeDtypeStruct((1, *shape), dtype)
  like = {"x": rows(tuple(input_shape), jnp.float32), "time": rows((), jnp.int32)}
  if conditions:
    like["condition"] = rows((), jnp.int32)

  def check_rows(x):
    if isinstance(x, dict) and "condition" in x and conditions:
      check_look_up("model.conditions", x["condition"], conditions, "conditions", low=-1)

  return from_linen(Denoiser(tuple(hidden), conditions), like, init=flat_init)._replace(check_rows=check_rows)
