"""Forgetting by the difference of two linearised trainings: neural tangent kernels, all parameters or some leaves."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cljax import losses
from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, Batch, Params, Scalar, UsageError
from cljax.unlearning._common import cross_entropy, if_asked, key_of, outputs_of
from cljax.unlearning._strength import searched
from cljax.unlearning.gradient_steps import _check_variant

LOSSES = ("cross_entropy", "squared")


def ntk(
  apply_fn: ApplyFn,
  params: Params,
  *,
  initial: Params,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  scale: Scalar = 1.0,
  weight_decay: Scalar = 0.1,
  rows: int = 32,
  loss: str = "cross_entropy",
  variant: str = "paper",
  search: int = 0,
  classes: ArrayLike | None = None,
) -> Params:
  """NTK forgetting: ``theta + scale (w_r - w_D)``, ``w_S = -G_S (G_S^T G_S + n_S weight_decay I)^-1 e_S``.

  G_S is the Jacobian of the logits and e_S the loss's gradient by logits (``softmax - onehot``, or ``z - onehot`` for
  ``loss='squared'``), both at ``initial``, the parameters before training: at the trained ones, as in a published copy,
  e is almost 0 and so is the step. S is all rows D, or the retain rows. At most ``rows`` rows of each side are used,
  drawn with ``key`` without replacement; the kernel has ``2 rows C`` rows and the Jacobian is held whole. Exact for a
  linear model, squared loss and all rows used, trained to the ridge optimum from ``initial``. ``variant='released'``
  multiplies the step by ``1 + 2 |cos(w_r - w_D, E)| |E| / |w_r - w_D|``, ``E = theta - initial - w_r``.

  A few rows of a network that is not linear give the direction, not the length: with ``search`` and the ``classes [K]``
  bool that go whole (a run gives both, 0 is the paper's step), ``scale`` is where it is looked for, the least of so
  many tried by doubling and halving at which the rows to forget are known no better than by who never saw them
  (:mod:`cljax.unlearning._strength`). Spec A10; Golatkar et al., 2020.
  """
  options = {"scale": scale, "weight_decay": weight_decay, "rows": rows, "loss": loss, "variant": variant}  # type: dict
  options |= {"key": key, "search": search, "classes": classes}
  return fast_ntk(apply_fn, params, initial=initial, forget=forget, retain=retain, leaves="", **options)


def fast_ntk(
  apply_fn: ApplyFn,
  params: Params,
  *,
  initial: Params,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  leaves: str = "norm|bias",
  scale: Scalar = 1.0,
  weight_decay: Scalar = 0.1,
  rows: int = 32,
  loss: str = "cross_entropy",
  variant: str = "paper",
  search: int = 0,
  classes: ArrayLike | None = None,
) -> Params:
  """Fast NTK: :func:`ntk` over the leaves whose path the regular expression ``leaves`` matches; no other bit changes.

  ``initial``, like ``params``, is read at those leaves alone; the others stand at their present values, as if they had
  never been trained. **It is for a frozen backbone that never saw the rows**, tuned in these leaves; else what the
  backbone learned from them stays: of a network that was trained whole no length of a step in norms and biases takes a
  class out, so a run has no ``search`` by default, and with the head among the leaves the head alone forgets
  (``experiments/frozen_ntk.py``). Exact for a model linear in these leaves. The paper tunes norm scales and biases or
  prompts; its linearisation point, its weight decay and its numbers of rows are unverified. Spec B12; arXiv 2312.14923.
  Raises UsageError where no leaf matches.
  """
  _check_variant("ntk", variant)
  if loss not in LOSSES:
    raise UsageError(f"ntk: loss: got {loss!r}; allowed: {', '.join(LOSSES)}")
  first, now = chosen_leaves(initial, leaves), chosen_leaves(params, leaves)
  tree.match(first, now, "initial")
  key = key_of(key, "ntk")
  asked, held = as_rows("forget", forget), as_rows("retain", retain)
  sides = [picking.sample(tree.fold(key, name), r, rows) for name, r in (("forget", asked), ("retain", held))]
  batch: Batch = jax.tree.map(lambda f, r: jnp.concatenate([f, r]), *sides)

  def logits(at, some):
    return outputs_of(apply_fn, with_leaves(params, at), some).logits

  def jacobian(row):
    return jax.jacrev(lambda at: logits(at, jax.tree.map(lambda a: a[None], row))[0])(first)

  z, pull = jax.vjp(lambda at: logits(at, batch), first)
  each = jax.lax.map(jacobian, batch)
  out, z = z, z.astype(wide(z.dtype))
  each = [j.astype(z.dtype) for j in jax.tree.leaves(each)]
  kernel = sum(jnp.tensordot(j, j, [list(range(2, j.ndim))] * 2) for j in each)
  count, width = z.shape
  size = count * width
  p = z if loss == "squared" else jnp.exp(losses.masked_log_softmax(z, batch.class_mask))
  error = p - jax.nn.one_hot(batch.y, width, dtype=z.dtype)
  if batch.class_mask is not None:
    error = jnp.where(batch.class_mask, error, 0.0)

  def solved(there):
    n, mask = jnp.maximum(there.sum(), 1.0), jnp.repeat(there, width)
    decay = jnp.asarray(weight_decay).astype(z.dtype)
    matrix = mask[:, None] * jnp.reshape(kernel, (size, size)) * mask[None] + n * decay * jnp.eye(size, dtype=z.dtype)
    return jax.scipy.linalg.solve(matrix, mask * error.reshape(size), assume_a="pos").reshape(z.shape)

  there = (batch.weight > 0).astype(z.dtype)
  of_all, of_retain = solved(there), solved(jnp.where(jnp.arange(count) >= count // 2, there, 0.0))
  (step,) = pull((of_all - of_retain).astype(out.dtype))
  if variant == "released":
    (w_r,) = pull(-of_retain.astype(out.dtype))
    rest = jax.tree.map(lambda t, t0, w: t - t0 - w, now, first, w_r)
    square = tree.dot(step, step)
    scale = scale * (1.0 + 2.0 * jnp.abs(tree.dot(step, rest)) / jnp.where(square > 0, square, 1.0))
  moved = lambda size: with_leaves(params, tree.axpy(size, step, now))
  given = {"forget": asked, "retain": held, "classes": classes, "search": search}  # type: dict
  return if_asked(asked, searched(moved, cross_entropy(apply_fn), params, scale, **given), params)


def chosen_leaves(params, leaves: str) -> dict:
  """``{path: leaf}`` of the leaves whose path the regular expression matches; UsageError where none does."""
  named = tree.by_path(params)
  found = {name: leaf for name, leaf in named.items() if re.search(leaves, name)}
  if not found:
    raise UsageError(f"leaves: {leaves!r} matches no parameter; there are {', '.join(named)}")
  return found


def with_leaves(params, found: dict):
  """``params`` with the leaves of ``{path: leaf}`` in their places."""
  return tree.map_named(found.get, params)
