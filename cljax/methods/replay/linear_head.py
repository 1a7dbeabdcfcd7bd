"""A linear classifier that is made anew on features that stand still, with all classes alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.models import heads

MILESTONES, CUT = (0.6, 0.75, 0.9), 0.2  # behind these shares of the steps the rate is cut
MOMENTUM = 0.9


def chances(y, there, num_classes: int):
  """``[N]``: how likely each row is drawn where a class is drawn uniformly, among those that have rows, and then one of
  its rows; 0 for rows that are not ``there [N]`` bool."""
  member = jax.nn.one_hot(y, num_classes, dtype=jnp.float32) * there.astype(jnp.float32)[:, None]
  counts = member.sum(0)
  each = jnp.where(there, 1.0 / jnp.maximum(counts[y], 1.0), 0.0)
  return each / jnp.maximum(jnp.sum(counts > 0, dtype=jnp.float32), 1.0)


def drawn_by(key, chance, size: int):
  """``[size]`` int32: rows drawn independently with these chances ``[N]``."""
  ends = jnp.cumsum(chance)
  at = jnp.searchsorted(ends, ends[-1] * jax.random.uniform(key, (size,)), side="right")
  return jnp.minimum(at.astype(jnp.int32), chance.shape[0] - 1)


def fitted(key, features, y, there, num_classes: int, *, passes: int, rate, size: int):
  """``{"kernel" [D, C], "bias" [C]}`` that begins at 0 and lowers the cross-entropy over all classes of rows drawn by
  :func:`chances`: ``passes ceil(N / size)`` steps of SGD with momentum, N the rows that are there.

  features ``[N, D]``, y ``[N]``, there ``[N]`` bool. ``rate`` is multiplied by CUT behind each of MILESTONES. Without
  rows, or passes, it stays 0.
  """
  features = jnp.where(there[:, None], features.astype(jnp.float32), 0.0)
  chance = chances(y, there, num_classes)
  steps = passes * ((jnp.sum(there, dtype=jnp.int32) + size - 1) // size)
  start = {"kernel": jnp.zeros((features.shape[1], num_classes)), "bias": jnp.zeros(num_classes)}

  def step(i, carry):
    head, velocity = carry
    at = drawn_by(jax.random.fold_in(key, i), chance, size)
    loss = lambda head: jnp.mean(losses.cross_entropy(heads.linear(head, features[at]), y[at]))
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, jax.grad(loss)(head))
    share = i.astype(jnp.float32) / jnp.maximum(steps, 1).astype(jnp.float32)
    now = rate * CUT ** jnp.sum(share >= jnp.array(MILESTONES, jnp.float32), dtype=jnp.float32)
    return jax.tree.map(lambda w, v: w - now * v, head, velocity), velocity

  return jax.lax.fori_loop(0, steps, step, (start, jax.tree.map(jnp.zeros_like, start)))[0]
