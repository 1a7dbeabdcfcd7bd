"""Clusters of rows: Lloyd's algorithm with a fixed number of steps, inside a compiled program."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def k_means(key, x, weight, number: int, steps: int = 20, among=None):
  """``[number, D]``: centres after ``steps`` of Lloyd's algorithm on rows of positive weight, from as many rows drawn
  without replacement. x ``[N, D]``, weight ``[N]``; in float32.

  A centre that has no row stays where it is; so, where there are fewer rows than centres, do those that repeat a row.
  0 without any row. Of centres outside ``among [number]`` (bool, those inside in front) none has rows. Lloyd, 1982.
  """
  there = weight > 0
  x = jnp.where(there[:, None], x.astype(jnp.float32), 0.0)
  noise = jnp.where(there, jax.random.uniform(key, there.shape), -1.0)
  order = jnp.argsort(-noise)
  count = jnp.sum(there, dtype=jnp.int32)
  start = x[order[jnp.arange(number, dtype=jnp.int32) % jnp.maximum(count, 1)]]

  def step(_, centres):
    distance = jnp.sum(jnp.square(x[:, None] - centres[None]), axis=-1)
    distance = distance if among is None else jnp.where(among, distance, jnp.inf)
    member = jax.nn.one_hot(jnp.argmin(distance, axis=-1), number, dtype=jnp.float32) * there[:, None].astype(
      jnp.float32
    )
    size = member.sum(0)[:, None]
    return jnp.where(size > 0, member.T @ x / jnp.maximum(size, 1.0), centres)

  return jax.lax.fori_loop(0, steps, step, start)
