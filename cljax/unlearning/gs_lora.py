"""Forgetting by sparse low-rank updates."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core import tree
from cljax.core.rows import RowsLike, as_rows, few_of_each
from cljax.core.types import ApplyFn, Array, Params, Scalar, UsageError
from cljax.estimators.per_sample import sum_over_batches
from cljax.objectives.objective import Objective
from cljax.unlearning._common import cross_entropy, descent, drawn, if_asked, key_of, mean_loss, outputs_of

QUIET = 0.2  # the share of the steps before the group lasso acts
AVERAGED = 0.3  # the share of the steps before weights are averaged
SCHEDULES = ("constant", "cosine")


def factors_of(key, params, rank: int, layers: str = ""):
  """``{path: (A [in, rank], B [rank, out])}`` for every 2-D leaf whose path ``layers`` finds: A Kaiming-uniform of
  slope sqrt(50), B zero."""
  made = {}
  for path, leaf in zip(tree.paths(params), jax.tree.leaves(params), strict=True):
    if leaf.ndim == 2 and re.search(layers, path):
      limit = math.sqrt(6 / (51 * leaf.shape[0]))
      a = jax.random.uniform(tree.fold(key, path), (leaf.shape[0], rank), leaf.dtype, -limit, limit)
      made[path] = (a, jnp.zeros((rank, leaf.shape[1]), leaf.dtype))
  return made


def groups_of(factors, pattern: str) -> list:
  """The factors of each group: of the layers in whose paths ``pattern`` finds the same text, else of one layer."""
  found: dict[str, list] = {}
  for path, pair in factors.items():
    match = re.search(pattern, path) if pattern else None
    found.setdefault(f"block {match[0]}" if match else path, []).append(pair)
  return list(found.values())


def merged(params, factors):
  """``W + A B`` where there are factors, else the leaf as it is."""
  add = lambda path, leaf: leaf + factors[path][0] @ factors[path][1] if path in factors else leaf
  return tree.map_named(add, params)


def embedding(apply_fn, params, batch):
  features = outputs_of(apply_fn, params, batch).features
  if features is None:
    raise UsageError("apply_fn: gives no features, which prototypes need; return cljax.Outputs(logits, features)")
  return features.reshape(features.shape[0], -1)


def prototypes_of(apply_fn, params, rows, num_classes: int, batch: int):
  """``(sum [C, D], count [C])`` of the features of each class."""

  def sums(rows, start):
    del start
    member = jax.nn.one_hot(rows.y, num_classes, dtype=jnp.float32) * rows.weight[:, None]
    return member.T @ embedding(apply_fn, params, rows).astype(jnp.float32), member.sum(0)

  one = jax.eval_shape(lambda: embedding(apply_fn, params, rows.batch(0, 1)))
  return sum_over_batches(
    rows, batch, (jnp.zeros((num_classes, one.shape[1]), jnp.float32), jnp.zeros(num_classes, jnp.float32)), sums
  )


def gs_lora(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  rank: int = 8,
  forget_weight: Scalar = 0.15,
  bound: Scalar = 2.0,
  sparsity: Scalar = 0.01,
  layers: str = "",
  block_pattern: str = "",
  rate_schedule: str = "cosine",
  few_shot: int = 0,
  prototypes: bool = False,
  prototype_forget_weight: Scalar = 0.015,
  prototype_retain_weight: Scalar = 0.012,
  prototype_bound: Scalar = 2.0,
  ema_decay: Scalar = 0.9,
  steps: int = 100,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """GS-LoRA: ``CE_r + forget_weight max(0, bound ln K - CE_f) + sparsity sum_g sqrt(sum_{l in g} |A_l|^2 + |B_l|^2)``.

  ``apply_fn(params, batch)`` gives logits or Outputs. Every 2-D leaf W whose path the regular expression ``layers``
  finds (all) is a layer, ``W + A B`` of ``rank``; only the factors are trained, and added to W at the end. CE is the
  mean of a batch; once CE_f is beyond ``bound ln K``, K classes, it has no gradient (the release's bounds of 105 to 110
  fit a head of scale 64 alone). The group lasso acts after the first fifth of the steps, as in the release; layers in
  whose paths ``block_pattern`` finds the same text are one group, such as the two of a block (``'block_[0-9]+'``), any
  other layer is its own. AdamW at 1e-2 with weight decay 0.05 on the factors; with ``rate_schedule='cosine'`` step i
  of n is scaled by ``(1 + cos(pi i/n)) / 2``, with 'constant' by 1. ``few_shot`` above 0 leaves so many rows to keep of
  each class.

  With ``prototypes`` (GS-LoRA++) ``prototype_forget_weight max(0, prototype_bound ln D - Q_f) +
  prototype_retain_weight Q_r`` is added, Q the mean ``KL(softmax(prototype of y) || softmax(features [D]))``, a class's
  prototype its mean features at first (the release's bound is 18 or 50), and the factors that count are their running
  mean, ``m <- ema_decay m + (1 - ema_decay) now`` after each step from three tenths of the steps on. Spec B6; Zhao et
  al., CVPR 2024 and TPAMI 2026. Deviations: any 2-D leaf, where the release has the feed-forward layers of a vision
  transformer; the rate of ``m`` is a step's. Raises UsageError where there is no such leaf, and for another schedule.

  ``learned``: an :class:`~cljax.objectives.Objective` in the place of classes, whose ``each`` is the CE; ln K is then
  the loss of the forget rows under a prediction of 0, which knows nothing of a row (text: ln V). No prototypes then.
  """
  for name, asked in (("prototypes", prototypes), ("few_shot", few_shot)):
    if asked and learned is not None:
      raise UsageError(f"{name}: got {asked}, which needs classes; {learned.name!r} has none")
  if rate_schedule not in SCHEDULES:
    raise UsageError(f"rate_schedule: got {rate_schedule!r}; allowed: {', '.join(SCHEDULES)}")
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  key = key_of(key, "gs_lora")
  factors = factors_of(tree.fold(key, "factors"), params, rank, layers)
  if not factors:
    told = f" that {layers!r} finds" if layers else ""
    raise UsageError(f"params: has no 2-D leaf to adapt{told} among {', '.join(tree.paths(params))}")
  loss_fn = cross_entropy(apply_fn, learned)
  blind = cross_entropy(lambda p, rows: jax.tree.map(jnp.zeros_like, outputs_of(apply_fn, p, rows)), learned)
  num_classes, centres = 0, None
  if learned is None:
    num_classes = outputs_of(apply_fn, params, drawn(key, 1, retain=retain)[0]).logits.shape[-1]
  if few_shot:
    retain = few_of_each(tree.fold(key, "few"), retain, few_shot, num_classes)
  if prototypes:
    both = [prototypes_of(apply_fn, params, rows, num_classes, batch) for rows in (forget, retain)]
    total, count = tree.add(*both)
    centres = total / jnp.maximum(count, 1)[:, None]

  def objective(key, factors, step):
    params_, (to_forget, to_keep) = merged(params, factors), drawn(key, batch, forget=forget, retain=retain)
    guessed = math.log(num_classes) if learned is None else mean_loss(blind, params, to_forget)
    below = jax.nn.relu(bound * guessed - mean_loss(loss_fn, params_, to_forget))
    lasso = jnp.where(step.astype(jnp.float32) < QUIET * steps, 0.0, sparsity) * losses.group_lasso(
      groups_of(factors, block_pattern)
    )
    total = mean_loss(loss_fn, params_, to_keep) + forget_weight * below + lasso
    if centres is None:
      return total
    away = lambda p, rows: losses.kl_divergence(embedding(apply_fn, p, rows), centres[rows.y])
    near = jax.nn.relu(prototype_bound * math.log(centres.shape[1]) - mean_loss(away, params_, to_forget))
    return total + prototype_forget_weight * near + prototype_retain_weight * mean_loss(away, params_, to_keep)

  optimizer = optimizer or optax.adamw(1e-2, weight_decay=0.05)
  if rate_schedule == "cosine":
    share = lambda i: 0.5 * (1 + jnp.cos(jnp.pi * i.astype(jnp.float32) / jnp.maximum(steps, 1)))
    optimizer = optax.chain(optimizer, optax.scale_by_schedule(share))
  init, step = descent(tree.fold(key, "steps"), objective, optimizer)

  def averaged(i, carry):
    mean, own = carry
    own = step(i, own)
    # Until then the mean is what there is now.
    keep = jnp.where(i.astype(jnp.float32) <= AVERAGED * steps, 0.0, ema_decay)
    return jax.tree.map(lambda m, f: keep.astype(m.dtype) * m + (1 - keep).astype(m.dtype) * f, mean, own[0]), own

  if prototypes:
    found = jax.lax.fori_loop(0, steps, averaged, (factors, init(factors)))[0]
  else:
    found = jax.lax.fori_loop(0, steps, step, init(factors))[0]
  return if_asked(forget, merged(params, found), params)
