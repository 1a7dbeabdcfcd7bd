"""LwF.MC: sigmoid outputs, of which those of earlier classes are held to what the last task's network said."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.registry import Entry, register
from cljax.objectives.rows import of_terms_alone


def held_sigmoids(logits, y, said, old, inside):
  """``[B]``: the mean over the outputs ``inside [B, C]`` of ``BCE(z, t)``; t the sigmoids of ``said [B, C]`` at ``old
  [C]`` outputs, and the one-hot labels ``y [B]`` at others; None: of labels everywhere. 0 for rows without outputs."""
  targets = jax.nn.one_hot(y, logits.shape[-1], dtype=jnp.float32)
  targets = targets if said is None else jnp.where(old[None], jax.nn.sigmoid(said), targets)
  each = losses.binary_cross_entropy(logits, targets, inside)
  return each / jnp.maximum(jnp.sum(inside, -1, dtype=jnp.float32), 1.0)


def lwf_mc(model, spec: Spec) -> Method:
  """LwF.MC: ``mean over rows and outputs of BCE(f(x), t)``, t the teacher's sigmoids at old classes, labels at others.

  This is the loss of ``icarl`` on the task's rows alone, and the model's outputs answer; nothing is stored but the
  teacher, the model at the end of the last task, in eval mode on the same augmented input. Old classes are those met
  before that the current task has not, so that a task which comes back, or whose classes are everybody's, is learned
  from labels. Outputs are those of classes met so far, among those that the stream lets compete; others stand still.
  The mean over outputs makes a step's slope smaller the more classes there are, so that rates are larger than those of
  cross-entropy. The name is iCaRL's, for the multi-class form of Learning without Forgetting; spec B6, A1; Rebuffi et
  al., 2017.
  """
  of_task = jnp.asarray(spec.classes_of_task)

  def copy(learner):
    return Teacher(tree.copy(learner.params), tree.copy(learner.model_state))

  def prepare(key, learner, batch):
    del key
    return learner, of_terms_alone(batch)

  def term(key, params, learner, batch, outputs):
    del params
    teacher, visit = learner.method_state, batch.visit
    told = {"task": model.task_for(batch.task), "mask": None}
    said, _ = model.apply(teacher.params, teacher.model_state, batch.x, train=False, key=key, **told)
    old = (of_task & visit.met[:, None]).any(0) & ~of_task[visit.task]
    inside = jnp.broadcast_to((of_task & visit.seen[:, None]).any(0), outputs.logits.shape)
    inside = inside if batch.class_mask is None else inside & batch.class_mask
    each = held_sigmoids(outputs.logits, batch.y, said.logits.astype(jnp.float32), old, inside)
    return losses.reduce(each, batch.weight)

  def end_task(key, learner, task):
    del key, task
    return learner._replace(method_state=copy(learner))

  def after_forget(learner, before):
    teacher = learner.method_state
    return learner._replace(method_state=teacher._replace(params=tree.follow(teacher.params, before, learner.params)))

  return Method(
    init=lambda key, learner: copy(learner),
    prepare=prepare,
    terms={"sigmoids": term},
    end_task=end_task,
    after_forget=after_forget,
  )


register(
  "lwf_mc",
  Entry(lwf_mc, {}, Access(task_boundaries=True, needs=("classes", "plain_inputs")), "Rebuffi et al. 2017"),
)
