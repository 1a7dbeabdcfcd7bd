"""RECALL: what the old outputs said of a task's rows before it is learned is regressed on while it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.registry import Entry, Option, register

DIVIDE, LABELS, TARGETS = ("none", "deviation", "variance"), ("new", "combined"), ("softmax", "regression")
BLOCK = 256  # rows that go through the network at once, at a boundary


class Recalled(NamedTuple):
  """What is kept from the end of one task to the end of the next."""

  teacher: Teacher  # the network before the current task
  variance: Any  # [C] of its outputs over the current task's rows; ones between tasks


def variance_of(outputs, weight):
  """``[C]``: the variance of ``outputs [N, C]`` over the rows of positive weight, divided by their number; 1 where it
  is 0."""
  there = (weight > 0).astype(outputs.dtype)[:, None]
  count = jnp.maximum(there.sum(), 1)
  mean = jnp.sum(there * outputs, axis=0) / count
  found = jnp.sum(there * jnp.square(outputs - mean[None]), axis=0) / count
  return jnp.where(found > 0, found, 1)


def recall_gap(now, before, old, scale):
  """``[B]``: the mean over the classes ``old [C]`` of ``((now - before) / scale [C])^2``; 0 without one."""
  squares = jnp.square((now - before) / scale[None])
  return jnp.sum(jnp.where(old[None], squares, 0), axis=-1) / jnp.maximum(jnp.sum(old, dtype=squares.dtype), 1)


def recall_logits(
  model, spec: Spec, *, strength, divide: str = "none", labels: str = "new", target: str = "softmax"
) -> Method:
  """RECALL: ``strength mean_(rows, old classes) (f - f_old)^2 + CE(f; new classes alone)``.

  ``f_old`` is the network before the task, in eval mode, asked for the task's own rows; old classes are those met
  before that the task has not, new ones its own; so nothing of earlier rows is stored, and outputs of old classes are
  moved by the first term alone. Answers are all outputs. ``divide``: the gap of class c is divided by the 'deviation'
  of ``f_old`` over the task's rows, or, as the released code does where it means that, by its 'variance' before it is
  squared. ``labels`` 'combined' adds the loss over the classes that the stream lets compete. ``target`` 'regression':
  all outputs are clipped to [0, 1], and the losses of labels are mean squares to 0 and 1 in place of CE.

  Deviations: any network in the place of a frozen ResNet-50 with a head ``V sin(w U x)`` for each task; ``f_old`` is
  asked in each step (the same numbers, but for augmented rows, whose recorded ones would be of other views); a class
  without variance is divided by 1; answers are not clipped, which would make ties. The variances are gone when the task
  ends, so that requests find nothing of rows. The registry has an evaluator called recall, hence the name. Spec 7.5;
  Knauer et al., 2022.
  """
  classes, of_task = spec.num_classes, jnp.asarray(spec.classes_of_task)
  shown = (lambda z: jnp.clip(z, 0, 1)) if target == "regression" else (lambda z: z)

  def said(teacher, x, task, key):
    told = {"task": model.task_for(task), "mask": None}
    out, _ = model.apply(teacher.params, teacher.model_state, x, train=False, key=key, **told)
    return shown(out.logits.astype(jnp.float32))

  def old_and_new(visit):
    new = of_task[visit.task]
    return (of_task & visit.met[:, None]).any(0) & ~new, new

  def among(batch, new):
    """``[B, C]``: the new classes; all for rows of old ones, which another method put there."""
    return new[None] | ~new[batch.y][:, None]

  def given_to(batch):
    """``[B, C]``: the classes that compete, also of rows that a method behind this one put behind its rows."""
    own = batch.extra["given"]
    more = jnp.ones((batch.weight.shape[0] - own.shape[0], classes), bool)
    return jnp.concatenate([own, more if batch.class_mask is None else batch.class_mask[own.shape[0] :]])

  def init(key, learner):
    del key
    teacher = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    return Recalled(teacher, jnp.ones(classes, jnp.float32))

  def start_task(key, learner, task):
    if divide == "none":
      return learner
    state, size = learner.method_state, min(BLOCK, task.rows.capacity)

    def block(start):
      rows = task.rows.batch(start, size)
      return said(state.teacher, rows.x, rows.task, key), rows.weight

    outputs, weight = jax.lax.map(block, jnp.arange(0, task.rows.capacity, size, dtype=jnp.int32))
    found = variance_of(outputs.reshape(-1, classes), weight.reshape(-1))
    return learner._replace(method_state=state._replace(variance=found))

  def prepare(key, learner, batch):
    del key
    new = old_and_new(batch.visit)[1]
    given = jnp.ones((*batch.weight.shape, classes), bool) if batch.class_mask is None else batch.class_mask
    extra = {**batch.extra, "given": given}
    if target == "regression":  # the terms are the whole loss
      group, scale = jnp.zeros(batch.weight.shape, jnp.int32), jnp.zeros(1, jnp.float32)
      return learner, batch._replace(group=group, scale=scale, extra=extra)
    return learner, batch._replace(class_mask=given & among(batch, new), extra=extra)

  def of_labels(z, batch, inside):
    """``[B]``: the loss of labels over the outputs ``inside [B, C]``."""
    if target == "softmax":
      return losses.cross_entropy(z, batch.y, inside)
    wanted = (batch.y[:, None] == jnp.arange(classes, dtype=batch.y.dtype)[None]).astype(z.dtype)
    squares = jnp.where(inside, jnp.square(shown(z) - wanted), 0)
    return jnp.sum(squares, axis=-1) / jnp.maximum(jnp.sum(inside, axis=-1, dtype=z.dtype), 1)

  def recalled(key, params, learner, batch, outputs):
    del params
    state = learner.method_state
    old, _ = old_and_new(batch.visit)
    before = said(state.teacher, batch.x, batch.task, key)
    scale = {"none": jnp.ones_like(state.variance), "deviation": jnp.sqrt(state.variance), "variance": state.variance}
    gap = recall_gap(shown(outputs.logits.astype(jnp.float32)), before, old, scale[divide])
    return strength * losses.reduce(gap, batch.weight)

  def labelled(key, params, learner, batch, outputs):
    del key, params, learner
    z, given = outputs.logits.astype(jnp.float32), given_to(batch)
    new = old_and_new(batch.visit)[1]
    total = of_labels(z, batch, given) if labels == "combined" else jnp.zeros_like(batch.weight)
    if target == "regression":
      total += of_labels(z, batch, given & among(batch, new))
    return losses.reduce(total, batch.weight)

  def end_task(key, learner, task):
    del task
    return learner._replace(method_state=init(key, learner))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.teacher.params, before, learner.params)
    return learner._replace(method_state=state._replace(teacher=state.teacher._replace(params=followed)))

  plain = labels == "new" and target == "softmax"
  return Method(
    init=init,
    start_task=start_task,
    prepare=prepare,
    terms={"recalled": recalled} if plain else {"recalled": recalled, "labels": labelled},
    end_task=end_task,
    after_forget=after_forget,
  )


register(
  "recall_logits",
  Entry(
    recall_logits,
    {
      "strength": Option(1.0, 0),
      "divide": Option(DIVIDE[0], choices=DIVIDE),
      "labels": Option(LABELS[0], choices=LABELS),
      "target": Option(TARGETS[0], choices=TARGETS),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Knauer et al. 2022",
  ),
)
