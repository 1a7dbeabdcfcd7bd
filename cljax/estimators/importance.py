"""Label-free importance of parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.types import Array, Model, Params, Rows, Tree
from cljax.estimators.per_sample import check_batch_size, per_sample_sums, rows_at_once, sum_over_batches, thinned


def mas_importance(
  model: Model, params: Params, model_state: Tree, rows: Rows, *, batched: bool = False, batch_size: int = 64,
  samples: int | None = None, key: Array | None = None,
) -> Tree:  # fmt: skip
  """``Omega = sum_n w_n |d ||f(x_n)||^2 / d theta| / sum_n w_n``, a tree like ``params``, at eval mode; uses no labels.

  Given in at least float32. ``f`` are the logits, of a prediction of several arrays all its numbers; those outside a
  row's ``class_mask`` do not count. ``batched=True``
  takes the absolute value of each batch's (weighted) mean gradient instead and averages batches by their weight, as
  FACIL's code does (Avalanche's, with batches of equal weight): it underestimates, and depends on ``batch_size`` and
  the order of the rows. ``samples``, ``key`` and rows of weight 0 as in :func:`fisher_diagonal`. Aljundi et al. 2018.
  Raises UsageError for a bad ``batch_size`` or ``samples``.
  """
  check_batch_size(batch_size)
  model = with_one_output(model)
  rows = thinned(rows, samples, key)

  def counted(logits, batch):
    return logits if batch.class_mask is None else jnp.where(batch.class_mask, logits, 0.0)

  def cotangents(logits, batch):
    there = (batch.weight > 0).reshape(-1, *(1,) * (logits.ndim - 1))
    cotangent = jnp.where(there, 2 * counted(logits, batch), 0.0)
    return batch.weight[None], cotangent[None]

  def per_sample(batch, i):
    del i
    return per_sample_sums(model, params, model_state, batch, cotangents, jnp.abs), batch.weight.sum()

  def by_batch(batch, i):
    del i

    def loss(p):
      task = batch.task if model.by_task else batch.task[0]
      logits = model.apply(p, model_state, batch.x, train=False, key=None, task=task)[0].logits
      size = jnp.square(counted(logits.astype(wide(logits.dtype)), batch))
      size = size.reshape(size.shape[0], -1).sum(-1)
      return jnp.sum(jnp.where(batch.weight > 0, size * batch.weight.astype(size.dtype), 0.0))

    return jax.tree.map(jnp.abs, jax.grad(loss)(params)), batch.weight.sum()

  like = (params, jax.ShapeDtypeStruct((), jnp.float32))
  size = batch_size if batched else rows_at_once(model, params, model_state, rows, batch_size)
  total, weight = sum_over_batches(rows, size, like, by_batch if batched else per_sample)
  return tree.scale(1.0 / jnp.where(weight > 0, weight, 1.0), total)


def with_one_output(model: Model) -> Model:
  """The model, whose logits are one array: of a tree of arrays all numbers of a row."""

  def one(logits):
    leaves = jax.tree.leaves(logits)
    return logits if len(leaves) < 2 else jnp.concatenate([a.reshape(a.shape[0], -1) for a in leaves], -1)

  def apply(*args, **given):
    out, new = model.apply(*args, **given)
    return out._replace(logits=one(out.logits)), new

  def capture(*args):
    assert model.capture is not None
    logits, calls = model.capture(*args)
    return one(logits), calls

  return model._replace(apply=apply, capture=None if model.capture is None else capture)
