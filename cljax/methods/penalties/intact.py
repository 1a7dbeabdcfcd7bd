"""InTAct: what layers make of the activations of earlier tasks is held, within boxes of these."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.methods import heads, intervals
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.intervals import Box
from cljax.methods.registry import Entry, Option, register

CLASSIFIERS = ("auto", "held", "free")
BLOCK = 256  # rows that go through the network at once, at a boundary


class IntactState(NamedTuple):
  teacher: Teacher  # the model at the end of the last task
  boxes: Any  # {layer path: Box} of its inputs, around those of all tasks met
  begun: Any  # bool: whether a task has ended


def protected(model, spec: Spec) -> dict[str, tuple[int, bool]]:
  """``{path: (inputs, whether it gives the logits)}`` of dense layers ``[B, D] -> [B, E]`` behind another layer, in
  their order. UsageError for a model without captured layers, and for one that has none such."""
  if model.capture is None:
    raise UsageError("method.name: 'intact' needs a model whose layers are captured (Model.capture is None)")
  calls, names = heads.captured(model, spec)[1], heads.classifier(model, spec)
  found = {}
  for place, call in enumerate(calls):
    x, leaves = call.input, call.spec.leaves
    dense = place > 0 and call.spec.unfold is not None and call.spec.calls == 1 and x is not None and x.ndim == 2
    if dense and call.params["kernel"].ndim == 2:
      found[leaves["kernel"].rpartition("/")[0]] = (x.shape[-1], leaves["kernel"] in names)
  if not found:
    raise UsageError("method.name: 'intact' needs a model with a dense layer behind another layer")
  return found


def spread(a, there):
  """The mean over columns of the variance over the rows of ``a [B, D]`` that are ``there``; 0 where none is."""
  count = jnp.maximum(jnp.sum(there, dtype=jnp.float32), 1.0)
  a = jnp.where(there[:, None], a, 0.0)
  gap = jnp.where(there[:, None], a - jnp.sum(a, axis=0, keepdims=True) / count, 0.0)
  return jnp.mean(jnp.sum(jnp.square(gap), axis=0) / count)


def drifted(change, box: Box):
  """``mean lower^2 + mean upper^2`` of what a change ``{"kernel", "bias"}`` of a layer makes of a box of its inputs."""
  made = intervals.affine(change["kernel"], change["bias"], box)
  return jnp.mean(jnp.square(made.low)) + jnp.mean(jnp.square(made.high))


def moved_inside(a, before, there, box: Box):
  """``sum m (before - a)^2 / sum m`` over rows that are there and numbers of ``a [B, D]`` that lie in the box (m); 0
  where none does."""
  inside = there[:, None] & (a >= box.low[None]) & (a <= box.high[None])
  gap = jnp.where(inside, before - a, 0.0)
  return jnp.sum(jnp.square(gap)) / jnp.maximum(jnp.sum(inside, dtype=jnp.float32), 1.0)


def misaligned(a, there, box: Box):
  """``|c - c_old| / mean radius_old`` over the numbers whose range over the rows does not meet the box; c: centres; 0
  where all do, and for a box of no width."""
  now = intervals.around(a, there)
  apart = there.any() & ((now.low > box.high) | (now.high < box.low))
  gap = jnp.where(apart, (now.low + now.high - box.low - box.high) / 2, 0.0)
  radius = jnp.mean(box.high - box.low) / 2
  return jnp.where(radius > 0, losses.safe_norm(gap) / jnp.where(radius > 0, radius, 1.0), 0.0)


def intact(
  model, spec: Spec, *, variance, drift, features, alignment, lower, upper, classifier: str = "auto"
) -> Method:
  """InTAct: ``loss + variance V + drift D + features F + alignment A``; D, F, A from the second task on.

  a_l ``[B, D_l]``: the inputs of a dense layer l behind another, of the current rows in eval mode; a box holds, number
  by number, what lies between the quantiles ``lower`` and ``upper`` of those of each earlier task, at its end. V: the
  sum over layers of the mean variance over rows. D: the sum over layers of :func:`drifted` by ``W - W_old`` and
  ``b - b_old``, an exact bound of what old activations give otherwise. F: of the first such layer, the mean squared gap
  to the old model's a within the box. A: the sum over layers of :func:`misaligned`. Old: at the end of the last task.
  ``classifier``: whether D counts the layer that gives the outputs; 'auto': where all tasks have the same classes (or
  there are none), for new classes could not be learned otherwise.

  Deviations: quantiles are over all rows of a task, which are passed over at its end, where the released code keeps its
  batches; layers that are not dense have no boxes; a box of no width aligns nothing, where the code divides by 1e-8. In
  the released commit D is never added. Boxes are statistics of rows: a request does not clear them (retraining does).
  Raises UsageError for a model without captured layers, or without such a layer. Spec 7.7; Krukowski et al., 2025.
  """
  layers = protected(model, spec)
  shared = not spec.objective.classes or bool((spec.classes_of_task == spec.classes_of_task[:1]).all())
  free = classifier == "free" or (classifier == "auto" and not shared)
  held = [path for path, (_, gives_logits) in layers.items() if not (gives_logits and free)]

  def seen(params, model_state, x, row_task):
    told = {"task": row_task} if model.by_task else {}
    calls = model.capture(params, model_state, x, None, **told)[1]
    wide = lambda a: a.astype(jnp.float32)
    return {path: (wide(calls[path].input), jax.tree.map(wide, calls[path].params)) for path in layers}

  def changed(now, then):
    """The change of a layer; of one without a bias its bias does not change."""
    gap = jax.tree.map(lambda a, b: a - b, now, then)
    return {"bias": jnp.zeros(gap["kernel"].shape[1], jnp.float32), **gap}

  def term(key, params, learner, batch, outputs):
    del key, outputs
    state, there = learner.method_state, batch.weight > 0
    now = seen(params, learner.model_state, batch.x, batch.task)
    then = seen(state.teacher.params, state.teacher.model_state, batch.x, batch.task)
    total, more = jnp.float32(0), jnp.float32(0)
    for path in layers:
      (a, mine), (_, theirs), box = now[path], then[path], state.boxes[path]
      total += variance * spread(a, there)
      more += alignment * misaligned(a, there, box)
      if path in held:
        more += drift * drifted(changed(mine, theirs), box)
    first = next(iter(layers))
    more += features * moved_inside(now[first][0], then[first][0], there, state.boxes[first])
    return total + jnp.where(state.begun, more, 0.0)

  def end_task(key, learner, task):
    del key
    state, size = learner.method_state, task.rows.capacity
    block = min(BLOCK, size)

    def one(start):
      rows = task.rows.batch(start, block)
      found = seen(learner.params, learner.model_state, rows.x, rows.task)
      return {path: a for path, (a, _) in found.items()}, rows.weight > 0

    made, there = jax.lax.map(one, jnp.arange(0, size, block, dtype=jnp.int32))
    there = there.reshape(-1)
    boxes = {}
    for path, a in made.items():
      a = a.reshape(-1, a.shape[-1])
      new = Box(*(intervals.quantile(a, there, share) for share in (lower, upper)))
      boxes[path] = jax.tree.map(
        lambda old, both: jnp.where(there.any(), both, old),
        state.boxes[path],
        intervals.joined(state.boxes[path], new, state.begun),
      )
    teacher = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    return learner._replace(method_state=IntactState(teacher, boxes, state.begun | there.any()))

  def init(key, learner):
    del key
    boxes = {path: Box(*jnp.zeros((2, width), jnp.float32)) for path, (width, _) in layers.items()}
    teacher = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    return IntactState(teacher, boxes, jnp.asarray(False))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.teacher.params, before, learner.params)
    return learner._replace(method_state=state._replace(teacher=state.teacher._replace(params=followed)))

  return Method(init=init, terms={"intact": term}, end_task=end_task, after_forget=after_forget)


register(
  "intact",
  Entry(
    intact,
    {
      "variance": Option(0.01, 0),
      "drift": Option(1.0, 0),
      "features": Option(1.0, 0),
      "alignment": Option(1.0, 0),
      "lower": Option(0.05, 0, 0.5),
      "upper": Option(0.95, 0.5, 1),
      "classifier": Option(CLASSIFIERS[0], choices=CLASSIFIERS),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("plain_inputs",)),
    "Krukowski et al. 2025",
  ),
)
