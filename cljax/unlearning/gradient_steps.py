"""Forgetting by one step along gradients that are taken once: influence approximation, and one layer alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, LossFn, Params, Scalar, UsageError
from cljax.unlearning._common import cross_entropy, if_asked, key_of
from cljax.unlearning._gradients import accuracy, mean_gradient, total_gradient
from cljax.unlearning._strength import least, searched, share_whole

VARIANTS = ("paper", "released")
STEPS = ("means", *VARIANTS)


def iau(
  loss_fn: LossFn, params: Params, *, forget: RowsLike, retain: RowsLike, key: Array | None = None,
  learning_rate: Scalar = 1e-3, variant: str = "paper", search: int = 0, classes: ArrayLike | None = None,
  batch: int = 64,
) -> Params:  # fmt: skip
  """Influence approximation: ``theta + rate [sum_f grad - sum_r grad]`` in one step; no Hessian.

  ``loss_fn(params, batch) -> [B]``; rows as everywhere here. The sum over the retain rows is the gradient correction.
  ``variant='released'`` is the published code's step, the first of a fresh Adam on ``mean_r grad - mean_f grad``: so
  ``rate * sign``, whatever the number of rows. ``variant='means'`` has a rate per row, ``rate [mean_f grad - mean_r
  grad]``: a sum grows with the data, and destroys a model at a rate that does nothing to a smaller one. With ``search``
  and the ``classes [K]`` bool that go whole, ``learning_rate`` is where the rate is looked for: the least, of so many
  tried by doubling and halving, at which the rows to forget are known no better than by who never saw them
  (:mod:`cljax.unlearning._strength`: at a mean ``p(y)`` of 1/K, or 0.9 of the retain rows' where a class stays). A
  request without rows changes nothing. The rate is the released one; which rate the paper's sums need is unverified. A
  run has 'means' and searches 16 times from 0.01; ``variant='paper', learning_rate=1e-3, search=0`` is the paper's
  step. Its other half, training under a penalty on the gradient's norm, is the method's. Spec B2; arXiv 2507.23257.
  Raises UsageError for another variant.
  """
  del key
  _check_variant("iau", variant, STEPS)
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  (of_forget, count), (of_retain, kept) = (total_gradient(loss_fn, params, r, batch) for r in (forget, retain))
  if variant == "paper":
    step = tree.axpy(-1.0, of_retain, of_forget)
  else:
    step = tree.axpy(-1.0, tree.scale(1.0 / _some(kept), of_retain), tree.scale(1.0 / _some(count), of_forget))
  if variant == "released":  # Adam's first step; that of optax is refused by strict promotion
    step = jax.tree.map(lambda g: g / (jnp.abs(g) + 1e-8), step)

  def moved(rate):
    return jax.tree.map(lambda p, s: jnp.where(count > 0, p + s.astype(p.dtype), p), params, tree.scale(rate, step))

  given = {"forget": forget, "retain": retain, "classes": classes, "search": search, "batch": batch}  # type: dict
  return searched(moved, loss_fn, params, learning_rate, **given)


def slug(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  validation: RowsLike | None = None,
  first_step: Scalar = 0.1,
  search: int = 10,
  classes: ArrayLike | None = None,
  batch: int = 64,
  rows: int = 256,
) -> Params:
  """Single layer, single gradient: ``theta_l + r g_f`` for one tensor l, g_f of the mean CE on the forget rows.

  Layers are tensors of two axes or more (no biases). Those on the Pareto front of importance ``|g_f| / |theta|`` (high)
  and ``|cos(g_f, g_r)|`` (low) are tried: r starts at ``first_step |theta_l| / |g_f|`` and is doubled, then bisected,
  ``search`` times, always from the first parameters, towards the least r at which no row of ``validation`` (default:
  the forget rows) is right. Of the layers that get there (of all, at the largest r tried, where none does) the one with
  the best retain accuracy is changed; no other bit is. Accuracies are over ``rows`` rows, drawn at random. The
  criterion is top-1 (release, CLIP: top-5); the release keeps the last r tried where this keeps the least that forgot.
  Given the ``classes [K]`` bool that go whole, as a run does, rows of a class that stays need not all be wrong, which
  destroys the class: the share right is to be at most ``(1 - s)`` times that of the retain rows before, s the share of
  the forget rows whose class goes whole. Spec B3; arXiv 2407.11867. Raises UsageError where no parameter has two axes.
  """
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  key = key_of(key, "slug")
  judged = forget if validation is None else as_rows("validation", validation)
  leaves, structure = jax.tree.flatten(params)
  layers = [i for i, p in enumerate(leaves) if jnp.ndim(p) >= 2]
  if not layers:
    raise UsageError("params: slug changes one tensor of two axes or more; there is none")
  loss_fn = cross_entropy(apply_fn)
  of_forget, of_retain = (jax.tree.leaves(mean_gradient(loss_fn, params, r, batch)) for r in (forget, retain))
  sizes = jnp.stack([tree.norm(leaves[i].astype(wide(leaves[i].dtype))) for i in layers])
  steepness = jnp.stack([tree.norm(of_forget[i]) for i in layers])
  shared = jnp.stack([tree.dot(of_forget[i], of_retain[i]) / _some(tree.norm(of_retain[i])) for i in layers])
  front = pareto_front(steepness / _some(sizes), jnp.abs(shared) / _some(steepness))
  to_forget = picking.sample(tree.fold(key, "judged"), judged, rows)
  to_keep = picking.sample(tree.fold(key, "retain"), retain, rows)

  def moved(layer, r):
    new = list(leaves)
    for j, i in enumerate(layers):
      new[i] = jnp.where(
        (layer == j) & (r > 0),
        leaves[i] + (r.astype(of_forget[i].dtype) * of_forget[i]).astype(leaves[i].dtype),
        leaves[i],
      )
    return jax.tree.unflatten(structure, new)

  allowed = 0.0
  if classes is not None:
    allowed = (1 - share_whole(forget, classes, batch)) * accuracy(apply_fn, params, to_keep)

  def tried(layer):
    start = jnp.where(steepness[layer] > 0, first_step * sizes[layer] / _some(steepness[layer]), 0.0)

    r, found = least(lambda r: accuracy(apply_fn, moved(layer, r), to_forget) <= allowed, start, search)
    return r, found.astype(jnp.float32) + accuracy(apply_fn, moved(layer, r), to_keep)

  step, score = jax.lax.map(tried, jnp.arange(len(layers)))
  best = jnp.argmax(jnp.where(front, score, -1.0))
  return if_asked(forget, moved(best, step[best]), params)


def pareto_front(importance: Array, alignment: Array) -> Array:
  """``[L]`` bool: no other layer has strictly higher importance and strictly lower alignment; never empty."""
  beats = (importance[None] > importance[:, None]) & (alignment[None] < alignment[:, None])
  return ~beats.any(1)


def _some(value):
  return jnp.where(value > 0, value, 1.0)


def _check_variant(owner: str, variant: str, allowed=VARIANTS) -> None:
  if variant not in allowed:
    raise UsageError(f"{owner}: variant: got {variant!r}; allowed: {', '.join(allowed)}")
