"""The lifecycle principle: units sleep for long spells and wake with the parameters they fell asleep with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.checks import check_scalar
from cljax.core.layout import in_out_only
from cljax.core.opt_state import edit_moments
from cljax.core.tree import copy, edit_leaves, leaf
from cljax.core.types import Array, OptState, Params, Scalar, UsageError


class LifecycleState(NamedTuple):
  """How long each unit of :func:`lifecycle_epoch` still sleeps, and what it wakes with."""

  sleep: Any  # per hidden layer [n] int32: calls left to sleep, 0 when awake
  stored: Any  # the parameters that sleeping units wake with


def lifecycle_init(params: Params, units: Sequence[Any]) -> LifecycleState:
  """``units`` and the kernels' layout as in ``continual_backprop_init``. Memory: one copy of the parameters. Raises
  UsageError for no units or an Equinox module."""
  if not units:
    raise UsageError("lifecycle: the model names no units; give a Model with units, such as the zoo's mlp")
  in_out_only("lifecycle", params)
  sizes = [leaf(params, u.in_kernel).shape[-1] for u in units]
  return LifecycleState(tuple(jnp.zeros(n, jnp.int32) for n in sizes), copy(params))


def _masks(sleeping, units) -> dict:
  """For each leaf that a sleeping unit owns, where it does."""
  masks: dict = {}
  for unit, asleep in zip(units, sleeping, strict=True):
    for path, mask in ((unit.in_kernel, asleep), (unit.in_bias, asleep), (unit.out_kernel, asleep[:, None])):
      masks[path] = masks[path] | mask if path in masks else mask
  return masks


def lifecycle_epoch(
  key: Array, params: Params, opt_state: OptState, state: LifecycleState, units: Sequence[Any], *, probability: Scalar,
  duration: int | Array,
) -> tuple[Params, OptState, LifecycleState]:  # fmt: skip
  """Once an epoch: units whose ``duration`` is over wake with their stored parameters, then awake ones fall asleep.

  Each awake unit falls asleep with ``probability`` for ``duration`` calls: its parameters are stored and it is zeroed
  (incoming and outgoing weights and bias), so it contributes 0 and, where the activation maps 0 to 0, gets gradient 0.
  Call ``lifecycle_mask`` after each optimizer step, which momentum and weight decay would otherwise move. Returns
  ``(params, opt_state, state)``. The whole rule is a reconstruction (UNVERIFIED). ``probability=0`` changes no bit.
  Raises UsageError for a probability outside [0, 1]. Yang 2025.
  """
  check_scalar("lifecycle", "probability", probability, 0, 1)
  before = [s > 0 for s in state.sleep]
  sleep = [jnp.maximum(s - 1, 0) for s in state.sleep]
  asleep = [s > 0 for s in sleep]
  kept, left = _masks(before, units), _masks(asleep, units)
  # All are restored; the mask at the end zeroes again what still sleeps: a weight wakes when both its ends are awake.
  woken = {p: jnp.where(kept[p], leaf(state.stored, p), leaf(params, p)) for p in kept}
  params = edit_leaves(params, woken)

  drawn = [jax.random.uniform(jax.random.fold_in(key, i), s.shape) < probability for i, s in enumerate(sleep)]
  falls = [d & ~a for d, a in zip(drawn, asleep, strict=True)]
  sleep = [jnp.where(f, duration, s).astype(jnp.int32) for f, s in zip(falls, sleep, strict=True)]
  new = _masks([s > 0 for s in sleep], units)
  # Weights that already slept keep what was stored for them; all others are stored as they are now.
  stored = edit_leaves(copy(params), {p: jnp.where(left[p], leaf(state.stored, p), leaf(params, p)) for p in left})
  state = LifecycleState(tuple(sleep), stored)
  emptied = lambda name, m: jnp.where(new[name], 0, m).astype(m.dtype) if name in new else m
  return lifecycle_mask(params, state, units), edit_moments(opt_state, params, emptied), state


def lifecycle_mask(params: Params, state: LifecycleState, units: Sequence[Any]) -> Params:
  """``params`` with the weights of sleeping units at zero."""
  masks = _masks([s > 0 for s in state.sleep], units)
  return edit_leaves(
    params, {p: jnp.where(m, 0, leaf(params, p)).astype(leaf(params, p).dtype) for p, m in masks.items()}
  )
