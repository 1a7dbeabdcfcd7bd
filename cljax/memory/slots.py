"""What the buffers share: drawing distinct slots, reading rows, packing rows to the front."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cljax.core.types import Array, UsageError


def positive(name: str, value) -> int:
  """A static size; raises UsageError unless ``value`` is an int of at least 1."""
  if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
    raise UsageError(f"{name}: got {value!r}; expected an int of at least 1")
  return value.__index__()


def empty(row, capacity: int):
  """Zeros ``[capacity, ...]`` in the dtypes of one example row."""
  return jax.tree.map(lambda v: jnp.zeros((capacity, *jnp.shape(v)), jnp.asarray(v).dtype), row)


def field(rows, name: str) -> Array:
  """``rows[name]`` or ``rows.name``; raises UsageError if the rows have no such field."""
  if isinstance(rows, dict) and name in rows:
    return rows[name]
  if not isinstance(rows, dict) and hasattr(rows, name):
    return getattr(rows, name)
  raise UsageError(f"rows: has no field {name!r}; expected a dict or tuple that has it, or pass group=")


def read(rows, at):
  """Rows at slots ``at [n]``; a slot past the end reads as zeros."""
  return jax.tree.map(lambda v: v.at[at].get(mode="fill", fill_value=0), rows)


def write(rows, new, at):
  """Writes ``new [B, ...]`` at slots ``at [B]``, which must be distinct; a slot past the end is dropped."""
  return jax.tree.map(lambda v, u: v.at[at].set(u.astype(v.dtype), mode="drop", unique_indices=True), rows, new)


def mask(weight, rows) -> Array:
  """``weight > 0`` as ``[B]``; raises UsageError where its length is not that of the rows."""
  length = jax.tree.leaves(rows)[0].shape[0]
  if jnp.shape(weight) != (length,):
    raise UsageError(f"weight: has shape {jnp.shape(weight)}; the rows need ({length},)")
  return jnp.asarray(weight) > 0


def pack(rows, keep):
  """Moves the rows of ``keep [capacity]`` to the front in their order and zeroes every other byte."""
  capacity = keep.shape[0]
  at = jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, capacity + jnp.arange(capacity, dtype=jnp.int32))
  return jax.tree.map(lambda v: jnp.zeros_like(v).at[at].set(v, mode="drop", unique_indices=True), rows)


def draw(key, count, n: int) -> tuple[Array, Array]:
  """A uniform ordered sample without replacement of ``n`` of the slots ``0..count``: ``(slots [n], inside [n] bool)``.

  The first ``n`` steps of a Fisher-Yates shuffle, exact, in vectorised form: step ``i`` swaps places ``i`` and
  ``r_i ~ U{i..count-1}``. What a place holds is found by following swaps backwards, which pointer doubling does
  in ``log2 n`` gathers. Cost O(n^2), whatever the capacity. Entries from ``count`` on return slot ``i`` and ``inside``
  False. The modulo's bias is below ``count / 2**32``.
  """
  i, count = jnp.arange(n, dtype=jnp.int32), jnp.asarray(count, jnp.int32)
  span = jnp.maximum(count - i, 1).astype(jnp.uint32)
  r = i + (jax.random.bits(key, (n,), jnp.uint32) % span).astype(jnp.int32)
  earlier = i[None, :] < i[:, None]
  # The latest earlier swap that touched place r_i, and the one that touched place i; -1 where none did.
  last = jnp.max(jnp.where(earlier & (r[None, :] == r[:, None]), i[None, :], -1), axis=1)
  parent = jnp.max(jnp.where(earlier & (r[None, :] == i[:, None]), i[None, :], -1), axis=1)
  parent = jnp.where(parent < 0, i, parent)
  for _ in range(max(n - 1, 1).bit_length()):
    parent = parent[parent]
  return jnp.where(last < 0, r, parent[jnp.maximum(last, 0)]), i < count


def prefix(capacity: int, count) -> Array:
  """Weight ``[capacity]``: 1 for the first ``count`` slots."""
  return (jnp.arange(capacity, dtype=jnp.int32) < count).astype(jnp.float32)


def gone_mask(gone: Any, rows, stored) -> Array:
  """``gone(rows)`` limited to stored rows; raises UsageError unless it is ``[capacity]`` bool."""
  hit = jnp.asarray(gone(rows))
  if hit.shape != stored.shape or hit.dtype != bool:
    raise UsageError(f"gone: returned {hit.dtype}{list(hit.shape)}; expected bool{list(stored.shape)}")
  return hit & stored
