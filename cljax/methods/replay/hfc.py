"""HFC: losses of labels and of the last network's answers, weighed by how far each task's rows are from being known."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.models import aggregation

LEAST, MOST_NEW, MOST_OLD, NEW = 0.5, 1.0, 1.2, 0.8  # of the released code


def share_of_rows(values, group, there, groups: int):
  """``[B]``: each row's value over the mean of those of its ``group [B]`` that are ``there [B]``; 1 where that is 0."""
  of = jax.nn.one_hot(group, groups, dtype=jnp.float32) * there[:, None]
  mean = (of.T @ jnp.where(there > 0, values, 0.0)) / jnp.maximum(of.sum(0), 1.0)
  own = mean[group]
  return jnp.where(own > 0, values / jnp.where(own > 0, own, 1.0), 1.0)


def compensation(logits, y, task, there, current, z, num_tasks: int, inside=None, compensate: bool = True):
  """``(w1 [B], w2 [B])``: the weights of a row's two losses, without a gradient.

  ``g = log(|softmax(o)_y - 1|^z + 1)``, r its ratio to the mean over the step's rows of the same task. Rows of the
  current task: ``w1 = (1 - z) clip(r, 0.5, 1)``, ``w2 = 0.8 z``; of others ``w1 = sqrt(1 - z) clip(r, 0.5, 1.2)``,
  ``w2 = z clip(r, 0.5, 1.2)``. z in [0, 1): the share of old classes. ``compensate`` False: r is 1.
  """
  known = jnp.exp(-losses.cross_entropy(jax.lax.stop_gradient(logits), y, inside))
  g = jnp.log(jnp.maximum(1.0 - known, 0.0) ** z + 1.0)
  ratio = share_of_rows(g, task, there, num_tasks) if compensate else jnp.ones_like(g)
  new = task == current
  old = jnp.clip(ratio, LEAST, MOST_OLD)
  w1 = jnp.where(new, (1.0 - z) * jnp.clip(ratio, LEAST, MOST_NEW), jnp.sqrt(1.0 - z) * old)
  return w1, jnp.where(new, NEW * z, z * old)


def of_classes(values, y, there, classes: int):
  """``[C, ...]``: the mean over the rows of each class that are there; 0 of a class without rows."""
  of = jax.nn.one_hot(y, classes, dtype=jnp.float32) * there[:, None]
  total = of.T @ jnp.where((there > 0).reshape(-1, *(1,) * (values.ndim - 1)), values, 0.0)
  return total / jnp.maximum(of.sum(0), 1.0).reshape(-1, *(1,) * (values.ndim - 1))


def hfc(
  model, spec: Spec, *, relation, capacity: int, replay_batch: int = 0, compensate: bool = True,
  aggregate: bool = False, heads: int = 4,
) -> Method:  # fmt: skip
  """HFC: ``mean w1 BCE(o, labels) + mean w2 BCE(o, T) + relation mean_c w2_c BCE(o_c, T_c)``.

  The weights w are those of :func:`compensation`. T are the last network's sigmoids at old classes and the labels at
  others; ``o_c``, ``T_c`` and ``w2_c`` are means over the step's rows of class c, the third mean is over classes that
  have rows in it. BCE is the mean over outputs of classes met so far, among those that the stream lets compete. The
  first two means are over the union of the task's rows and the exemplars, as for
  :func:`cljax.methods.replay.icarl.icarl`, whose lists these are. In the first task z is 0 and the loss plain BCE. Old
  classes are those met before that the current task has not. ``compensate`` False: weights are those of z alone.

  ``aggregate``: features are those of one learned token that attends to the places of the model's last hidden layer
  (:func:`cljax.models.aggregation.aggregated`, of ``heads`` heads), the paper's task-semantic aggregation, which as
  released is one block for all tasks; it is for models whose layers have places, such as cnn (a dense layer
  is one place).

  Deviations: any model in the place of the ViT with adapters; so aggregation is off by default, without the dropped
  paths, and at the rate of the rest (the released code has 5 times it for block and head). g is of the softmax though
  the losses are of sigmoids, as in the released code. A step without rows of a task leaves the others' weights as they
  are. Raises UsageError for a capacity below the number of lists and a model without features. A request's rows leave
  the lists, which are not refilled. Spec 7.6; Dong et al., 2023.
  """
  model = aggregation.aggregated(model, spec, "hfc", heads) if aggregate else model
  memory = sets.make_exemplars(spec, capacity)
  size, of_task = min(replay_batch or spec.batch_size, capacity), jnp.asarray(spec.classes_of_task)

  def prepare(key, learner, batch):
    state = learner.method_state
    batch = sets.union(fold(key, "exemplars"), spec, memory, state.memory, batch, state.rows, size)
    # The rows' shares are the term's; the objective's own loss is not asked.
    extra = {**batch.extra, "share": sets.shares(batch)}
    return learner, batch._replace(scale=jnp.zeros_like(batch.scale), extra=extra)

  def term(key, params, learner, batch, outputs):
    del params
    share, visit = batch.extra["share"], batch.visit
    own = slice(0, share.shape[0])
    y, o, task = batch.y[own], outputs.logits[own].astype(jnp.float32), batch.task[own]
    there = (batch.weight[own] > 0).astype(jnp.float32)
    old, new = sets.old_and_new(spec, visit)
    count = lambda which: jnp.sum(which, dtype=jnp.float32)
    z = count(old) / (count(old) + count(new))
    labels = jax.nn.one_hot(y, spec.num_classes, dtype=jnp.float32)
    targets = jnp.where(old[None], jax.nn.sigmoid(sets.taught(model, learner, batch, key)[own]), labels)
    inside = jnp.broadcast_to((of_task & visit.seen[:, None]).any(0), labels.shape)
    inside = inside if batch.class_mask is None else inside & batch.class_mask[own]
    w1, w2 = compensation(o, y, task, there, visit.task, z, spec.num_tasks, inside, compensate)
    bce = lambda o, t, within: (
      losses.binary_cross_entropy(o, t, within) / jnp.maximum(jnp.sum(within, -1, dtype=jnp.float32), 1.0)
    )
    each = w1 * bce(o, labels, inside) + w2 * bce(o, targets, inside)
    mean = lambda values: of_classes(values, y, there, spec.num_classes)
    some = mean(there) > 0
    by_class = mean(w2) * bce(mean(o), mean(targets), mean(inside.astype(jnp.float32)) > 0)
    related = jnp.sum(jnp.where(some, by_class, 0.0)) / jnp.maximum(jnp.sum(some, dtype=jnp.float32), 1.0)
    return jnp.sum(share * jnp.where(share != 0, each, 0.0)) + relation * related

  def end_task(key, learner, task):
    del key
    return sets.task_ended(model, spec, memory, learner, task)

  hooks = {"prepare": prepare, "terms": {"hfc": term}, "end_task": end_task, **sets.hooks(spec, memory)}
  return Method(**hooks, model=model if aggregate else None)


register(
  "hfc",
  Entry(
    hfc,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "relation": Option(0.5, 0),
      "compensate": Option(True),
      "aggregate": Option(False),
      "heads": Option(4, 1, needs={"aggregate": (True,)}),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Dong et al. 2023",
  ),
)
