"""Forgetting by noise that is large where the retain rows do not constrain the parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cljax.core.dtypes import wide
from cljax.core.rows import RowsLike, as_rows
from cljax.core.tree import fold, map_named, match
from cljax.core.types import ApplyFn, Array, Params, Rows, Scalar, Tree
from cljax.unlearning._common import key_of, outputs_of
from cljax.unlearning._gradients import exact_fisher
from cljax.unlearning.gradient_steps import _check_variant


def fisher_forgetting(
  apply_fn: ApplyFn, params: Params, *, retain: RowsLike, key: Array | None = None, alpha: Scalar = 1e-6,
  classes: ArrayLike | None = None, variant: str = "paper", importance: Callable[[Params, Rows], Tree] | None = None,
) -> Params:  # fmt: skip
  """Fisher forgetting: ``theta + sqrt(v) eps``, ``v = alpha min(1 / (F + 1e-8), 1e3)``, eps standard normal.

  F is the exact diagonal Fisher over the retain rows (:func:`exact_fisher`, row by row), or ``importance(params, rows)
  -> tree`` of your own. The rows to forget take no part. Noise differs by ``key``: average over several.
  ``variant='released'`` adds the code's heuristics, which its results rest upon: v averaged over each unit's inputs,
  10-fold for tensors of one axis and for those whose last axis has a class each (capped at 1e2), and there, for
  ``classes [C]`` bool forgotten whole, a column of mean 0 and variance 1e-3. It finds the head by its shape, as the
  code does, so an unrelated layer as wide is taken for it. alpha = 0 is the identity, but for such columns. Spec A10;
  Golatkar et al., 2020, as in the SSD repository (the first paper has ``F^(-1/4)``).
  """
  _check_variant("fisher_forgetting", variant)
  retain, key = as_rows("retain", retain), key_of(key, "fisher_forgetting")
  fisher = (importance or (lambda p, rows: exact_fisher(apply_fn, p, rows)))(params, retain)
  match(fisher, params, "importance")
  width, gone = 0, jnp.zeros(0, bool)
  if variant == "released":
    width = jax.eval_shape(lambda p: outputs_of(apply_fn, p, retain.batch(0, 1)).logits, params).shape[-1]
    gone = jnp.zeros(width, bool) if classes is None else jnp.asarray(classes)

  ends = lambda v, p: jnp.broadcast_to(v, p.shape)  # along the last axis

  def one(path, p, f):
    kind = wide(p.dtype)
    mean, variance = p.astype(kind), jnp.minimum(1.0 / (f.astype(kind) + 1e-8), 1e3)
    if variant == "released":
      head = p.shape[-1:] == (width,)
      variance = jnp.asarray(alpha).astype(kind) * (jnp.minimum(variance, 1e2) if head else variance)
      if p.ndim > 1:
        variance = jnp.broadcast_to(variance.mean(-2, keepdims=True), p.shape)
      if head:
        mean, variance = jnp.where(ends(gone, p), 0.0, mean), jnp.where(ends(gone, p), 1e-4, variance)
      variance = variance * (10.0 if head or p.ndim == 1 else 1.0)
    else:
      variance = jnp.asarray(alpha).astype(kind) * variance
    noise = jax.random.normal(fold(key, path), p.shape, kind)
    return (mean + jnp.sqrt(variance) * noise).astype(p.dtype)

  return map_named(one, params, fisher)
