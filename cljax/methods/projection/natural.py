"""Natural continual learning: the penalty of K-FAC EWC, in its own metric."""

from __future__ import annotations

import optax

from cljax import projectors, regularizers
from cljax.core.method import Method
from cljax.core.types import Spec
from cljax.methods.heads import AUTO, hold_others, projected
from cljax.methods.penalties.curvature import KINDS, MERGE, PASS, factors, kind_of
from cljax.methods.projection.gradients import with_held
from cljax.methods.projection.weights import hold_loose
from cljax.methods.registry import Entry, Option, register


def ncl(
  model, spec: Spec, *, strength, damping, data_size: int = 0, skip: str = AUTO, merge: str = "kl",
  fisher: str = "sampled", fisher_batch_size: int = 64,
) -> Method:  # fmt: skip
  """NCL: ``theta <- theta - rate [Lambda^-1 grad + strength (theta - mu)] / n``: K-FAC EWC, in its own metric.

  ``Lambda = L (x) R`` of each layer starts at ``I / n`` with ``mu = 0`` and takes ``A_t (x) G_t`` of each finished task
  (:func:`cljax.methods.penalties.curvature.kfac_ewc`, whose ``merge`` and ``fisher`` these are; the paper samples
  labels); ``n`` is ``data_size``, 0 for the rows of the largest task. So the first task is plain descent with the
  pull ``strength / n theta``; afterwards what old tasks leave flat moves at the full rate, and what they need by up
  to ``1 / (1 + n F)`` of it. The pull joins the gradient, and the metric ``(Lambda + damping)^-1 / n`` stands behind
  the optimizer: the published order, made for SGD with momentum and a constant rate; Adam's own metric would come
  between.

  ``skip`` as for ``gpm``: the head is projected too where tasks share it. After the first task norm parameters and what
  has no factors are held. Needs a model with ``capture``. Spec S11.2; Kao et al., 2021.
  """
  kind = kind_of(spec, fisher)
  rows = float(data_size or spec.task_rows)
  skipped, hold = projected(model, spec, skip)
  metric = with_held(with_held(projectors.ncl(skipped), hold), hold_loose(model, skipped))

  def end_task(key, learner, task):
    state = learner.opt_state
    found = factors(key, model, spec, learner, task.rows, kind, fisher_batch_size)
    penalty = regularizers.kfac_consolidate(state.penalty, learner.params, found, 1.0, merge)
    made = projectors.ncl_end_task(state.finalize, penalty.inputs, penalty.outputs, rows, damping)
    return learner._replace(opt_state=state._replace(penalty=penalty, finalize=made))

  behind = hold_others(model, spec, skip)
  return Method(
    end_task=end_task,
    penalty=regularizers.kfac_ewc(strength, 1.0 / rows, skipped, name="ncl"),
    finalize=metric if behind is None else optax.chain(metric, behind),
  )


register(
  "ncl",
  Entry(
    ncl,
    {
      "strength": Option(1.0, 0),
      "damping": Option(1e-6, 0),
      "data_size": Option(0, 0),
      "skip": Option(AUTO),
      **MERGE,
      **KINDS,
      "fisher": Option("sampled", choices=("auto", "exact", "sampled", "empirical")),
    },
    PASS,
    "Kao et al. 2021",
  ),
)
