"""Views: what a task does to an input. Rows are viewed inside the step, so a task costs no second copy of the data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import UsageError


class View(NamedTuple):
  """``apply(tables, x [B, ...], task [B]) -> x``; ``tables`` are arrays with a leading task axis, kept on the
  device."""

  tables: tuple
  apply: Callable


def identity() -> View:
  """Every task shows the rows as they are: ``x_t = x``."""
  return View((), lambda tables, x, task: x)


def permuted(num_tasks: int, input_shape: tuple, seed: int) -> View:
  """Each task permutes the pixels afresh, the first too (van de Ven and Tolias 2019): ``x_t = x[perm_t]``."""
  size = int(np.prod(input_shape))
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x9E37]))
  tables = (np.stack([rng.permutation(size) for _ in range(num_tasks)]).astype(np.int32),)

  def apply(tables, x, task):
    flat = x.reshape(x.shape[0], -1)
    return jnp.take_along_axis(flat, tables[0][task], axis=1).reshape(x.shape)

  return View(tables, apply)


def rotated(angles: Sequence[float], input_shape: tuple) -> View:
  """Task ``t`` rotates images about their centre by ``angles[t]`` degrees, bilinear, zero outside."""
  if len(input_shape) != 3:
    raise UsageError(f"stream.kind: 'rotated' needs images [height, width, channels]; inputs have shape {input_shape}")
  height, width, _ = input_shape
  centre = np.array([(height - 1) / 2, (width - 1) / 2])
  grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1) - centre
  indices, weights = [], []
  for angle in np.deg2rad(np.asarray(angles, np.float64)):
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    source = np.round(grid @ turn.T + centre, 9)
    low = np.floor(source).astype(int)
    index, weight = [], []
    for dy in (0, 1):
      for dx in (0, 1):
        at = low + [dy, dx]
        share = np.prod(1 - np.abs(source - at), axis=-1)
        inside = ((at >= 0) & (at < [height, width])).all(-1)
        at = np.clip(at, 0, [height - 1, width - 1])
        index.append(at[..., 0] * width + at[..., 1])
        weight.append(share * inside)
    indices.append(np.stack(index).reshape(4, -1))
    weights.append(np.stack(weight).reshape(4, -1))
  # Four neighbours a pixel, as gather tables: no trigonometry in the step.
  tables = (np.stack(indices).astype(np.int32), np.stack(weights).astype(np.float32))

  def turned(tables, pixels, task):
    index, weight = (jnp.asarray(table)[task] for table in tables)  # [4, H*W]
    return jnp.sum(pixels[index].astype(weight.dtype) * weight[..., None], axis=0)

  def apply(tables, x, task):
    flat = x.reshape(x.shape[0], height * width, -1)
    whole = lambda flat, task: jax.vmap(functools.partial(turned, tables))(flat, task)
    # As one gather XLA's CPU backend computes it again for each that reads it, at ten times the time of a step.
    by_row = lambda flat, task: jax.lax.map(lambda row: turned(tables, *row), (flat, task))
    return jax.lax.platform_dependent(flat, task, cpu=by_row, default=whole).reshape(x.shape)

  return View(tables, apply)
