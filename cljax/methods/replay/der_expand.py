"""DER of Yan et al.: a new extractor for each task beside those that stand, and a classifier fitted anew."""

from __future__ import annotations

import jax

from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay import growth

STAGES = ("refit", "align", "none")


def der_expand(
  model, spec: Spec, *, auxiliary, temperature, rate, capacity: int, replay_batch: int = 0, stage: str = "refit",
  passes: int = 30,
) -> Method:  # fmt: skip
  """Dynamically expandable representation: ``CE([f_1 .. f_t] W) + auxiliary CE(f_t A)``, f_t new, f_1 .. f_{t-1} still.

  The extractor of a task begins as the one before it; the others stand, in eval mode, their BatchNorm too. A tells the
  task's classes from one another and from all old ones, which are one class, and begins anew with each task. Both means
  are over the union of the task's rows and the exemplars, as for :func:`cljax.methods.replay.icarl.icarl`, whose lists
  these are. When a task that has old classes ends, ``stage`` 'refit': W begins anew and is fitted on the exemplars,
  ``passes`` of SGD at ``rate`` with momentum 0.9 on ``CE(z / temperature)``; 'align': its columns of new classes get
  the mean norm of old ones' (PyCIL's); 'none'. Old classes are those met before that the current task has not; a task
  that comes back trains its own extractor. All extractors have their place from the start: memory and a step's cost
  are those of as many networks as the stream has tasks.

  Deviations: the rate of the fit is constant, without weight decay; the channel masks of the paper's pruned variant,
  which no released code has, are left out. A request's rows leave the lists at once; extractors and classifier know
  nothing of it. Raises UsageError for a capacity below the number of lists and a model without features. Spec D6; Yan
  et al., 2021.
  """
  memory = sets.make_exemplars(spec, capacity)
  size, every = min(replay_batch or spec.batch_size, capacity), lambda name: True
  network, fields = growth.hooks(model, spec, "der_expand", memory, size, auxiliary, every, "first")

  def end_task(key, learner, task):
    learner = growth.refill(network, spec, memory, learner, task)
    old, new = sets.old_and_new(spec, task.visit)
    told = {"passes": passes, "rate": rate, "temperature": temperature, "size": spec.batch_size}
    fit = lambda learner: growth.refitted(key, network, spec, memory, learner, task.visit, **told)
    if stage == "align":
      return growth.realigned(learner, old, new)
    return learner if stage == "none" else jax.lax.cond(old.any(), fit, lambda learner: learner, learner)

  return Method(end_task=end_task, **fields)


register(
  "der_expand",
  Entry(
    der_expand,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "auxiliary": Option(1.0, 0),
      "stage": Option("refit", choices=STAGES),
      "passes": Option(30, 1, needs={"stage": ("refit",)}),
      "rate": Option(0.1, 0, needs={"stage": ("refit",)}),
      "temperature": Option(5.0, 0, above=True, needs={"stage": ("refit",)}),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Yan et al. 2021",
  ),
)
