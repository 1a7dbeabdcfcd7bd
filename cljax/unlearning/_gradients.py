"""Gradients, accuracy and exact Fisher information over a whole set of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.types import Rows
from cljax.estimators.per_sample import sum_over_batches
from cljax.unlearning._common import outputs_of


def total_gradient(loss_fn, params, rows: Rows, batch: int = 64):
  """``(sum_n w_n d loss_n / d theta, sum_n w_n)`` over all rows, ``batch`` at a time, in at least float32; 0 for an
  empty set."""

  def part(some, start):
    del start

    def total(p):
      each = loss_fn(p, some)
      each = each.astype(wide(each.dtype))
      return jnp.sum(jnp.where(some.weight > 0, some.weight.astype(each.dtype) * each, 0.0))

    return jax.grad(total)(params), some.weight.sum()

  return sum_over_batches(rows, batch, (params, jnp.zeros((), jnp.float32)), part)


def mean_gradient(loss_fn, params, rows: Rows, batch: int = 64):
  """``sum_n w_n d loss_n / d theta / sum_n w_n`` over all rows; 0 for an empty set."""
  total, count = total_gradient(loss_fn, params, rows, batch)
  return tree.scale(1.0 / jnp.where(count > 0, count, 1.0), total)


def accuracy(apply_fn, params, batch):
  """The weighted share of rows whose greatest logit, among the classes that take part, is their label's."""
  logits = outputs_of(apply_fn, params, batch).logits
  if batch.class_mask is not None:
    logits = jnp.where(batch.class_mask, logits, -jnp.inf)
  hit = (jnp.argmax(logits, -1) == batch.y).astype(jnp.float32)
  return losses.reduce(hit, batch.weight)


def exact_fisher(apply_fn, params, rows: Rows):
  """``mean_n sum_c p(c | x_n) (d log p(c | x_n) / d theta)^2``, a tree like ``params``; a pass of C backward a row."""

  def one(row, start):
    del start
    log_p, pull = jax.vjp(
      lambda p: losses.masked_log_softmax(outputs_of(apply_fn, p, row).logits, row.class_mask)[0], params
    )
    grads = jax.vmap(lambda e: pull(e)[0])(jnp.eye(log_p.shape[0], dtype=log_p.dtype))
    share = row.weight[0].astype(log_p.dtype) * jnp.exp(log_p)
    squares = lambda g: jnp.tensordot(share.astype(wide(g.dtype)), jnp.square(g.astype(wide(g.dtype))), 1)
    return jax.tree.map(squares, grads), row.weight[0]

  total, count = sum_over_batches(rows, 1, (params, jnp.zeros((), jnp.float32)), one)
  return tree.scale(1.0 / jnp.where(count > 0, count, 1.0), total)
