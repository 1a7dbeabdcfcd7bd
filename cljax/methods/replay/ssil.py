"""SS-IL: new rows compete among new classes, stored ones among old classes, and each old task's outputs are held."""

from __future__ import annotations

import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay.buffers import append, drawn
from cljax.methods.replay.eeil import by_head

SOFTMAX = ("separated", "joint")
HELD = ("by_task", "together")


def own_side(y, old, new, given):
  """``[B, C]`` bool: of ``given [B, C]`` the classes on the side of a row's label: new ones, or old ones."""
  return given & jnp.where(new[y][:, None], new[None], old[None])


def ssil(
  model, spec: Spec, *, strength, temperature, capacity: int, replay_batch: int = 0, softmax: str = "separated",
  held: str = "by_task",
) -> Method:  # fmt: skip
  """SS-IL: ``mean over rows of [CE(f; the row's own side) + strength T^2 sum_(old tasks) KL(teacher || f)]``.

  Rows are the current and the stored ones of a step. A row's own side are the classes of its task where its label is
  one of these, else the old ones, met before that the task has not: so no step pushes outputs of old classes down for
  the many new rows. KL is of softmaxes over T within the classes of each task met before, of all rows of the step,
  against the network at the end of the last task (task-wise distillation). All rows of a step weigh alike, so that
  ``replay_batch`` (the paper's is a quarter of the batch; 0: as many) sets the ratio of the sides, whatever the number
  of stored rows. Answers are all outputs. ``softmax`` 'joint' and ``held`` 'together' (one KL over all old classes) are
  its ablations. Without old classes this is CE over the task's classes.

  When a task ends its lists are drawn uniformly, and all are cut to ``M // K`` rows for each class of each task; the
  released code takes the first rows of each class and may keep one more of some. A request's rows leave the lists.
  Raises UsageError for a capacity below the number of lists. Spec A17 (separated softmax); Ahn et al., 2021, from its
  released code: ``strength`` is 1 there; UNVERIFIED for the paper.
  """
  memory, of_task = sets.make_exemplars(spec, capacity), jnp.asarray(spec.classes_of_task)
  size = min(replay_batch or spec.batch_size, capacity)

  def prepare(key, learner, batch):
    rows, weight = memory.sample(fold(key, "exemplars"), learner.method_state.memory, size)
    batch = append(batch, drawn(spec, rows, weight, batch.visit))
    if softmax == "separated":
      old, new = sets.old_and_new(spec, batch.visit)
      given = jnp.ones((*batch.weight.shape, spec.num_classes), bool) if batch.class_mask is None else batch.class_mask
      batch = batch._replace(class_mask=own_side(batch.y, old, new, given))
    return learner, batch

  def term(key, params, learner, batch, outputs):
    del params
    old, new = sets.old_and_new(spec, batch.visit)
    tasks = of_task & batch.visit.met[:, None] & ~new[None] if held == "by_task" else old[None]
    said = sets.taught(model, learner, batch, key)
    each = temperature**2 * by_head(outputs.logits, said, temperature, tasks)
    return strength * losses.reduce(each, batch.weight)

  def end_task(key, learner, task):
    state = learner.method_state
    rows = task.rows.as_read().batch(0, task.rows.capacity)
    there = rows.weight > 0
    group = sets.list_of(spec, rows, there)
    ranks = sets.drawn_ranks(fold(key, "rows"), group)
    filled = memory.add(state.memory, sets.stored_rows(rows), group, ranks, there)
    return learner._replace(method_state=state._replace(memory=filled, teacher=sets.teacher_of(learner)))

  return Method(prepare=prepare, terms={"held": term}, end_task=end_task, **sets.hooks(spec, memory))


register(
  "ssil",
  Entry(
    ssil,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "strength": Option(1.0, 0),
      "temperature": Option(2.0, 1e-6),
      "softmax": Option(SOFTMAX[0], choices=SOFTMAX),
      "held": Option(HELD[0], choices=HELD),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Ahn et al. 2021",
  ),
)
