"""The rows of a run on the device: those it trains on, and those it is evaluated on, with their blocks."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from cljax.engine import own_streams
from cljax.engine import programs as prog
from cljax.engine.step import Data
from cljax.streams.rows import at_most


def target_dtype(a):
  return np.float32 if np.issubdtype(a.dtype, np.floating) else np.int32


def device_data(stream, options, rows=None) -> Data:
  """Training rows for the device; with grain a single row, or the given few for a boundary pass."""
  split = stream.dataset.train
  if options.feed == "grain":
    rows = np.zeros(1, int) if rows is None else rows
    x, y = jax.tree.map(lambda a: np.stack([a[r] for r in rows]), (split.x, split.y))
    ids = rows
  else:
    x, y, ids = split.x, split.y, np.arange(len(split.id))
  return _data(stream, x, y, ids)


def _data(stream, x, y, ids) -> Data:
  as_int = lambda a: jnp.asarray(np.asarray(a), jnp.int32)
  y = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), target_dtype(a)), y)
  return Data(jax.tree.map(jnp.asarray, x), y, as_int(ids), as_int(stream.labels), stream.view.tables)


def few_first(rows, y, limit: int) -> np.ndarray:
  """The rows of a task with those in front that a partial evaluation sees: ``limit`` of them, evenly by class."""
  if not limit:
    return rows
  few = at_most(rows, y, limit, seed=0)
  return np.concatenate([few, np.asarray(rows)[~np.isin(rows, few)]])


def own_evaluation(streams, options):
  """As :func:`evaluation_of`, of members with streams of their own: blocks gather from all that any is tested on."""
  test, train = streams[0].dataset.test, streams[0].dataset.train
  held = np.unique(np.concatenate([rows for s in streams for rows in s.validation]).astype(int))
  behind = lambda a, b: np.concatenate([np.asarray(a), *([np.stack([b[r] for r in held])] if len(held) else [])])
  x, y = jax.tree.map(behind, (test.x, test.y), (train.x, train.y))
  count, tasks, limit = len(test.id), streams[0].num_tasks, options.eval_limit
  made: dict[int, list] = {}
  for s in streams:
    if id(s) not in made:
      slots = [(t, few_first(rows, test.y, limit)) for t, rows in enumerate(s.test)]
      if all(len(rows) for rows in s.validation):
        slots += [(t, count + np.searchsorted(held, rows)) for t, rows in enumerate(s.validation)]
      made[id(s)] = slots
  each = [made[id(s)] for s in streams]
  rows = count + len(held)
  block = min(options.eval_block, max(rows, type(options)._field_defaults["eval_block"]))
  whole = own_streams.blocks(each, block)
  few = [[(t, rows[: limit or None] if k < tasks else []) for k, (t, rows) in enumerate(slots)] for slots in each]
  part = own_streams.blocks(few, block, len(whole.each[0].task))
  return _data(streams[0], x, y, np.arange(rows)), whole, part


def evaluation_of(stream, options):
  """Test rows and, behind them, validation rows as one array; the blocks of a full and of a partial evaluation."""
  test, train = stream.dataset.test, stream.dataset.train
  rows = max(len(test.id), sum(len(v) for v in stream.validation))
  block, limit = min(options.eval_block, max(rows, type(options)._field_defaults["eval_block"])), options.eval_limit
  slots = [(t, few_first(rows, test.y, limit)) for t, rows in enumerate(stream.test)]
  x, y = jax.tree.map(np.asarray, (test.x, test.y))
  count = len(test.id)
  without = [t for t, rows in enumerate(stream.validation) if not len(rows)]
  if without and len(without) < len(stream.validation):
    warnings.warn(f"stream.validation: task {without[0]} has no validation rows, so none are evaluated", stacklevel=2)
  if not without:
    held = np.unique(np.concatenate(stream.validation))
    slots += [(t, count + np.searchsorted(held, rows)) for t, rows in enumerate(stream.validation)]
    behind = lambda a, b: np.concatenate([a, np.stack([b[r] for r in held])])
    x, y = jax.tree.map(behind, (x, y), (train.x, train.y))
    count += len(held)
  order, slots = prog.in_order(slots)
  if order is not None and (len(order) < block or (order != np.arange(len(order))).any()):
    least = lambda a: np.concatenate([a[order], np.zeros((max(0, block - len(order)), *a.shape[1:]), a.dtype)])
    x, y = jax.tree.map(least, (x, y))
    count = max(len(order), block)
  cut = lambda slots, length=0: prog.blocks(slots, block, length, ordered=0 if order is None else count)
  whole = cut(slots)
  few: list = [(t, rows[: limit or None] if s < stream.num_tasks else []) for s, (t, rows) in enumerate(slots)]
  return _data(stream, x, y, np.arange(count)), whole, cut(few, len(whole.task))
