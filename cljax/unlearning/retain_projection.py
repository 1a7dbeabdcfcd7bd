"""Forgetting that watches the retain gradient: steps projected off it, or penalised where they oppose it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cljax import projectors
from cljax.core import tree
from cljax.core.dtypes import lenient
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import Array, LossFn, Params, Scalar, UsageError
from cljax.unlearning._common import drawn, if_asked, key_of, mean_loss, minimize
from cljax.unlearning._strength import bounded

FORGET_LOSSES = ("ascent", "npo", "simnpo")
OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}
SHARES = (1.0, 0.5, 0.25, 0.125)  # of a step, tried in turn


def geometric_disentanglement(
  loss_fn: LossFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  forget_weight: Scalar = 0.05,
  retain_weight: Scalar = 0.95,
  forget_loss: str | Callable = "ascent",
  beta: Scalar = 0.1,
  learning_rate: Scalar = 0.05,
  optimizer: str | optax.GradientTransformation = "sgd",
  constraint: str = "descent",
  history: int = 8,
  backtracking: bool = False,
  budget: Scalar = 1e-4,
  bound: Scalar = 1.0,
  classes: ArrayLike | None = None,
  steps: int = 50,
  batch: int = 64,
) -> Params:
  """Descent on a forget loss off the retain gradients: ``theta += P(a U(g_f)) + b U'(g_r)`` on random batches.

  U and U' are updates of ``optimizer`` at ``learning_rate``, 'sgd' or 'adam', each with a state of its own; or of an
  optax transformation, with the rate in it. P is the nearest update, in the metric ``sqrt(nu) + 1e-8`` of U's second
  moment (Euclidean without one), that lowers ('descent') or keeps ('orthogonal') the retain loss of this batch and the
  ``history`` before it to first order; a and b are ``forget_weight`` and ``retain_weight`` (b = 0: forgetting alone).
  They scale updates, since those of Adam do not grow with its gradients.

  ``forget_loss``, whose gradient is g_f: 'ascent', ``-L``, which ends as that of ``graddiff`` does (``bound``,
  ``classes``); with L_0 the loss before, 'npo', ``2/beta softplus(beta (L_0 - L))``, or 'simnpo', the same without L_0;
  or ``(params, batch) -> [B]``, to go down. With ``backtracking`` the projected update is taken at the first of 1, 1/2,
  1/4 and 1/8 of its size at which the retain batch's loss rises by ``budget`` at most, and not at all where none does.
  Spec B15: the second release (QP, history 8) is the default.
  Deviation: forget and retain updates are made apart, and the metric is over all leaves at once. arXiv 2511.17100.
  Raises UsageError for another ``forget_loss``, ``optimizer`` or ``constraint``.
  """
  forget, retain, before = as_rows("forget", forget), as_rows("retain", retain), params
  key = key_of(key, "geometric_disentanglement")
  projector = projectors.geometric_disentanglement("retain", constraint, history)
  going = _forget_loss(forget_loss, loss_fn, bounded(loss_fn, before, classes, bound), before, beta)
  tx = lenient(_optimizer(optimizer, learning_rate))

  def body(i, carry):
    params, state, own, keeping = carry
    to_forget, to_keep = drawn(jax.random.fold_in(key, i), batch, forget=forget, retain=retain)
    kept = lambda p: mean_loss(loss_fn, p, to_keep)
    g_f = jax.grad(lambda p: mean_loss(going, p, to_forget))(params)
    now, g_r = jax.value_and_grad(kept)(params)
    update, own = tx.update(g_f, own, params)
    update = tree.scale(forget_weight, update)
    update, state = projector.update(update, state, params, references={"retain": g_r}, optimizer_state=own)
    if backtracking:
      risen = lambda share: kept(optax.apply_updates(params, tree.scale(share, update)))
      fits = jnp.stack([risen(share) for share in SHARES]) <= now + budget
      share = jnp.where(fits.any(), jnp.asarray(SHARES, jnp.float32)[jnp.argmax(fits)], 0.0)
      update = tree.scale(share, update)
    back, keeping = tx.update(g_r, keeping, params)
    return optax.apply_updates(params, tree.axpy(retain_weight, back, update)), state, own, keeping

  carry = params, projector.init(params), tx.init(params), tx.init(params)
  return if_asked(forget, jax.lax.fori_loop(0, steps, body, carry)[0], params)


def _forget_loss(given, loss_fn, rising, before, beta):
  """``(params, batch) -> [B]`` to go down."""
  if callable(given):
    return given
  if given == "ascent":
    return lambda params, batch: -rising(params, batch)
  if given not in FORGET_LOSSES:
    raise UsageError(f"forget_loss: got {given!r}; allowed: {', '.join(FORGET_LOSSES)}, or a function")

  def soft(params, batch):
    start = jax.lax.stop_gradient(loss_fn(before, batch)) if given == "npo" else 0.0
    return 2 / beta * jax.nn.softplus(beta * (start - loss_fn(params, batch)))

  return soft


def _optimizer(given, learning_rate) -> optax.GradientTransformation:
  if not isinstance(given, str):
    return given
  if given not in OPTIMIZERS:
    raise UsageError(f"optimizer: got {given!r}; allowed: {', '.join(OPTIMIZERS)}, or an optax transformation")
  return OPTIMIZERS[given](learning_rate)


def adaptive_orthogonality(
  loss_fn: LossFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  forget_weight: Scalar = 0.05,
  retain_weight: Scalar = 0.95,
  strength: Scalar = 1.0,
  gamma: Scalar = 1.0,
  bound: Scalar = 1.0,
  classes: ArrayLike | None = None,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
) -> Params:
  """Descent on ``b L_r - a L_f + strength AO``, ``AO = 1[<u, v> < 0] ((1 - cos(u, v)) / 2)^gamma``, u = -g_f, v = g_r.

  a and b are ``forget_weight`` and ``retain_weight``; the default optimizer is SGD at 0.05. AO is differentiated
  through both gradients, over all layers (the released code's is a constant, which trains nothing). Of AGT^AO this is
  the penalty: the base is GradDiff where the paper has NPO, and its adversarial perturbation of hidden states is left
  out. The ascent ends as that of ``graddiff`` (``bound``, ``classes``). Spec B16; arXiv 2602.01703.
  """
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  rising = bounded(loss_fn, params, classes, bound)

  def objective(key, params, step):
    del step
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    ascent = lambda p: -mean_loss(rising, p, to_forget)
    keeping = lambda p: mean_loss(loss_fn, p, to_keep)
    conflict = projectors.adaptive_orthogonality(ascent, keeping, gamma)(params)
    return retain_weight * keeping(params) + forget_weight * ascent(params) + strength * conflict

  key = key_of(key, "adaptive_orthogonality")
  return minimize(key, objective, params, steps=steps, optimizer=optimizer or optax.sgd(0.05), forget=forget)
