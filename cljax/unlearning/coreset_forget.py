"""Forgetting through a small part of the forget rows: which rows, by scores that are made before the edit."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.checks import check_choice, check_scalar
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, Params, Rows, Scalar, UsageError
from cljax.unlearning._common import key_of, outputs_of

SELECTORS = ("random", "gradient", "influence", "margin", "moderate")


def _read(apply_fn, params, rows: Rows, batch: int, selector: str):
  """``(last layer's inputs [N, D + 1], slopes by the logits [N, C], margins [N], labels, ids, weights)`` of rows."""
  blocks = -(-rows.capacity // batch)

  def block(i):
    some = rows.batch(i * batch, batch)
    out = outputs_of(apply_fn, params, some)
    logits = out.logits.astype(jnp.float32)
    if some.class_mask is not None:
      logits = jnp.where(some.class_mask, logits, -jnp.inf)
    label = jax.nn.one_hot(some.y, logits.shape[-1], dtype=bool)
    margin = jnp.where(label, logits, 0.0).sum(-1) - jnp.where(label, -jnp.inf, logits).max(-1)
    if out.features is None and selector not in ("random", "margin"):
      raise UsageError(
        f"apply_fn: selector {selector!r} needs the features of rows; return cljax.Outputs with features"
      )
    features = jnp.zeros((batch, 0)) if out.features is None else out.features.reshape(batch, -1)
    features = jnp.concatenate([features.astype(jnp.float32), jnp.ones((batch, 1), jnp.float32)], 1)
    slope = jax.nn.softmax(logits) - label.astype(logits.dtype)
    return features, slope, margin, some.y, some.id, (some.weight > 0).astype(jnp.float32)

  found = jax.lax.map(block, jnp.arange(blocks))
  return jax.tree.map(lambda a: a.reshape(blocks * batch, *a.shape[2:]), found)


def coreset_scores(
  apply_fn: ApplyFn, params: Params, forget: RowsLike, retain: RowsLike | None = None, *, selector: str = "influence",
  key: Array | None = None, damping: Scalar = 1e-3, batch: int = 64,
) -> Array:  # fmt: skip
  """``[N]``: how much each forget row is wanted, the largest first; -inf for rows of weight 0.

  With ``a`` the last layer's input and a 1, ``d = softmax(z) - e_y``, so that the row's gradient there is ``a d^T``:
    ``random``     a number from its id and ``key``;
    ``gradient``   ``|a| |d|`` (GraNd);
    ``influence``  ``sum_j grad_j^T (H + damping I)^-1 grad_i`` over the forget rows j: what training on row i did to
                   their loss. ``H = E[a a^T] (x) E[diag p - p p^T]`` over ``forget`` and ``retain``: the last layer's
                   Kronecker-factored curvature, its inverse exact in the factors' eigenvectors;
    ``margin``     minus ``z_y - max_other z``: the nearest to the border, or beyond it, first;
    ``moderate``   minus the distance of ``|a - mean of its class|`` from the median over the class.
  Made of the parameters before the edit, the forget rows and, for ``influence``, the retain rows: never of what is
  evaluated. Rows in another order have their scores in that order. Standard forms, reconstruction; spec S12.2. Raises
  UsageError: an unknown selector, no features where they are read, ``influence`` without ``retain``.
  """
  check_choice("coreset_scores", "selector", selector, SELECTORS)
  rows = forget if isinstance(forget, Rows) else as_rows("forget", forget)
  a, d, margin, y, ids, here = _read(apply_fn, params, rows, batch, selector)
  if selector == "random":
    noise = key_of(key, "coreset")
    score = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(noise, i)))(ids)
  elif selector == "gradient":
    score = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(d, axis=1)
  elif selector == "margin":
    score = -margin
  elif selector == "moderate":
    score = _moderate(a[:, :-1], y, here, d.shape[1])
  else:
    if retain is None:
      raise UsageError("retain: selector 'influence' needs the rows to keep, for the curvature; got None")
    kept = _read(apply_fn, params, as_rows("retain", retain), batch, selector)
    score = _influence(a, d, y, here, kept, damping)
  return jnp.where(here > 0, score, -jnp.inf)


def _moderate(features, y, here, classes: int):
  of_class = jax.nn.one_hot(y, classes, dtype=jnp.float32) * here[:, None]  # [N, C]
  centre = (of_class.T @ features) / jnp.maximum(of_class.sum(0), 1)[:, None]
  away = jnp.linalg.norm(features - centre[y], axis=1)
  middle = jax.vmap(lambda own: jnp.nanmedian(jnp.where(own > 0, away, jnp.nan)))(of_class.T)
  return -jnp.abs(away - middle[y])


def _influence(a, d, y, here, kept, damping):
  def curvature(a, d, y, here):
    p = d + jax.nn.one_hot(y, d.shape[1], dtype=d.dtype)
    inputs = jnp.einsum("ni,n,nj->ij", a, here, a, precision="highest")
    return inputs, jnp.diag(here @ p) - jnp.einsum("ni,n,nj->ij", p, here, p, precision="highest"), here.sum()

  own, others = curvature(a, d, y, here), curvature(kept[0], kept[1], kept[3], kept[5])
  inputs, outputs, count = (u + v for u, v in zip(own, others, strict=True))
  count = jnp.maximum(count, 1)
  values_in, basis_in = jnp.linalg.eigh(inputs / count)
  values_out, basis_out = jnp.linalg.eigh(outputs / count)
  summed = jnp.einsum("ni,n,nc->ic", a, here, d, precision="highest")
  scale = jnp.maximum(values_in, 0)[:, None] * jnp.maximum(values_out, 0)[None] + damping
  solved = basis_in @ ((basis_in.T @ summed @ basis_out) / scale) @ basis_out.T
  return ((a @ solved) * d).sum(1)


def coreset_rows(
  apply_fn: ApplyFn, params: Params, forget: RowsLike, retain: RowsLike | None = None, *, share: Scalar = 0.1,
  selector: str = "influence", key: Array | None = None, damping: Scalar = 1e-3, batch: int = 64,
) -> Rows:  # fmt: skip
  """The forget rows with weight 0 for all but the share ``share``, rounded up, of the highest :func:`coreset_scores`.

  Rows of one score go by their place. ``share`` may be traced; 1 leaves all as they are. What is left out was asked to
  be forgotten too: evaluate on all of it. Raises UsageError for a share outside (0, 1].
  """
  check_scalar("coreset_rows", "share", share, high=1.0, above=True)
  rows = forget if isinstance(forget, Rows) else as_rows("forget", forget)
  given = {"selector": selector, "key": key, "damping": damping, "batch": batch}  # type: dict
  scores = coreset_scores(apply_fn, params, rows, retain, **given)
  there = scores > -jnp.inf
  wanted = jnp.ceil(share * there.sum().astype(jnp.float32) - 1e-4).astype(jnp.int32)
  order = jnp.argsort(-scores, stable=True)
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype))
  kept = (there & (rank < jnp.maximum(wanted, 1))).astype(jnp.float32)

  def read(start, size):
    some = rows.batch(start, size)
    at = jnp.minimum(start + jnp.arange(size), kept.shape[0] - 1)
    return some._replace(weight=some.weight * kept[at])

  return Rows(rows.capacity, rows.count, read)
