"""Methods that keep the old model's outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec, name_what_is_gone
from cljax.methods.registry import Entry, Option, register
from cljax.objectives.objective import reduced


class Teacher(NamedTuple):
  """A copy of the model at the end of the last task."""

  params: Any
  model_state: Any


name_what_is_gone(Teacher, {"tasks": "task.visit.others counts the tasks that were met before"})


def lwf(model, spec: Spec, *, strength, temperature) -> Method:
  """Learning without Forgetting: ``strength * mean T^2 KL(softmax(teacher/T) || softmax(f/T))`` on the current rows.

  The softmax runs over the classes of tasks met before (its own among them for a task that comes back); where each task
  has its own softmax (task-incremental), each earlier task has its own term, and they are summed. The teacher is in
  eval mode and sees the same augmented input. Li and Hoiem, 2016. Without classes: ``strength`` times the mean of the
  objective's ``divergence``, from the second task on, over what its loss counts (tokens).
  """
  learned = spec.objective
  classes = jnp.asarray(spec.classes_of_task) if learned.classes else None

  def end_task(key, learner, task):
    del key, task
    return learner._replace(method_state=Teacher(tree.copy(learner.params), tree.copy(learner.model_state)))

  def after_forget(learner, before):
    teacher = learner.method_state
    followed = tree.follow(teacher.params, before, learner.params)
    return learner._replace(method_state=teacher._replace(params=followed))

  def term(key, params, learner, batch, outputs):
    del params
    teacher = learner.method_state
    told = {"task": model.task_for(batch.task), "mask": None}
    old, _ = model.apply(teacher.params, teacher.model_state, batch.x, train=False, key=key, **told)
    earlier = batch.visit.met
    if classes is None:
      parts = learned.divergence(outputs.logits, old.logits, batch, temperature)
      return strength * jnp.where(earlier.any(), reduced(parts, learned.each(outputs.logits, batch)[1], batch), 0.0)
    if spec.active == "task":
      each = jax.vmap(lambda mask: losses.distillation(outputs.logits, old.logits, temperature, mask))(classes)
      per_row = jnp.sum(jnp.where(earlier[:, None], each, 0.0), axis=0)
    else:
      seen = (classes & earlier[:, None]).any(0)
      per_row = losses.distillation(outputs.logits, old.logits, temperature, seen)
    return strength * reduced(per_row, None, batch)

  return Method(
    init=lambda key, learner: Teacher(tree.copy(learner.params), tree.copy(learner.model_state)),
    terms={"distillation": term},
    end_task=end_task,
    after_forget=after_forget,
  )


register(
  "lwf",
  Entry(
    lwf,
    {"strength": Option(1.0, 0), "temperature": Option(2.0, 1e-6)},
    Access(task_boundaries=True, needs=("each", "divergence")),
    "Li and Hoiem 2016",
  ),
)
