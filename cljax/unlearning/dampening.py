"""Selective synaptic dampening, as a pure edit of parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import LossFn, Params, Rows, Scalar, Tree
from cljax.estimators.per_sample import sum_over_batches
from cljax.unlearning._common import share_of
from cljax.unlearning._strength import searched


def squared_gradients(loss_fn: LossFn, params: Params, rows: Rows, *, batch: int = 64) -> Tree:
  """``sum_n w_n (d loss_n / d theta)^2 / sum_n w_n``, a tree like ``params``: the empirical Fisher's diagonal.

  ``loss_fn(params, batch) -> [B]``; rows as in :func:`ssd`. It holds one gradient for each of ``batch`` rows at a time;
  ``cljax.estimators.fisher_diagonal`` does without, for a model that it can look into.
  """
  rows = as_rows("rows", rows)

  def one(params, row):
    return loss_fn(params, jax.tree.map(lambda a: a[None], row))[0]

  def squares(rows_, start):
    del start
    grads = jax.vmap(jax.grad(one), in_axes=(None, 0))(params, rows_)

    def summed(g):
      g = jnp.where((rows_.weight > 0).reshape(-1, *(1,) * (g.ndim - 1)), g.astype(wide(g.dtype)), 0.0)
      return jnp.tensordot(rows_.weight.astype(g.dtype), jnp.square(g), 1)

    return jax.tree.map(summed, grads), rows_.weight.sum()

  total, count = sum_over_batches(rows, batch, (params, jnp.zeros((), jnp.float32)), squares)
  return tree.scale(1.0 / jnp.maximum(count, 1e-30), total)


def ssd(
  loss_fn: LossFn, params: Params, *, forget: RowsLike, retain: RowsLike | None = None,
  full_importance: Tree | None = None, alpha: Scalar = 10.0, dampening: Scalar = 1.0, batch: int = 64,
  importance: Callable[[Params, Rows], Tree] | None = None, search: int = 0, classes: ArrayLike | None = None,
) -> Params:  # fmt: skip
  """Selective synaptic dampening: ``theta_i *= min(dampening I_D/I_f, 1)`` where ``I_f > alpha I_D``; no training.

  ``loss_fn(params, batch) -> [B]`` losses; ``forget`` and ``retain`` are ``(x, y)``, a dict of arrays, or Rows.
  ``full_importance``, a tree like ``params``, is I_D over all rows, where it was stored before; else it is taken over
  ``retain`` and ``forget`` together. Importance is the per-sample empirical Fisher (:func:`squared_gradients`), as the
  paper defines it, or ``importance(params, rows) -> tree`` of your own; the released code squares the gradient of a
  mini-batch mean, which couples ``alpha`` to the batch size. Where the forget rows are a share s of all rows,
  ``I_f <= I_D / s``, so an ``alpha`` of 1/s or more selects nothing. With ``search`` and the ``classes [K]`` bool that
  go whole (a run gives both, 0 is the paper's fixed threshold) ``alpha`` is where it is looked for: it is halved until
  the rows to forget are known no better than by who never saw them, then raised between the last two
  (:mod:`cljax.unlearning._strength`), ``search`` tries in all. Where no weight belongs to the class alone no
  threshold forgets it. Spec B1; Foster et al., AAAI 2024.
  """
  measure = importance or (lambda params, rows: squared_gradients(loss_fn, params, rows, batch=batch))
  forget = as_rows("forget", forget)
  of_forget = measure(params, forget)
  if full_importance is None:
    retain = as_rows("retain", retain)
    share = share_of(forget, retain)
    mix = lambda f, r: share.astype(f.dtype) * f + (1 - share).astype(f.dtype) * r.astype(f.dtype)
    full_importance = jax.tree.map(mix, of_forget, measure(params, retain))

  def edit(lowered):
    return dampen(params, of_forget, full_importance, alpha=alpha / lowered, dampening=dampening)

  if not search:
    return dampen(params, of_forget, full_importance, alpha=alpha, dampening=dampening)
  kept = forget if retain is None else as_rows("retain", retain)
  given = {"forget": forget, "retain": kept, "classes": classes, "search": search, "batch": batch}  # type: dict
  return searched(edit, loss_fn, params, jnp.float32(1.0), **given)


def dampen(
  params: Params, forget_importance: Tree, full_importance: Tree, *, alpha: Scalar, dampening: Scalar
) -> Params:
  """``theta_i <- min(dampening * I_D / I_f, 1) theta_i`` where ``I_f > alpha I_D``; all else is untouched, to the bit.

  params, forget_importance (I_f, over the rows to forget) and full_importance (I_D, over all rows) share one structure.
  Importances in at least float32; parameters keep their dtype. ``alpha`` selects (paper: 10), ``dampening`` is the
  paper's lambda (1). Foster et al., AAAI 2024 (SSD); spec B1.
  """
  tree.match(forget_importance, params, "forget_importance")
  tree.match(full_importance, params, "full_importance")

  def edit(p, f, d):
    kind = wide(p.dtype)
    f, d = f.astype(kind), d.astype(kind)
    chosen = f > jnp.asarray(alpha).astype(kind) * d
    factor = jnp.minimum(jnp.asarray(dampening).astype(kind) * d / jnp.where(f > 0, f, 1.0), 1.0)
    return jnp.where(chosen, (p.astype(kind) * factor).astype(p.dtype), p)

  return jax.tree.map(edit, params, forget_importance, full_importance)
