"""Forgetting by sparse low-rank updates."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core import tree
from cljax.core.rows import as_rows
from cljax.core.types import UsageError
from cljax.estimators.per_sample import sum_over_batches
from cljax.unlearning._common import cross_entropy, drawn, if_asked, key_of, mean_loss, minimize, outputs_of

QUIET = 0.2  # the share of the steps before the group lasso acts


def factors_of(key, params, rank: int):
  """``{path: (A [in, rank], B [rank, out])}`` for every 2-D leaf: A Kaiming-uniform of slope sqrt(50), B zero."""
  made = {}
  for path, leaf in zip(tree.paths(params), jax.tree.leaves(params), strict=True):
    if leaf.ndim == 2:
      limit = math.sqrt(6 / (51 * leaf.shape[0]))
      a = jax.random.uniform(tree.fold(key, path), (leaf.shape[0], rank), leaf.dtype, -limit, limit)
      made[path] = (a, jnp.zeros((rank, leaf.shape[1]), leaf.dtype))
  return made


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
  apply_fn,
  params,
  *,
  forget,
  retain,
  key=None,
  rank: int = 8,
  forget_weight=0.15,
  bound=2.0,
  sparsity=0.01,
  prototypes: bool = False,
  prototype_forget_weight=0.0,
  prototype_retain_weight=0.0,
  prototype_bound=2.0,
  steps: int = 100,
  batch: int = 64,
  optimizer=None,
  learned=None,
):
  """GS-LoRA: ``CE_r + forget_weight max(0, bound ln K - CE_f) + sparsity sum_layers sqrt(|A|^2 + |B|^2)``.

  ``apply_fn(params, batch)`` gives logits or Outputs. Every 2-D leaf W is a layer, ``W + A B`` of ``rank``; only the
  factors are trained, and added to W at the end. CE is the mean of a batch; once CE_f is beyond ``bound ln K``, K
  classes, it has no gradient (the release's bounds of 105 to 110 fit a head of scale 64 alone). The group lasso acts
  after the first fifth of the steps, as in the release; a group there is the two layers of a block. AdamW at 1e-2 with
  weight decay 0.05 on the factors; no cosine schedule.

  With ``prototypes`` (GS-LoRA++) ``prototype_forget_weight max(0, prototype_bound ln D - Q_f) +
  prototype_retain_weight Q_r`` is added, Q the mean ``KL(softmax(prototype of y) || softmax(features [D]))``, a class's
  prototype its mean features at first; the release's weights are near 0.015, its bound is 18 or 50, and its weight
  averaging is left out. Spec B6; Zhao et al., CVPR 2024 and TPAMI 2026. Raises UsageError where there is no 2-D leaf.

  ``learned``: an :class:`~cljax.objectives.Objective` in the place of classes, whose ``each`` is the CE; ln K is then
  the loss of the forget rows under a prediction of 0, which knows nothing of a row (text: ln V). No prototypes then.
  """
  if prototypes and learned is not None:
    raise UsageError(f"prototypes: got True, which needs classes; {learned.name!r} has none")
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  key = key_of(key, "gs_lora")
  factors = factors_of(tree.fold(key, "factors"), params, rank)
  if not factors:
    raise UsageError(f"params: has no 2-D leaf to adapt among {', '.join(tree.paths(params))}")
  loss_fn = cross_entropy(apply_fn, learned)
  blind = cross_entropy(lambda p, rows: jax.tree.map(jnp.zeros_like, outputs_of(apply_fn, p, rows)), learned)
  num_classes, centres = 0, None
  if learned is None:
    num_classes = outputs_of(apply_fn, params, drawn(key, 1, retain=retain)[0]).logits.shape[-1]
  if prototypes:
    both = [prototypes_of(apply_fn, params, rows, num_classes, batch) for rows in (forget, retain)]
    total, count = tree.add(*both)
    centres = total / jnp.maximum(count, 1)[:, None]

  def objective(key, factors, step):
    params_, (to_forget, to_keep) = merged(params, factors), drawn(key, batch, forget=forget, retain=retain)
    guessed = math.log(num_classes) if learned is None else mean_loss(blind, params, to_forget)
    below = jax.nn.relu(bound * guessed - mean_loss(loss_fn, params_, to_forget))
    lasso = jnp.where(step.astype(jnp.float32) < QUIET * steps, 0.0, sparsity) * losses.group_lasso(
      list(factors.values())
    )
    total = mean_loss(loss_fn, params_, to_keep) + forget_weight * below + lasso
    if centres is None:
      return total
    away = lambda p, rows: losses.kl_divergence(embedding(apply_fn, p, rows), centres[rows.y])
    near = jax.nn.relu(prototype_bound * math.log(centres.shape[1]) - mean_loss(away, params_, to_forget))
    return total + prototype_forget_weight * near + prototype_retain_weight * mean_loss(away, params_, to_keep)

  optimizer = optimizer or optax.adamw(1e-2, weight_decay=0.05)
  found = minimize(tree.fold(key, "steps"), objective, factors, steps=steps, optimizer=optimizer)
  return if_asked(forget, merged(params, found), params)
