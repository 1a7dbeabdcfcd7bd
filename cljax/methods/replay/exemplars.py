"""What methods of exemplar sets share: lists filled by herding when a task ends, a teacher, the union of new rows and
exemplars in a step, and the mean of each class's exemplars under the network of now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax import memory as memories
from cljax.core import tree
from cljax.core.types import Spec, UsageError
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.replay.buffers import append, drawn, example_row, grouped

BLOCK = 256  # rows that go through the network at once, at a boundary


class Taught(NamedTuple):
  """The state of methods that have exemplars and a teacher."""

  memory: Any  # exemplars, rows as they were read
  teacher: Teacher  # the model at the end of the last task
  rows: Any  # float32: how many rows the current task has


def number_of_lists(spec: Spec) -> int:
  """Each class of each task has a list: so where tasks share classes a task has exemplars of its own."""
  return int(np.asarray(spec.classes_of_task).sum())


def list_of(spec: Spec, rows, there):
  """``[N]`` int32: the list of rows with labels and tasks; that of none where they are not there."""
  return jnp.where(there, rows.task * spec.num_classes + rows.y, spec.num_tasks * spec.num_classes)


def make_exemplars(spec: Spec, capacity: int, rounding: str = "floor") -> memories.Exemplars:
  return memories.exemplars(capacity, spec.num_tasks * spec.num_classes, rounding, number_of_lists(spec))


def teacher_of(learner) -> Teacher:
  return Teacher(tree.copy(learner.params), tree.copy(learner.model_state))


def hooks(spec: Spec, memory: memories.Exemplars) -> dict[str, Any]:
  """``init``, ``start_task``, ``scrub`` and ``after_forget`` of a method whose state is :class:`Taught`."""

  def init(key, learner):
    del key
    return Taught(memory.init(example_row(spec)), teacher_of(learner), jnp.float32(0))

  def start_task(key, learner, task):
    del key
    return learner._replace(method_state=learner.method_state._replace(rows=task.count.astype(jnp.float32)))

  def scrub(learner, request):
    state = learner.method_state
    kept = memory.remove(state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=state._replace(memory=kept))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.teacher.params, before, learner.params)
    return learner._replace(method_state=state._replace(teacher=state.teacher._replace(params=followed)))

  return {"init": init, "start_task": start_task, "scrub": scrub, "after_forget": after_forget}


def task_ended(model, spec: Spec, memory: memories.Exemplars, learner, task, repeats: bool = False, among=None):
  """The learner with new lists, and itself as the teacher. Arguments as in :func:`refill`."""
  state = learner.method_state
  kept = refill(model, spec, memory, state.memory, learner, task, repeats, among)
  return learner._replace(method_state=state._replace(memory=kept, teacher=teacher_of(learner)))


def said_by_teacher(model, learner, batch, key):
  """The teacher's Outputs on the rows of a step, in eval mode."""
  teacher, told = learner.method_state.teacher, {"task": model.task_for(batch.task), "mask": None}
  return model.apply(teacher.params, teacher.model_state, batch.x, train=False, key=key, **told)[0]


def taught(model, learner, batch, key):
  """``[B, C]`` float32: the teacher's outputs on the rows of a step, in eval mode."""
  return said_by_teacher(model, learner, batch, key).logits.astype(jnp.float32)


def old_and_new(spec: Spec, visit):
  """``(old [C], new [C])`` bool: classes met before that the current task has not, and its own; so a task that comes
  back, or whose classes are everybody's, has no old ones among these."""
  of_task = jnp.asarray(spec.classes_of_task)
  new = of_task[visit.task]
  return (of_task & visit.met[:, None]).any(0) & ~new, new


def features_of(model, learner, x, task):
  """``[B, D]`` float32, of norm 1: what the network says of rows before its last layer, in eval mode."""
  told = {"task": model.task_for(task), "mask": None}
  out, _ = model.apply(learner.params, learner.model_state, x, train=False, key=learner.key, **told)
  if out.features is None:
    raise UsageError("method.name: exemplar sets need a model that returns features (Outputs.features is None)")
  f = out.features.reshape(out.features.shape[0], -1).astype(jnp.float32)
  return f / jnp.maximum(jnp.linalg.norm(f, axis=-1, keepdims=True), 1e-12)


def in_blocks(fn: Callable, size: int):
  """``[size, ...]``: ``fn(start, block)`` of blocks of rows, one after the other."""
  block = min(BLOCK, size)
  starts = jnp.arange(0, size, block, dtype=jnp.int32)
  made = jax.lax.map(lambda start: fn(start, block), starts)
  return made.reshape(-1, *made.shape[2:])[:size]


def refill(model, spec: Spec, memory: memories.Exemplars, state, learner, task, repeats: bool = False, among=None):
  """The lists when ``task`` ends: those of its classes made anew by herding on normalised features, all cut to the
  quota. ``among(rows) -> [N]`` bool, where there is one: the rows that may be in them."""
  here = lambda start, block: task.rows.batch(start, block)
  features = in_blocks(lambda *at: features_of(model, learner, here(*at).x, here(*at).task), task.rows.capacity)
  rows = task.rows.as_read().batch(0, task.rows.capacity)
  there = (rows.weight > 0) & (True if among is None else among(rows))
  group = list_of(spec, rows, there)
  label = jnp.where(there, rows.y, spec.num_classes)
  rank = memories.herding(features, label, spec.num_classes, memory.quota(state, group, there), repeats)
  return memory.add(state, stored_rows(rows), group, rank, there)


def drawn_ranks(key, group):
  """``[N]`` int32: the places of the rows in a random order of those of their list ``group [N]``."""
  bits = jax.random.bits(key, group.shape, jnp.uint32)
  order, i = jnp.lexsort((bits, group)), jnp.arange(group.shape[0], dtype=jnp.int32)
  begins = jnp.append(True, group[order][1:] != group[order][:-1])
  return jnp.zeros_like(i).at[order].set(i - jax.lax.cummax(jnp.where(begins, i, 0)))


def of_stored(spec: Spec, rows, fn: Callable):
  """``[slots, ...]``: ``fn(x, task)`` of all slots of a memory, by blocks; x as the rows' tasks show it."""

  def one(start, block):
    part = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, block), rows)
    return fn(spec.view(part["x"], part["task"]), part["task"])

  size = rows["y"].shape[0]
  block = min(BLOCK, size)
  padded = -(-size // block) * block - size
  rows = jax.tree.map(lambda a: jnp.pad(a, ((0, padded), *((0, 0),) * (a.ndim - 1))), rows)
  return in_blocks(one, size)


def stored_rows(rows):
  """Rows as a memory stores them."""
  return {"x": rows.x, "y": rows.y, "id": rows.id, "task": rows.task}


def union(key, spec: Spec, memory: memories.Exemplars, state, batch, rows: Any, size: int):
  """The batch with ``size`` exemplars behind it, in two groups whose scales ``N / (N + E)`` and ``E / (N + E)`` make
  the mean over the step an unbiased one over the task's N rows (``rows``) and all E exemplars."""
  some, weight = memory.sample(key, state, size)
  share = state.count.astype(jnp.float32)
  share = share / jnp.maximum(share + rows, 1.0)
  batch = append(grouped(batch), drawn(spec, some, weight, batch.visit), scale=share)
  return batch._replace(scale=batch.scale.at[0].set(batch.scale[0] * (1 - share)))


def shares(batch):
  """``[B]``: what each row's loss is multiplied with in the loss of a batch that has groups."""
  of = jnp.arange(batch.scale.shape[0])[:, None] == batch.group[None]
  total = jnp.where(of, batch.weight[None], 0.0).sum(1)
  return batch.weight * (batch.scale / jnp.where(total > 0, total, 1.0))[batch.group]


def mean_of_exemplars(model, spec: Spec, memory: memories.Exemplars, state, learner, flip: bool = False):
  """``(means [C, D], counts [C])``: of each class, the normalised mean of its exemplars' normalised features under the
  network of now. ``flip``: half of it of the pictures mirrored, as iCaRL's released code."""
  rows, weight = memory.contents(state)

  def features(x, task):
    plain = features_of(model, learner, x, task)
    return (plain + features_of(model, learner, jnp.flip(x, -2), task)) / 2 if flip else plain

  f = jnp.where((weight > 0)[:, None], of_stored(spec, rows, features), 0.0)
  of = jax.nn.one_hot(rows["y"], spec.num_classes, dtype=jnp.float32) * weight[:, None]
  counts = of.sum(0)
  means = of.T @ f / jnp.maximum(counts, 1.0)[:, None]
  return means / jnp.maximum(jnp.linalg.norm(means, axis=-1, keepdims=True), 1e-12), counts


def nearest_mean(key, model, spec: Spec, memory, state, learner, x, task, flip: bool = False):
  """``[B, C]``: ``-|f(x) - mu_c|^2`` by :func:`mean_of_exemplars`, -inf for classes without stored rows; the model's
  own logits while none is stored."""
  told = {"task": model.task_for(task), "mask": None}
  plain = model.apply(learner.params, learner.model_state, x, train=False, key=key, **told)[0].logits
  means, counts = mean_of_exemplars(model, spec, memory, state, learner, flip)
  f = features_of(model, learner, x, task)
  distance = jnp.sum(jnp.square(f[:, None] - means[None]), axis=-1)
  nearest = jnp.where((counts > 0)[None], -distance, -jnp.inf)
  return jnp.where((counts > 0).any(), nearest, plain.astype(nearest.dtype))
