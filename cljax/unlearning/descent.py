"""Forgetting by descent on a combination of losses on the rows to forget and the rows to keep."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cljax import losses
from cljax.core import tree
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, LossFn, Params, Scalar, UsageError
from cljax.objectives.objective import Objective, of_rows
from cljax.unlearning._common import (
  among_the_others,
  cross_entropy,
  divergence,
  drawn,
  key_of,
  mean_loss,
  minimize,
  moved2,
  outputs_of,
  share_of,
)
from cljax.unlearning._strength import bounded, row_bound


def finetune_retain(
  loss_fn: LossFn, params: Params, *, retain: RowsLike, key: Array | None = None, steps: int = 100, batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
) -> Params:  # fmt: skip
  """Descent on ``L_retain`` alone, in the hope of catastrophic forgetting: the forget rows are never seen.

  ``loss_fn(params, batch) -> [B]`` losses; ``retain`` is ``(x, y)``, a dict of arrays, or Rows. To first order L_forget
  changes by ``-rate g_f . g_r``, so it may well fall. The default optimizer is SGD at the release's 0.02, without its
  one-cycle schedule; ``steps`` replace its 5 epochs. Spec A2.
  """
  retain = as_rows("retain", retain)

  def objective(key, params, step):
    del step
    return mean_loss(loss_fn, params, *drawn(key, batch, retain=retain))

  return minimize(
    key_of(key, "finetune_retain"), objective, params, steps=steps, optimizer=optimizer or optax.sgd(0.02)
  )


def gradient_ascent(
  loss_fn: LossFn, params: Params, *, forget: RowsLike, key: Array | None = None, bound: Scalar = 1.0,
  classes: ArrayLike | None = None, steps: int = 20, batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
) -> Params:  # fmt: skip
  """Ascent on ``L_forget``: one step of SGD raises it by ``rate ||g_f||^2`` to first order.

  ``loss_fn(params, batch) -> [B]`` losses; ``forget`` is ``(x, y)``, a dict of arrays, or Rows; no other row is seen.
  The loss has no upper bound and the ascent no fixed point. Given the ``classes [K]`` bool that go whole, a row's
  ascent ends at ``bound ln K``, as of one who knows nothing, or at ``bound ln 4/3`` where its class stays: its label is
  then no likelier than any other, or at 3/4. A run gives them; of an objective without classes it gives ``[0]``, and an
  ascent ends ``bound ln 4/3`` above the row's loss before. The paper's ascent, which has no end, is a bound of 1e9.
  The default optimizer is SGD at 0.005, within the range that a release searches for image classifiers. Spec A3.
  """
  forget = as_rows("forget", forget)
  rising = bounded(loss_fn, params, classes, bound)

  def objective(key, params, step):
    del step
    return -mean_loss(rising, params, *drawn(key, batch, forget=forget))

  return minimize(
    key_of(key, "gradient_ascent"),
    objective,
    params,
    steps=steps,
    optimizer=optimizer or optax.sgd(0.005),
    forget=forget,
  )


def graddiff(
  loss_fn: LossFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  forget_weight: Scalar = 0.05,
  retain_weight: Scalar = 0.95,
  retain_loss: str = "ce",
  apply_fn: ApplyFn | None = None,
  bound: Scalar = 1.0,
  classes: ArrayLike | None = None,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """GradDiff: descent on ``retain_weight R - forget_weight L_forget``, random batches of each; R is L_retain.

  ``loss_fn(params, batch) -> [B]`` losses; ``forget`` and ``retain`` are ``(x, y)``, a dict of arrays, or Rows. With
  ``retain_loss='kl'``, KL-minimisation (spec A5), R is the mean ``KL(p_before || p)`` of what ``apply_fn(params,
  batch)`` predicts (under an objective ``learned`` its divergence): 0 at first, with gradient 0. The default optimizer
  is SGD at 0.05. The default weights are NegGrad+'s, 0.05 and 0.95; GradDiff has 1 and 1. The ascent term has no fixed
  point: large weights or many steps destroy the model. Given the ``classes [K]`` bool that go whole, as a run does, a
  row's ascent ends at ``bound ln K``, or ``bound ln 4/3`` where its class stays, or, with ``[0]`` of an objective
  without classes, ``bound ln 4/3`` above its loss before; 1e9 is the papers', which have none. Spec A4; Liu et al.
  2022, Kurmanji et al. 2023. Deviation: random batches, where the releases make passes over the data. Raises
  UsageError for another ``retain_loss``, or for 'kl' without ``apply_fn``.
  """
  forget, retain, before = as_rows("forget", forget), as_rows("retain", retain), params
  if retain_loss not in ("ce", "kl"):
    raise UsageError(f"retain_loss: got {retain_loss!r}; allowed: ce, kl")
  if retain_loss == "kl" and apply_fn is None:
    raise UsageError("apply_fn: got none; retain_loss='kl' needs apply_fn(params, batch) -> logits")

  towards = lambda params, batch: divergence(apply_fn, params, before, batch, learned=learned)
  rising = bounded(loss_fn, before, classes, bound)
  keeping = loss_fn if retain_loss == "ce" else towards

  def objective(key, params, step):
    del step
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    return retain_weight * mean_loss(keeping, params, to_keep) - forget_weight * mean_loss(rising, params, to_forget)

  return minimize(
    key_of(key, "graddiff"), objective, params, steps=steps, optimizer=optimizer or optax.sgd(0.05), forget=forget
  )


def wrong_labels(key, batch, num_classes: int):
  """``(labels [B], whether there is one [B])``: uniform over the classes other than y, by a hash of key and row id.

  Among the classes of the row's mask, where there is one. A row has the same label whenever it is asked for.
  """
  other = jnp.arange(num_classes, dtype=batch.y.dtype)[None] != batch.y[:, None]
  if batch.class_mask is not None:
    other &= batch.class_mask
  noise = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (num_classes,), jnp.float32))(batch.id)
  return jnp.argmax(jnp.where(other, noise, -1.0), -1), other.any(-1)


def random_labels(
  apply_fn: ApplyFn, params: Params, *, forget: RowsLike, retain: RowsLike, key: Array | None = None, steps: int = 50,
  batch: int = 64, optimizer: optax.GradientTransformation | None = None, classes: ArrayLike | None = None,
  gone: ArrayLike | None = None,
) -> Params:  # fmt: skip
  """Amnesiac unlearning: descent on the loss of the forget rows under wrong labels together with the retain rows.

  ``apply_fn(params, batch)`` gives logits or Outputs. Each forget row has one label for all steps, uniform over the
  classes other than its own, by a hash of ``key`` and its ``id`` (in a run, its place in the data). A step draws
  ``batch`` rows of either set, and weighs their mean losses as the union has them, by n_f and n_r. The default
  optimizer is Adam at 1e-3; the release's is 1e-4, over 3 epochs. No label is of the ``classes`` or of those that are
  ``gone`` (``[C]`` bool), which it would bring back. Fixed wrong labels can be memorised, and betray the row. Spec A6;
  Graves et al., AAAI 2021.
  """
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  key = key_of(key, "random_labels")
  share = share_of(forget, retain)

  def objective(step_key, params, step):
    del step
    to_forget, to_keep = drawn(step_key, batch, forget=forget, retain=retain)
    logits = outputs_of(apply_fn, params, to_forget).logits
    left = among_the_others(among_the_others(to_forget, classes), gone)
    labels, possible = wrong_labels(tree.fold(key, "labels"), left, logits.shape[-1])
    wrong = losses.cross_entropy(logits, labels, to_forget.class_mask)
    forgetting = losses.reduce(wrong, jnp.where(possible, to_forget.weight, 0.0))
    return share * forgetting + (1 - share) * mean_loss(cross_entropy(apply_fn), params, to_keep)

  return minimize(
    tree.fold(key, "steps"), objective, params, steps=steps, optimizer=optimizer or optax.adam(1e-3), forget=forget
  )


def famr(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  key: Array | None = None,
  anchor: Scalar = 0.01,
  bound: Scalar = 1.0,
  classes: ArrayLike | None = None,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Any = None,
  gone: ArrayLike | None = None,
) -> Params:
  """FAMR: descent on the mean ``CE(uniform, p)`` of the forget rows plus ``anchor/2 ||theta - theta_before||^2``.

  ``apply_fn(params, batch)`` gives logits or Outputs; ``forget`` is ``(x, y)``, a dict of arrays, or Rows; no other row
  is seen. At the optimum ``||theta - theta_before|| = ||grad CE|| / anchor``. ``anchor`` and the steps are UNVERIFIED
  (only the objective was read); Adam at 1e-3 where 1e-4 was proposed, which in 50 steps moves no weight beyond 0.005.
  Entropy beyond the retrained model's shows in membership attacks. Spec B8; arXiv 2506.14515.

  An anchor of 0.01 holds nothing back. Given the ``classes [K]`` bool that go whole, as a run does, a row takes part
  while its label's loss is below ``bound ln K``, that of a label no likelier than any other, or below ``bound ln 4/3``
  where its class stays. A run descends by SGD at 0.05, 100 steps, in proportion to what each weight has to do with the
  rows; Adam moves every weight alike. ``optimizer='adam', learning_rate=1e-3, steps=50, bound=1e9`` is the former.

  Under an objective ``learned`` it descends on the divergence from a prediction of 0, which knows nothing of a row: of
  text, and of labels each by itself, the uniform one, less a constant; of real targets 0. With ``classes [0]``, as a
  run gives them there, a row takes part until its loss is ``bound ln 4/3`` above that before.
  """
  forget, before = as_rows("forget", forget), params

  def loss_fn(params, batch):
    own = outputs_of(apply_fn, params, batch).logits
    if learned is not None:
      blind = jax.tree.map(jnp.zeros_like, own)
      return of_rows(learned.divergence(own, blind, batch, 1.0), learned.each(own, batch)[1])
    return losses.uniform_cross_entropy(own, batch.class_mask)

  def objective(key, params, step):
    del step
    (rows,) = drawn(key, batch, forget=forget)
    rows = among_the_others(rows, gone)
    each = loss_fn(params, rows)
    if classes is not None:
      of_row = cross_entropy(apply_fn, learned)
      known = of_row(params, rows)
      each = jnp.where(known < row_bound(of_row, before, rows, classes, bound).astype(known.dtype), each, 0.0)
    return losses.reduce(each, rows.weight) + 0.5 * anchor * moved2(params, before)

  return minimize(
    key_of(key, "famr"), objective, params, steps=steps, optimizer=optimizer or optax.adam(1e-3), forget=forget
  )


def one_point_contraction(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  forget_weight: Scalar = 1.0,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  gone: ArrayLike | None = None,
) -> Params:
  """One-point contraction: descent on ``L_retain + forget_weight mean ||z(x)||_2`` over the logits z of forget rows.

  ``apply_fn(params, batch)`` gives logits or Outputs; ``forget`` and ``retain`` are ``(x, y)``, a dict of arrays, or
  Rows. Small logits make the prediction near uniform; the norm's gradient in z has length 1 until z is 0, where it is 0
  here. It contracts logits, while the paper's claims are on features. z is of the classes of a row's mask that are not
  ``gone`` (``[C]`` bool): a logit of those that is pulled up to 0 would bring its class back. The optimizer is
  UNVERIFIED: Adam at 1e-3. Spec B5; arXiv 2507.07754, loss read in its reviews.
  """
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)

  def length(params, batch):
    logits = outputs_of(apply_fn, params, batch).logits
    return losses.safe_norm(logits if batch.class_mask is None else jnp.where(batch.class_mask, logits, 0.0), -1)

  def objective(key, params, step):
    del step
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    keeping = mean_loss(cross_entropy(apply_fn), params, to_keep)
    return keeping + forget_weight * mean_loss(length, params, among_the_others(to_forget, gone))

  key = key_of(key, "one_point_contraction")
  return minimize(key, objective, params, steps=steps, optimizer=optimizer or optax.adam(1e-3), forget=forget)
