"""What objectives share that draw noise or look at inputs: absent rows, noise by row, several inputs a row, units."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.types import Batch


def along(weight, a):
  """``weight [B]`` with as many axes as ``a [B, ...]``."""
  return weight.reshape(-1, *(1,) * (a.ndim - 1))


def present(batch: Batch, a):
  """The tree ``a`` with rows of weight 0 set to 0: what stands there, a NaN too, reaches no value and no gradient."""
  return jax.tree.map(lambda v: jnp.where(along(batch.weight > 0, v), v, jnp.zeros((), v.dtype)), a)


def shown(batch: Batch) -> Batch:
  """The batch whose absent rows are 0, inputs and targets."""
  x, y = present(batch, (batch.x, batch.y))
  return batch._replace(x=x, y=y)


def grouped(batch: Batch) -> Batch:
  """The batch with groups: one of scale 1 where it has none."""
  if batch.group is not None:
    return batch
  return batch._replace(group=jnp.zeros(batch.weight.shape, jnp.int32), scale=jnp.ones(1, jnp.float32))


def of_terms_alone(batch: Batch) -> Batch:
  """The batch whose loss is what terms add: the objective's own is multiplied with 0. Rows stay rows of the step."""
  batch = grouped(batch)
  return batch._replace(scale=jnp.zeros_like(batch.scale))


def counted(batch: Batch):
  """``[B]``: the weight, 0 for rows of a group of scale 0: where rows meet one another, these are not there either."""
  if batch.group is None:
    return batch.weight
  return jnp.where(batch.scale[batch.group] != 0, batch.weight, 0.0)


def keys(key, numbers):
  """``[B]`` keys, one for each number: rows of the same number see the same noise, whatever else is in the batch."""
  return jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)


def places(batch: Batch):
  """``[B]`` the rows' places in the batch: by these a step draws, so that a row that stands twice is drawn twice."""
  return jnp.arange(batch.weight.shape[0], dtype=jnp.int32)


def tiled(batch: Batch, xs) -> Batch:
  """The batch with inputs ``xs [V, B, ...]``, one B behind the other: one pass of the model for all of them."""
  x = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), xs)
  times = jax.tree.leaves(xs)[0].shape[0]
  more = lambda a: jax.tree.map(lambda v: jnp.tile(v, (times, *(1,) * (v.ndim - 1))), a)
  y, weight, id_, task = (more(a) for a in (batch.y, batch.weight, batch.id, batch.task))
  return batch._replace(
    x=x, y=y, weight=weight, id=id_, task=task, class_mask=None, group=None, extra={}, fresh=None, scale=None
  )


def first(batch: Batch, outputs):
  """The outputs of the first of :func:`tiled` inputs: what methods get as the batch's own."""
  size = batch.weight.shape[0]
  return jax.tree.map(lambda a: a[:size], outputs)


def eaten(x, scale):
  """``x`` as a model eats it, ``float32(x) * scale``; None: as it is (tokens). Of a dict the entry 'x' alone."""
  if scale is None:
    return x
  return _scaled(x, lambda a: a.astype(jnp.float32) * scale if scale != 1.0 or a.dtype != jnp.float32 else a)


def stored(x, scale):
  """The inverse of :func:`eaten`, up to the dtype: what a model of the engine is applied on."""
  return _scaled(x, lambda a: a / jnp.float32(scale)) if scale is not None else x


def _scaled(x, of):
  return {**x, "x": of(x["x"])} if isinstance(x, dict) else of(x)
