"""Recycling of hidden units: what they are scored by is the caller's, what is done to them is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from cljax.core.layout import in_out_only
from cljax.core.opt_state import edit_moments
from cljax.core.tree import edit_leaves, leaf
from cljax.core.types import UsageError


def checked_units(owner: str, params, units: Sequence[Any]) -> None:
  """UsageError: no units, parameters that are not there, an Equinox module, and a layer of which no whole number of
  inputs belongs to each unit."""
  if not units:
    raise UsageError(f"{owner}: the model names no units; give a Model with units, such as the zoo's mlp")
  in_out_only(owner, params)
  for unit in units:
    n, read = leaf(params, unit.in_kernel).shape[-1], leaf(params, unit.out_kernel).shape[-2]
    if read % n:
      raise UsageError(
        f"{owner}: {unit.out_kernel!r} has {read} inputs, {unit.in_kernel!r} writes {n} units; expected a multiple of "
        "them, the unit being the last axis of what is flattened"
      )


def activity_scores(h, weight):
  """``[n]``: ``mean |h_i| / mean_k mean |h_k|`` of ``h [B, ..., n]``, over rows of positive weight and all places.

  1 on average; zeros for a layer in which nothing is active."""
  there = (weight > 0).reshape(-1, *(1,) * (h.ndim - 1))
  total = jnp.where(there, jnp.abs(h), 0).sum(tuple(range(h.ndim - 1)))
  mean = total.mean()
  return total / jnp.where(mean > 0, mean, 1)


def read_by(mask, kernel):
  """``[d_in, 1]``: of the inputs of ``kernel [..., d_in, out]`` those that are of a unit of ``mask [n]``.

  A convolution that is flattened before a dense layer, channels last, gives input ``place * n + channel``: the mask is
  repeated place by place (tile), not unit by unit.
  """
  return jnp.tile(mask, kernel.shape[-2] // mask.shape[0])[:, None]


def recycle(params, opt_state, fresh, units: Sequence[Any], chosen: Sequence[Any]):
  """``(params, opt_state)`` with the ``chosen [n]`` bool of each layer's units made new.

  Incoming weights are those of ``fresh``, bias and outgoing weights 0, and so are the optimizer's moments of all three.
  A weight between two such units is 0: it goes out of one.
  """
  edits: dict[str, Any] = {}
  where: dict[str, Any] = {}
  mark = lambda path, mask: where.update({path: where[path] | mask if path in where else mask})
  for unit, mask in zip(units, chosen, strict=True):
    now = edits.get(unit.in_kernel, leaf(params, unit.in_kernel))
    edits[unit.in_kernel] = jnp.where(mask, leaf(fresh, unit.in_kernel).astype(now.dtype), now)
    bias = leaf(params, unit.in_bias)
    edits[unit.in_bias] = jnp.where(mask, jnp.zeros_like(bias), bias)
    mark(unit.in_kernel, jnp.broadcast_to(mask, now.shape))
    mark(unit.in_bias, mask)
  for unit, mask in zip(units, chosen, strict=True):
    now = edits.get(unit.out_kernel, leaf(params, unit.out_kernel))
    out = jnp.broadcast_to(read_by(mask, now), now.shape)
    edits[unit.out_kernel] = jnp.where(out, jnp.zeros_like(now), now)
    mark(unit.out_kernel, out)
  emptied = lambda name, m: jnp.where(where[name], jnp.zeros_like(m), m) if name in where else m
  return edit_leaves(params, edits), edit_moments(opt_state, params, emptied)
