"""Forgetting by losses of likelihoods: of rows, or of tokens, beside what holds the rows to keep."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core.checks import check_choice, check_scalar
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, Params, Scalar, UsageError
from cljax.objectives.objective import Objective, of_rows
from cljax.unlearning._common import drawn, key_of, mean_loss, minimize, outputs_of


def labels_of(batch, learned: Objective | None = None):
  """``(y, weight)``, ``[B]`` or ``[B, L]``: the labels of a batch's predictions, and what each weighs in its row.

  Without ``learned`` they are ``batch.y``, of which those below 0 are ignored; else what the objective calls labels.
  """
  if learned is None:
    return batch.y, (batch.y >= 0).astype(jnp.float32)
  if learned.labels is None:
    raise UsageError(f"learned: {learned.name!r} has no labels; expected an objective of classes or of tokens")
  return learned.labels(batch)


def row_nll(apply_fn, params, batch, learned=None):
  """``(NLL [B], n [B])``: the sum over each row's labels, and their weight."""
  y, weight = labels_of(batch, learned)
  mask = batch.class_mask if y.ndim == 1 else None
  return losses.sequence_nll(outputs_of(apply_fn, params, batch).logits, y, weight, mask)


def keeping(owner: str, retain_loss: str, apply_fn, before, learned=None):
  """``(params, batch) -> [B]`` that holds rows: the mean over a row's labels of their loss ('ce'), or of the ``KL``
  from what ``before`` predicts ('kl'), whose gradient there is 0 to the bit."""
  check_choice(owner, "retain_loss", retain_loss, ("ce", "kl"))

  def of_labels(params, batch):
    nll, count = row_nll(apply_fn, params, batch, learned)
    return nll / jnp.where(count > 0, count, 1.0)

  def towards(params, batch):
    y, weight = labels_of(batch, learned)
    own, teacher = (outputs_of(apply_fn, p, batch).logits for p in (params, before))
    return of_rows(losses.kl_divergence(own, teacher, 1.0, batch.class_mask if y.ndim == 1 else None), _parts(weight))

  return of_labels if retain_loss == "ce" else towards


def _parts(weight):
  return None if weight.ndim == 1 else weight


def _descent(
  name, apply_fn, params, forgetting, *, key, forget, retain, forget_weight, retain_weight, retain_loss, steps, batch,
  optimizer, learned,
):  # fmt: skip
  """Descent on ``forget_weight F + retain_weight R``: ``forgetting(params, batch) -> (each, weight)``, whose weighted
  mean is F."""
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  held = keeping(name, retain_loss, apply_fn, params, learned)

  def objective(key, params, step):
    del step
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    going = losses.reduce(*forgetting(params, to_forget))
    return forget_weight * going + retain_weight * mean_loss(held, params, to_keep)

  return minimize(
    key_of(key, name), objective, params, steps=steps, optimizer=optimizer or optax.adam(1e-3), forget=forget
  )


def _of_rows(loss, apply_fn, learned, params, batch):
  """A loss of ``(NLL, n, batch)`` of rows; a row without a label is none."""
  nll, count = row_nll(apply_fn, params, batch, learned)
  return loss(nll, count, batch), jnp.where(count > 0, batch.weight.astype(count.dtype), 0.0)


def npo(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  beta: Scalar = 0.1,
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  retain_loss: str = "ce",
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """NPO: descent on ``forget_weight mean -(2 / beta) log sigmoid(beta (NLL - NLL_before)) + retain_weight R``.

  ``apply_fn(params, batch)`` gives logits ``[B, C]`` or, of tokens, ``[B, L, V]``, or Outputs; ``forget`` and
  ``retain`` are ``(x, y)``, a dict of arrays, or Rows; labels below 0 are ignored. NLL is a row's sum over its labels
  (:func:`cljax.losses.npo`). At the parameters before, its gradient is that of ascent on NLL; a row that has lost more
  than ``1 / beta`` nats has almost none, so that a descent ends where an ascent would not. beta goes with the length:
  ``beta NLL`` decides, and 0.1, the paper's, is next to ascent on answers of a few tokens. R is the mean over rows to
  keep of the mean over their labels: of the loss, or with ``retain_loss='kl'`` of ``KL(p_before || p)``. The paper's
  NPO without R: ``retain_weight=0``. ``learned``: an objective with ``labels`` in the place of classification. Adam at
  1e-3, where the release has AdamW at 1e-5 over 10 epochs. Zhang et al. 2024; spec unlearning A11,
  language_unlearning W4. Raises UsageError for another ``retain_loss``, a beta that is not above 0, or an objective
  without labels.
  """
  check_scalar("npo", "beta", beta, 0.0, above=True)
  before = params

  def preferred(nll, count, rows):
    del count
    return losses.npo(nll, jax.lax.stop_gradient(row_nll(apply_fn, before, rows, learned)[0]), beta)

  forgetting = functools.partial(_of_rows, preferred, apply_fn, learned)
  return _descent("npo", apply_fn, params, forgetting, key=key, forget=forget, retain=retain,
                  forget_weight=forget_weight, retain_weight=retain_weight, retain_loss=retain_loss, steps=steps,
                  batch=batch, optimizer=optimizer, learned=learned)  # fmt: skip


def simnpo(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  beta: Scalar = 4.5,
  delta: Scalar = 0.0,
  forget_weight: Scalar = 0.125,
  retain_weight: Scalar = 1.0,
  retain_loss: str = "ce",
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """SimNPO: descent on ``forget_weight mean -(2 / beta) log sigmoid(beta (NLL / n - delta)) + retain_weight R``.

  As :func:`npo`, without a reference and by the mean over a row's n labels (:func:`cljax.losses.simnpo`): what is
  already unlikely is left alone. At the defaults, the release's, a row comes to rest near 1 nat a label, and begins 10
  times slower than by ascent. The paper's margin is ``beta delta``. Fan et al. 2024; spec language_unlearning W6.
  Raises UsageError as :func:`npo` does.
  """
  check_scalar("simnpo", "beta", beta, 0.0, above=True)

  def unlikely(nll, count, rows):
    del rows
    return losses.simnpo(nll, count, beta, delta)

  forgetting = functools.partial(_of_rows, unlikely, apply_fn, learned)
  return _descent("simnpo", apply_fn, params, forgetting, key=key, forget=forget, retain=retain,
                  forget_weight=forget_weight, retain_weight=retain_weight, retain_loss=retain_loss, steps=steps,
                  batch=batch, optimizer=optimizer, learned=learned)  # fmt: skip


def _of_tokens(loss, apply_fn, learned, params, batch):
  """A loss of ``(logits, y, class_mask, batch)`` of each label, averaged over all labels of all rows."""
  y, weight = labels_of(batch, learned)
  logits = outputs_of(apply_fn, params, batch).logits
  inside = jnp.where(y >= 0, weight.astype(jnp.float32), 0.0)
  rows = batch.weight.astype(jnp.float32).reshape(-1, *(1,) * (y.ndim - 1))
  return loss(logits, y, batch.class_mask if y.ndim == 1 else None, batch), inside * rows


def wga(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  beta: Scalar = 1.0,
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  retain_loss: str = "ce",
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """WGA: descent on ``forget_weight mean p^beta log p + retain_weight R``, the weight ``p^beta`` without gradient.

  As :func:`npo`, but a mean over the labels of all rows drawn (:func:`cljax.losses.wga`), each by its own probability
  p: ascent that leaves alone what is unlikely already. beta 0: ascent. The release copies a reference that it never
  uses. Wang et al. 2025; spec language_unlearning W10. Raises UsageError as :func:`npo` does, for a beta below 0.
  """
  check_scalar("wga", "beta", beta, 0.0)

  def likely(logits, y, mask, rows):
    del rows
    return losses.wga(logits, y, beta, mask)

  forgetting = functools.partial(_of_tokens, likely, apply_fn, learned)
  return _descent("wga", apply_fn, params, forgetting, key=key, forget=forget, retain=retain,
                  forget_weight=forget_weight, retain_weight=retain_weight, retain_loss=retain_loss, steps=steps,
                  batch=batch, optimizer=optimizer, learned=learned)  # fmt: skip


def satimp(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  saturation: Scalar = 5.0,
  importance: Scalar = 1.0,
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 0.1,
  retain_loss: str = "ce",
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """SatImp: descent on ``forget_weight mean w log p + retain_weight R``, ``w = p^saturation (1 - p)^importance``.

  As :func:`wga`, with a weight that is 0 at p = 1 too (:func:`cljax.losses.satimp`): on what is known by heart it
  begins almost still, and its slopes are 15 times smaller than ascent's at best. Weights 1 and 0.1 are the README's,
  the other way round in the release's configuration. Yang et al. 2025; spec language_unlearning W10. Raises UsageError
  as :func:`npo` does, for a power below 0.
  """
  check_scalar("satimp", "saturation", saturation, 0.0)
  check_scalar("satimp", "importance", importance, 0.0)

  def between(logits, y, mask, rows):
    del rows
    return losses.satimp(logits, y, saturation, importance, mask)

  forgetting = functools.partial(_of_tokens, between, apply_fn, learned)
  return _descent("satimp", apply_fn, params, forgetting, key=key, forget=forget, retain=retain,
                  forget_weight=forget_weight, retain_weight=retain_weight, retain_loss=retain_loss, steps=steps,
                  batch=batch, optimizer=optimizer, learned=learned)  # fmt: skip


def undial(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  strength: Scalar = 10.0,
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 0.0,
  retain_loss: str = "ce",
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """UNDIAL: descent on ``forget_weight mean KL(q || p) + retain_weight R``, ``q = softmax(z_before - strength 1[y])``.

  As :func:`npo`, but a mean over the labels of all rows drawn (:func:`cljax.losses.undial`): towards what the model
  said before with the label demoted, where it rests. ``strength=0`` changes nothing. The release demotes token V - 100
  at prompts and padding, which it averages over: not followed. Dong et al. 2024; spec language_unlearning W8. Raises
  UsageError as :func:`npo` does, for a strength below 0.
  """
  check_scalar("undial", "strength", strength, 0.0)
  before = params

  def demoted(logits, y, mask, rows):
    return losses.undial(logits, outputs_of(apply_fn, before, rows).logits, y, strength, mask)

  forgetting = functools.partial(_of_tokens, demoted, apply_fn, learned)
  return _descent("undial", apply_fn, params, forgetting, key=key, forget=forget, retain=retain,
                  forget_weight=forget_weight, retain_weight=retain_weight, retain_loss=retain_loss, steps=steps,
                  batch=batch, optimizer=optimizer, learned=learned)  # fmt: skip
