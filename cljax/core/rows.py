"""Picking rows of a set inside a trace."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cljax.core.types import Batch, Rows, UsageError, rows_from_arrays

RowsLike = Rows | tuple[ArrayLike, ArrayLike] | Mapping[str, ArrayLike]  # what :func:`as_rows` takes


def among_the_others(batch, gone):
  """The batch whose softmax leaves out the classes that are ``gone [C]`` bool (None: it stays as it is): what is asked
  for its rows then brings none of them back."""
  if gone is None:
    return batch
  left = jnp.broadcast_to(~jnp.asarray(gone), (*batch.weight.shape, len(gone)))
  return batch._replace(class_mask=left if batch.class_mask is None else batch.class_mask & left)


def random(key, rows: Rows, size: int) -> Batch:
  """``size`` rows drawn uniformly with replacement (weight 0 where the set is empty)."""
  return _at(rows, jax.random.randint(key, (size,), 0, jnp.maximum(rows.count, 1)))


def sample(key, rows: Rows, size: int, by_class: bool = False) -> Batch:
  """``size`` of the rows of positive weight, drawn uniformly without replacement, in their order in the set.

  ``by_class`` draws in rounds, one row of each class that has any left and the last round's classes at random, so that
  classes have equal shares as far as their rows go; within a class all rows are as likely. Where there are fewer rows
  than ``size``, each once and weight 0 behind them. Sorts the whole set: meant for boundaries, not for steps.
  """
  return subset(key, rows, size, by_class).batch(0, size)


def subset(key, rows: Rows, size: int, by_class: bool = False) -> Rows:
  """:func:`sample` as Rows, of which ``count`` is the number of rows drawn."""
  if size < 1:
    raise UsageError(f"size: got {size}; must be at least 1")
  everything = rows.batch(0, rows.capacity)
  there = everything.weight > 0
  # Two numbers a row: its place among its class (or in the set), and its class's in the last round.
  noise = jax.random.bits(key, (rows.capacity, 2), jnp.uint32)
  place = _places(noise[:, 0], everything) if by_class else jnp.zeros(rows.capacity, jnp.int32)
  at = jnp.lexsort((noise[:, 1], place, ~there))[:size]
  count = jnp.minimum(there.sum(dtype=jnp.int32), size)
  at = jnp.sort(jnp.where(jnp.arange(at.shape[0], dtype=jnp.int32) < count, at, rows.capacity - 1))
  return _through(rows, at, size, count)


def few_of_each(key, rows: Rows, each: int, num_classes: int) -> Rows:
  """At most ``each`` rows of every class, drawn uniformly without replacement, in their order in the set, as Rows."""
  if each < 1:
    raise UsageError(f"each: got {each}; must be at least 1")
  everything = rows.batch(0, rows.capacity)
  noise = jax.random.bits(key, (rows.capacity,), jnp.uint32)
  chosen = (everything.weight > 0) & (_places(noise, everything) < each)
  size = min(rows.capacity, each * num_classes)
  return _through(rows, jnp.argsort(~chosen, stable=True)[:size], size, chosen.sum(dtype=jnp.int32))


def _places(noise, everything: Batch):
  """``[N]``: each row's place among its class, in the order of ``noise [N]``; rows of weight 0 are none of it."""
  if jnp.ndim(everything.y) != 1:
    raise UsageError(f"rows: y has shape {jnp.shape(everything.y)}; sampling by class needs one label a row")
  order = jnp.lexsort((noise, everything.y, everything.weight <= 0))
  label, i = jnp.asarray(everything.y)[order], jnp.arange(noise.shape[0], dtype=jnp.int32)
  begins = (label != jnp.roll(label, 1)) | (i == 0)
  return jnp.zeros_like(i).at[order].set(i - jax.lax.cummax(jnp.where(begins, i, 0)), unique_indices=True)


def present(rows: Rows) -> Rows:
  """The rows of positive weight, in their order: what is left when a row of weight 0 is as if absent."""
  there = rows.batch(0, rows.capacity).weight > 0
  return _through(rows, jnp.argsort(~there, stable=True), rows.capacity, there.sum(dtype=jnp.int32))


def shuffled(key, rows: Rows) -> Rows:
  """The rows of positive weight, in a random order."""
  there = rows.batch(0, rows.capacity).weight > 0
  noise = jax.random.bits(key, (rows.capacity,), jnp.uint32)
  return _through(rows, jnp.lexsort((noise, ~there)), rows.capacity, there.sum(dtype=jnp.int32))


def _through(rows: Rows, at, capacity: int, count) -> Rows:
  """The rows at the places ``at``, of which the first ``count`` are meant."""
  at = at.astype(jnp.int32)  # sorting gives int64 under jax_enable_x64

  def batch(start, size):
    i = jnp.asarray(start, jnp.int32) + jnp.arange(size, dtype=jnp.int32)
    read = _at(rows, at[jnp.minimum(i, at.shape[0] - 1)])
    # What is not meant is zero throughout: a weight of 0 would not silence a NaN.
    inside = lambda v: jnp.where((i < count).reshape(-1, *(1,) * (v.ndim - 1)), v, jnp.zeros_like(v))
    kept = jax.tree.map(inside, read)
    if kept.class_mask is not None:  # a softmax over no class is NaN too
      kept = kept._replace(class_mask=kept.class_mask | (i >= count)[:, None])
    return kept._replace(id=jnp.where(i < count, kept.id, -1))

  return Rows(capacity, count, batch, lay=rows.lay)


def _at(rows: Rows, start) -> Batch:
  batch = jax.vmap(lambda s: rows.batch(s, 1))(start)
  batch = jax.tree.map(lambda a: a.reshape(start.shape[0], *a.shape[2:]), batch)
  return batch if rows.lay is None else rows.lay(batch)


def as_rows(name: str, data) -> Rows:
  """:class:`Rows` as they are; ``(x, y)`` or ``{"x": ..., "y": ..., "id": ...}`` of arrays as Rows.

  A mapping may also hold ``weight [N]``, ``id [N]`` and ``task``. Rows of weight 0 are taken out (:func:`present`), so
  that draws, counts and shares are those of the rows that are there. Raises UsageError, naming the argument ``name``.
  """
  if isinstance(data, Rows):
    return present(data)
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
    rows = rows_from_arrays(x, y, ids=ids, **given)
  except UsageError as error:
    raise UsageError(f"{name}: {error}") from None
  return rows if given.get("weight") is None else present(rows)
