"""Forgetting that watches the retain gradient: steps projected off it, or penalised where they oppose it."""

from __future__ import annotations

import jax
import optax

from cljax import projectors
from cljax.core import tree
from cljax.core.rows import as_rows
from cljax.unlearning._common import drawn, if_asked, key_of, mean_loss, minimize
from cljax.unlearning._strength import bounded


def geometric_disentanglement(
  loss_fn,
  params,
  *,
  forget,
  retain,
  key=None,
  forget_weight=0.05,
  retain_weight=0.95,
  learning_rate=0.05,
  constraint: str = "descent",
  history: int = 8,
  steps: int = 50,
  batch: int = 64,
):
  """Gradient ascent off the retain gradients: ``theta += P(rate a g_f) - rate b g_r``, g of mean CE on random batches.

  P is the nearest update that lowers ('descent') or keeps ('orthogonal') the retain loss of this batch and the
  ``history`` before it to first order; a and b are ``forget_weight`` and ``retain_weight`` (b = 0: ascent alone). The
  metric is that of SGD, so Euclidean. Spec B15: the second release (QP, history 8) is the default; its back-tracking
  is left out, and the forget loss is ``loss_fn`` where the paper plugs into any. arXiv 2511.17100.
  """
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  key = key_of(key, "geometric_disentanglement")
  projector = projectors.geometric_disentanglement("retain", constraint, history)

  def body(i, carry):
    params, state = carry
    batches = drawn(jax.random.fold_in(key, i), batch, forget=forget, retain=retain)
    g_f, g_r = (jax.grad(lambda p, rows=rows: mean_loss(loss_fn, p, rows))(params) for rows in batches)
    update = tree.scale(learning_rate * forget_weight, g_f)
    update, state = projector.update(update, state, params, references={"retain": g_r})
    update = tree.axpy(-learning_rate * retain_weight, g_r, update)
    return optax.apply_updates(params, update), state

  after = jax.lax.fori_loop(0, steps, body, (params, projector.init(params)))[0]
  return if_asked(forget, after, params)


def adaptive_orthogonality(
  loss_fn,
  params,
  *,
  forget,
  retain,
  key=None,
  forget_weight=0.05,
  retain_weight=0.95,
  strength=1.0,
  gamma=1.0,
  bound=1.0,
  classes=None,
  steps: int = 50,
  batch: int = 64,
  optimizer=None,
):
  """Descent on ``b L_r - a L_f + strength AO``, ``AO = 1[<u, v> < 0] ((1 - cos(u, v)) / 2)^gamma``, u = -g_f, v = g_r.

  a and b are ``forget_weight`` and ``retain_weight``; the default optimizer is SGD at 0.05. AO is differentiated
  through both gradients, over all layers (the released code's is a constant, which trains nothing). Of AGT^AO this is
  the penalty: the base is GradDiff where the paper has NPO, and its adversarial perturbation of hidden states is left
  out. The ascent ends as that of ``graddiff`` (``bound``, ``classes``). Spec B16; arXiv 2602.01703.
  """
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)
  rising = bounded(loss_fn, classes, bound)

  def objective(key, params, step):
    del step
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    ascent = lambda p: -mean_loss(rising, p, to_forget)
    keeping = lambda p: mean_loss(loss_fn, p, to_keep)
    conflict = projectors.adaptive_orthogonality(ascent, keeping, gamma)(params)
    return retain_weight * keeping(params) + forget_weight * ascent(params) + strength * conflict

  key = key_of(key, "adaptive_orthogonality")
  return minimize(key, objective, params, steps=steps, optimizer=optimizer or optax.sgd(0.05), forget=forget)
