"""Scaled gradient projection: steps go on in old inputs' span as far as old tasks do not need it."""

from __future__ import annotations

import jax.numpy as jnp

from cljax import projectors
from cljax.core import rows as picking
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods.heads import AUTO, hold_others, projected
from cljax.methods.projection.gradients import ON_UPDATE, layer_rows, standing, with_held
from cljax.methods.registry import Entry, Option, register


def sgp(
  model, spec: Spec, *, threshold, threshold_step, alpha, samples: int = 125, max_rank: int = 0, skip: str = AUTO,
  on: str = "update",
) -> Method:  # fmt: skip
  """SGP: ``U - M diag(lambda) M^T U`` of kernels, M ``[d_in, r]`` a basis of old layer inputs (``gpm``'s) and
  ``lambda_i = (alpha + 1) s_i / (alpha s_i + max s)``, ``s_i = |X m_i|`` over a task's ``samples`` inputs X.

  After each task importances add up, at most to 1; ``threshold + threshold_step * t`` of the energy has directions
  where t other tasks were met before. Where GPM closes a direction, SGP leaves ``1 - lambda_i`` of each step in it: it
  learns new tasks better and holds old ones less. ``alpha`` (the paper: 1 to 25 by data set; 10 for CIFAR-100) large
  is ``gpm``, 0 scales by ``s_i / max s``. ``samples``, ``max_rank``, ``skip`` and what is held after the first task as
  for ``gpm``. A task that comes back adds its importances again.

  Deviations: it projects what the optimizer made of the gradient, weight decay included; ``on='gradient'`` is the
  published order, in front of plain SGD (the released code's ``--momentum`` is never used). The first task reaches the
  threshold too, where the released code stays one direction below it. Raises UsageError for a model without
  ``capture`` and for a ``skip`` that leaves no kernel; requests are answered by ``retrain`` alone. Spec E3; Saha
  and Roy, 2023.
  """

  def end_task(key, learner, task):
    inputs = layer_rows(model, spec, learner, picking.sample(fold(key, "rows"), task.rows, samples))
    level = jnp.minimum(threshold + threshold_step * task.visit.others.astype(jnp.float32), 1.0)
    return learner._replace(opt_state=projectors.sgp_extend(learner.opt_state, inputs, level, alpha))

  skipped, hold = projected(model, spec, skip)
  projector = with_held(projectors.sgp(max_rank or None, skipped), hold)
  return Method(end_task=end_task, **standing(projector, hold_others(model, spec, skip), on))


register(
  "sgp",
  Entry(
    sgp,
    {
      "threshold": Option(0.97, 0, 1),
      "threshold_step": Option(0.003, 0, 1),
      "alpha": Option(10.0, 0),
      "samples": Option(125, 1),
      "max_rank": Option(0, 0),
      "skip": Option(AUTO),
      **ON_UPDATE,
    },
    Access(task_boundaries=True, boundary_data=True, needs=("plain_inputs",)),
    "Saha and Roy 2023",
  ),
)
