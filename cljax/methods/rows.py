"""Picking rows of a task inside a trace."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.types import Batch, Rows


def spread(rows: Rows, size: int) -> Batch:
  """``size`` rows evenly spread over the set; where it has fewer, each once and weight 0 behind them."""
  at = jnp.arange(size)
  start = jnp.where(rows.count >= size, (at * jnp.maximum(rows.count, 1)) // size, at)
  batch = jax.vmap(lambda s: rows.batch(s, 1))(start)
  return jax.tree.map(lambda a: a.reshape(size, *a.shape[2:]), batch)


def random(key, rows: Rows, size: int) -> Batch:
  """``size`` rows drawn uniformly with replacement (weight 0 where the set is empty)."""
  start = jax.random.randint(key, (size,), 0, jnp.maximum(rows.count, 1))
  batch = jax.vmap(lambda s: rows.batch(s, 1))(start)
  return jax.tree.map(lambda a: a.reshape(size, *a.shape[2:]), batch)
