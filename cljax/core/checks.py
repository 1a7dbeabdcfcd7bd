"""Checks of numbers and names at the edge; what is traced passes, because a sweep may trace it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import Scalar, UsageError

MOST = 2**31 - 1  # of whole numbers, which are int32 on the device


def check_integer(name: str, value, least: int = 0) -> None:
  """Raises UsageError unless ``value`` is an integer, no truth value, from ``least`` to what fits int32."""
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise UsageError(f"{name}: got {value!r}; expected an integer of at least {least}")
  if value > MOST:
    raise UsageError(f"{name}: got {value}; expected at most {MOST}")


def is_concrete(x) -> bool:
  return not any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(x))


def check_scalar(
  owner: str, argument: str, value, low: Scalar = 0.0, high: Scalar = math.inf, above: bool = False, whole: bool = False
):
  """Refuses a concrete scalar outside ``[low, high]`` (``(low, high]`` if ``above``); traced values and bounds pass."""
  if callable(value):
    raise UsageError(f"{owner}: {argument} is a function; wrap the factory in optax.inject_hyperparams to schedule it")
  if not all(map(is_concrete, (value, low, high))):
    return value
  if isinstance(value, str) or jnp.ndim(value) != 0:
    given = repr(value) if isinstance(value, str) else f"{type(value).__name__} of shape {jnp.shape(value)}"
    raise UsageError(f"{owner}: {argument} must be a scalar; got {given}")
  if whole and isinstance(value, float):
    raise UsageError(f"{owner}: {argument} must be a whole number; got {value}")
  if not low <= float(value) <= high or (above and float(value) == low):  # NaN fails the first
    allowed = f"{'above' if above else 'at least'} {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
    raise UsageError(f"{owner}: {argument} must be {allowed}; got {float(value):g}")
  return value


def check_choice(owner: str, argument: str, value, allowed):
  if value not in allowed:
    raise UsageError(f"{owner}: {argument} must be one of {', '.join(map(str, allowed))}; got {value!r}")
  return value


def check(name: str, value, allowed: str, ok: Callable[[Any], bool]) -> None:
  """Raises UsageError unless ``ok(value)`` for all of it."""
  if not is_concrete(value):
    return
  if isinstance(value, str) or not np.all(ok(value)):
    raise UsageError(f"{name}: got {value!r}; allowed: {allowed}")


def check_count(name: str, value, least: int = 1) -> None:
  """:func:`check` of one whole number, which shapes a state."""
  whole = lambda v: np.ndim(v) == 0 and np.issubdtype(np.asarray(v).dtype, np.integer)
  check(name, value, f"whole numbers >= {least}", lambda v: whole(v) and v >= least)


def check_look_up(what: str, values, count: int, kind: str, low: int = 0) -> None:
  """UsageError, with the smallest and the largest, unless all ``values`` are whole numbers from ``low`` to
  ``count - 1``; ``what``: the name of the size ``count``, ``kind``: what is looked up."""
  if not np.issubdtype(values.dtype, np.integer):
    raise UsageError(f"{what}: the data hold {values.dtype}; expected whole numbers")
  if values.size and (values.min() < low or values.max() >= count):
    raise UsageError(
      f"{what}: got {count}; the data hold {kind} {values.min()}..{values.max()}, expected {low}..{count - 1}"
    )
