"""Picking rows of a set inside a trace."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cljax.types import Batch, Rows, UsageError, rows_from_arrays


def spread(rows: Rows, size: int) -> Batch:
  """``size`` rows evenly spread over the set; where it has fewer, each once and weight 0 behind them."""
  at = jnp.arange(size)
  start = jnp.where(rows.count >= size, (at * jnp.maximum(rows.count, 1)) // size, at)
  return _at(rows, start)


def random(key, rows: Rows, size: int) -> Batch:
  """``size`` rows drawn uniformly with replacement (weight 0 where the set is empty)."""
  return _at(rows, jax.random.randint(key, (size,), 0, jnp.maximum(rows.count, 1)))


def _at(rows: Rows, start) -> Batch:
  batch = jax.vmap(lambda s: rows.batch(s, 1))(start)
  return jax.tree.map(lambda a: a.reshape(start.shape[0], *a.shape[2:]), batch)


def as_rows(name: str, data) -> Rows:
  """:class:`Rows` as they are; ``(x, y)`` or ``{"x": ..., "y": ..., "id": ...}`` of arrays as Rows.

  A mapping may also hold ``weight [N]``, ``id [N]`` and ``task``. Raises UsageError, naming the argument ``name``.
  """
  if isinstance(data, Rows):
    return data
  if isinstance(data, Mapping):
    given = dict(data)
    unknown = sorted(set(given) - {"x", "y", "weight", "id", "task"})
    if unknown or not {"x", "y"} <= set(given):
      what = f"an unknown key {unknown[0]!r}" if unknown else f"only {', '.join(sorted(given)) or 'nothing'}"
      raise UsageError(f"{name}: got {what}; expected x and y, and of weight, id, task what there is")
    x, y, ids = given.pop("x"), given.pop("y"), given.pop("id", None)
  elif isinstance(data, tuple) and len(data) == 2:
    (x, y), ids, given = data, None, {}
  else:
    raise UsageError(f"{name}: got {type(data).__name__}; expected (x, y), a dict of arrays, or Rows")
  try:
    return rows_from_arrays(x, y, ids=ids, **given)
  except UsageError as error:
    raise UsageError(f"{name}: {error}") from None
