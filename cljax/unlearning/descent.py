"""Forgetting by descent on a combination of the mean losses on the rows to forget and the rows to keep."""

from __future__ import annotations

import optax

from cljax.rows import as_rows
from cljax.unlearning._common import drawn, key_of, mean_loss, minimize


def graddiff(
  loss_fn,
  params,
  *,
  forget,
  retain,
  key=None,
  forget_weight=0.05,
  retain_weight=0.95,
  steps: int = 50,
  batch: int = 64,
  optimizer=None,
):
  """GradDiff: descent on ``retain_weight L_retain - forget_weight L_forget``, random batches of each.

  ``loss_fn(params, batch) -> [B]`` losses; ``forget`` and ``retain`` are ``(x, y)``, a dict of arrays, or Rows. The
  default optimizer is SGD at 0.05. The default weights are NegGrad+'s, 0.05 and 0.95; GradDiff has 1 and 1. The ascent
  term has no fixed point: large weights or many steps destroy the model. Spec A4; Liu et al. 2022, Kurmanji et al.
  2023. Deviation: random batches, where the releases make passes over the data.
  """
  forget, retain = as_rows("forget", forget), as_rows("retain", retain)

  def objective(key, params, step):
    del step
    to_forget, to_keep = drawn(key, batch, forget=forget, retain=retain)
    return retain_weight * mean_loss(loss_fn, params, to_keep) - forget_weight * mean_loss(loss_fn, params, to_forget)

  return minimize(key_of(key, "graddiff"), objective, params, steps=steps, optimizer=optimizer or optax.sgd(0.05))
