"""Forgetting by what a layer gives: activations of rows to forget steered to a direction, those of others held."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.checks import check_choice
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, Params, Scalar, UsageError
from cljax.objectives.objective import Objective, of_rows
from cljax.unlearning._common import drawn, key_of, mean_loss, minimize, outputs_of

DIRECTIONS = ("uniform", "normal")


def unit_direction(key: Array, width: int, direction: str = "uniform") -> Array:
  """``[width]`` of length 1, the same for a key: of 'uniform' numbers in [0, 1), or of 'normal' ones."""
  check_choice("rmu", "direction", direction, DIRECTIONS)
  draw = jax.random.uniform if direction == "uniform" else jax.random.normal
  u = draw(key, (width,), jnp.float32)
  return u / jnp.linalg.norm(u)


def activations(apply_fn, params, batch, layer: int):
  """``hidden[layer]`` of what ``apply_fn(params, batch)`` gives, in float32; UsageError where there is none."""
  hidden = outputs_of(apply_fn, params, batch).hidden
  if not -len(hidden) <= layer < len(hidden):
    raise UsageError(f"layer: got {layer}; the model gives {len(hidden)} hidden activations, numbered from 0")
  return hidden[layer].astype(jnp.float32)


def _of_places(gap, batch, learned):
  """``[B]``: the mean over a row's places of ``gap [B, ...]``; of tokens, over those that are learned."""
  weight = None
  if learned is not None and learned.parts is not None:
    weight = learned.parts(batch)
  elif batch.y.ndim == 2 and jnp.issubdtype(batch.y.dtype, jnp.integer):
    weight = (batch.y >= 0).astype(jnp.float32)
  if weight is not None and weight.shape == gap.shape:
    return of_rows(gap, weight)
  return gap.reshape(gap.shape[0], -1).mean(1)


def rmu(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  layer: int = 0,
  coefficient: Scalar = 6.5,
  direction: str = "uniform",
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """RMU: descent on ``a mean |h - c u|^2 / D`` of rows to forget ``+ b mean |h - h_before|^2 / D`` of rows to keep.

  a and b are ``forget_weight`` and ``retain_weight``.
  ``apply_fn(params, batch)`` gives :class:`Outputs` whose ``hidden[layer]`` is h, ``[B, D]`` or ``[B, L, D]`` (of a
  decoder: behind block ``layer``; below 0 from the end); means are over places and rows, of tokens over the places
  whose next token is learned. u ``[D]`` has length 1, is drawn once for ``key``, of numbers in [0, 1) as in the paper,
  which is near the same direction for all keys, or 'normal'; c is ``coefficient``: to reach a multiple k of what h
  is, ``k rms(h) sqrt(D)``. All parameters take part, where the release trains three kernels; those behind ``layer``
  have gradient 0. Only the retain term is at rest at the start, so that ``forget_weight=0`` changes nothing. Adam at
  1e-3. Deviations: the release averages over places of the learned tokens themselves, one further. Li et al. 2024,
  arXiv 2403.03218; spec language_unlearning W7. Raises UsageError for a layer or a direction that there is not.
  """
  forget, retain, before = as_rows("forget", forget), as_rows("retain", retain), params
  key = key_of(key, "rmu")

  def steered(params, rows):
    h = activations(apply_fn, params, rows, layer)
    target = jnp.asarray(coefficient).astype(h.dtype) * unit_direction(tree.fold(key, "u"), h.shape[-1], direction)
    target = target.reshape(*(1,) * (h.ndim - 1), -1)
    return _of_places(jnp.mean(jnp.square(h - target), -1), rows, learned)

  def kept(params, rows):
    h, held = (activations(apply_fn, p, rows, layer) for p in (params, before))
    return _of_places(jnp.mean(jnp.square(h - jax.lax.stop_gradient(held)), -1), rows, learned)

  def objective(key, params, step):
    del step
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    return forget_weight * mean_loss(steered, params, to_forget) + retain_weight * mean_loss(kept, params, to_keep)

  return minimize(
    tree.fold(key, "steps"), objective, params, steps=steps, optimizer=optimizer or optax.adam(1e-3), forget=forget
  )
