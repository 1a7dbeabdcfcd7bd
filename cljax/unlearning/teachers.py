"""Forgetting by distillation: towards a teacher that knows nothing, or away from the model as it was."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cljax.core import tree
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, Params, Scalar, UsageError
from cljax.estimators.per_sample import sum_over_batches
from cljax.objectives.objective import Objective
from cljax.unlearning._common import (
  among_the_others,
  cross_entropy,
  descent,
  divergence,
  drawn,
  if_asked,
  key_of,
  mean_loss,
  minimize,
  outputs_of,
  share_of,
)


def ignorant(key, teacher_params, init_fn):
  """The parameters of a teacher that was never trained: as given, or freshly initialised."""
  if (teacher_params is None) == (init_fn is None):
    given = "neither" if init_fn is None else "both"
    raise UsageError(f"teacher_params: got {given}; give teacher_params, or init_fn(key) -> params")
  return init_fn(tree.fold(key, "teacher")) if teacher_params is None else teacher_params


def either(first, a, b):
  """``a`` where ``first``, else ``b``, leaf by leaf."""
  return jax.tree.map(lambda u, v: jnp.where(first, u, v), a, b)


def bad_teacher(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  teacher_params: Params | None = None,
  init_fn: Callable[[Array], Params] | None = None,
  retain_fraction: Scalar = 0.3,
  temperature: Scalar = 1.0,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
  gone: ArrayLike | None = None,
) -> Params:
  """Descent on ``s KL(p_bad || p)_forget + (1 - s) KL(p_before || p)_retain``: a teacher without knowledge, and itself.

  ``apply_fn(params, batch)`` gives logits or Outputs. The bad teacher is ``teacher_params``, or ``init_fn(key)``. ``s =
  n_f / (n_f + retain_fraction n_r)``, as in the union of the forget rows with 30% of the rest, which the paper trains
  on for an epoch; here a step draws ``batch`` rows of either set, of all retain rows. KL is a mean over rows; the
  release also divides by the number of classes. Adam at 1e-3, where the release has 1e-4. ``learned``: an objective in
  the place of classification, whose divergence then stands for KL. The bad teacher says nothing of classes that are
  ``gone`` (``[C]`` bool), which it would bring back. Spec A7; Chundawat et al., AAAI 2023. Raises
  UsageError unless there is one teacher.
  """
  forget, retain, before = as_rows("forget", forget), as_rows("retain", retain), params
  key = key_of(key, "bad_teacher")
  bad = ignorant(key, teacher_params, init_fn)
  share = share_of(forget, retain, retain_fraction)

  def objective(key, params, step):
    del step
    towards = lambda teacher: lambda p, rows: divergence(apply_fn, p, teacher, rows, temperature, learned)
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    to_forget = among_the_others(to_forget, gone)
    forgetting, keeping = mean_loss(towards(bad), params, to_forget), mean_loss(towards(before), params, to_keep)
    return share * forgetting + (1 - share) * keeping

  return minimize(key, objective, params, steps=steps, optimizer=optimizer or optax.adam(1e-3), forget=forget)


def stochastic_teacher(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  teacher_params: Params | None = None,
  init_fn: Callable[[Array], Params] | None = None,
  temperature: Scalar = 1.0,
  erase_steps: int = 20,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
  gone: ArrayLike | None = None,
) -> Params:
  """Erase, then reconstruct: ``KL_T(p_random || p)`` on forget rows, then ``CE + KL_T(p_before || p)`` on retain rows.

  ``apply_fn(params, batch)`` gives logits or Outputs; the random teacher is ``teacher_params``, or ``init_fn(key)``.
  ``erase_steps`` steps of the first come before ``steps`` of the second, under one optimizer (Adam at 1e-3). The
  paper's own text was not available: a reconstruction, of which only the two phases were confirmed, in another's notes;
  steps, temperature and weights are UNVERIFIED. What the model knew of other classes can bring the forgotten ones back
  in the second phase. ``learned`` and ``gone`` as for :func:`bad_teacher`. Spec A8; arXiv 2308.14322.
  Raises UsageError unless there is one teacher.
  """
  forget, retain, before = as_rows("forget", forget), as_rows("retain", retain), params
  key = key_of(key, "stochastic_teacher")
  random = ignorant(key, teacher_params, init_fn)

  def objective(key, params, step):
    erasing = step < erase_steps
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    none = None if gone is None else jnp.zeros_like(gone)
    rows = either(erasing, among_the_others(to_forget, gone), among_the_others(to_keep, none))
    teacher = either(erasing, random, before)
    labels = rows._replace(weight=jnp.where(erasing, 0.0, rows.weight))
    towards = lambda p, rows: divergence(apply_fn, p, teacher, rows, temperature, learned)
    return mean_loss(towards, params, rows) + mean_loss(cross_entropy(apply_fn, learned), params, labels)

  return minimize(
    key, objective, params, steps=erase_steps + steps, optimizer=optimizer or optax.adam(1e-3), forget=forget
  )


def error_rate(apply_fn, params, rows, batch: int = 64):
  """The weighted share of rows whose largest logit, among the classes of the row's mask, is not that of y."""

  def wrong(rows, start):
    del start
    logits = outputs_of(apply_fn, params, rows).logits
    logits = logits if rows.class_mask is None else jnp.where(rows.class_mask, logits, -jnp.inf)
    return jnp.stack([jnp.sum(jnp.where(jnp.argmax(logits, -1) != rows.y, rows.weight, 0.0)), rows.weight.sum()])

  errors, count = sum_over_batches(rows, batch, jnp.zeros(2, jnp.float32), wrong)
  return errors / jnp.maximum(count, 1e-30)


def scrub(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  max_steps: int = 3,
  min_steps: int = 7,
  max_rounds: int = 5,
  ce_weight: Scalar = 1.0,
  kl_weight: Scalar = 0.5,
  temperature: Scalar = 2.0,
  rewind: bool = False,
  validation: RowsLike | None = None,
  steps: int = 100,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """SCRUB: ``max_steps`` of ascent on ``T^2 KL_T(p_before || p)`` of forget rows, then ``min_steps`` of descent on
  ``ce_weight CE + kl_weight T^2 KL_T(p_before || p)`` of retain rows; and again.

  ``apply_fn(params, batch)`` gives logits or Outputs. ``steps`` count both kinds; a round of ``max_steps + min_steps``
  stands for an epoch of the release, which has 10 of them and ascends in the first ``max_rounds`` (msteps) only: 5
  where the release has 3, whose epochs are longer; after 3 short rounds the rest brings a class back. At the
  parameters it starts from the ascent has gradient exactly 0, so that the first round's moves nothing. Adam at 5e-4;
  without the release's weight decay and its rate drops.

  ``rewind`` (SCRUB+R) gives the parameters, as they were at the end of a round or at the last step, whose error on all
  forget rows is closest to that of the last ones on ``validation``: rows of the forgotten classes that no training saw;
  of equals, the first. It holds one copy of the parameters per round; from memory of the paper, UNVERIFIED. ``learned``
  as for :func:`bad_teacher`, without ``rewind``. Raises UsageError for ``rewind`` without ``validation``. Spec A9;
  Kurmanji et al., NeurIPS 2023.
  """
  forget, retain, before = as_rows("forget", forget), as_rows("retain", retain), params
  if rewind and validation is None:
    raise UsageError("validation: got none; rewind needs rows of the forgotten classes that no training saw")
  if rewind and learned is not None:
    raise UsageError(f"rewind: got True, which compares error rates; {learned.name!r} has none")
  if max_steps + min_steps < 1:
    raise UsageError(f"max_steps: got {max_steps}, and {min_steps} min_steps; a round needs at least one step")
  length = max_steps + min_steps

  def objective(key, params, step):
    away = (step % length < max_steps) & (step // length < max_rounds)
    rows = either(away, *drawn(key, batch, forget=forget, retain=retain))
    labels = rows._replace(weight=jnp.where(away, 0.0, rows.weight))
    towards = lambda p, rows: divergence(apply_fn, p, before, rows, temperature, learned)
    distance = jnp.where(away, -1.0, kl_weight) * mean_loss(towards, params, rows)
    return distance + ce_weight * mean_loss(cross_entropy(apply_fn, learned), params, labels)

  key = key_of(key, "scrub")
  optimizer = optimizer or optax.adam(5e-4)
  if not rewind or not steps:
    return minimize(key, objective, params, steps=steps, optimizer=optimizer, forget=forget)
  init, body = descent(key, objective, optimizer)

  def one_round(carry, r):
    carry = jax.lax.fori_loop(r * length, jnp.minimum((r + 1) * length, steps), body, carry)
    return carry, carry[0]

  carry, kept = jax.lax.scan(one_round, init(params), jnp.arange(-(-steps // length)))
  wanted = error_rate(apply_fn, carry[0], as_rows("validation", validation), batch)
  errors = jax.lax.map(lambda p: error_rate(apply_fn, p, forget, batch), kept)
  best = jnp.argmin(jnp.abs(errors - wanted))
  return if_asked(forget, jax.tree.map(lambda a: a[best], kept), params)
