"""Shards of rows by id, and what retraining only those that a request touches costs."""

from __future__ import annotations

from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cljax.core.types import Array, UsageError

Ids = TypeVar("Ids", np.ndarray, Array)


def shard_of(ids: Ids, shards: int) -> Ids:
  """The shard, 0 to ``shards - 1``, of each row id: a 32-bit mixing hash of the id, modulo ``shards``.

  The same for NumPy and JAX arrays, now and later: a row keeps its shard as others come and go. ``shards`` below 1: a
  UsageError.
  """
  if shards < 1:
    raise UsageError(f"shards: got {shards}; expected at least 1")
  xp = np if isinstance(ids, np.ndarray) else jnp
  h = xp.asarray(ids).astype(xp.uint32)
  for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
    h = (h ^ (h >> shift)) * xp.uint32(factor)
  return ((h ^ (h >> 16)) % xp.uint32(shards)).astype(xp.int32)


def sisa_cost(ids: ArrayLike, deleted: ArrayLike, shards: int) -> float:
  """Rows that SISA retrains on after a deletion, as a share of those that plain retraining would: 0 to 1.

  ``ids [N]`` are the rows' ids, ``deleted [N]`` bool. The rows left in shards that lose one, over all rows left; each
  counts as often as there are epochs, on both sides. One deleted row costs about ``1 / shards``.
  """
  ids, deleted = np.asarray(ids), np.asarray(deleted, bool)
  if ids.shape != deleted.shape:
    raise UsageError(f"deleted: has shape {deleted.shape}; ids have {ids.shape}")
  shard = shard_of(ids, shards)
  touched = np.isin(shard, shard[deleted])
  return float((touched & ~deleted).sum() / max(1, (~deleted).sum()))
