"""Co2L: current rows are contrasted with all rows of a step, and how rows relate to one another is held."""

from __future__ import annotations

import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods import views
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay import linear_head
from cljax.methods.replay.buffers import append, drawn
from cljax.models import heads
from cljax.objectives.rows import of_terms_alone

AVERAGES = ("anchors", "rows")


def similarities(first, second):
  """``[2B, 2B]``: of all views of a step, of norm 1, one with another."""
  z = jnp.concatenate([first, second])
  return z @ z.T


def instances_held(now, then, weight, temperature, past_temperature):
  """``mean_i KL(softmax_j(then_ij / past_temperature) || softmax_j(now_ij / temperature))`` over the rows, j the other
  rows; similarities ``[N, N]``, weight ``[N]``, rows of weight 0 are not there. No gradient to ``then``."""
  others = (weight > 0)[None] & ~jnp.eye(weight.shape[0], dtype=bool)
  return losses.reduce(losses.distillation(now / temperature, then / past_temperature, 1.0, others), weight)


def co2l(
  model, spec: Spec, *, temperature, distillation, relation_temperature, past_temperature, rate, least_area, jitter,
  grey, capacity: int, replay_batch: int = 0, flip: bool = True, width: int = 128, passes: int = 100,
  head_batch: int = 256,   average: str = "anchors",
) -> Method:  # fmt: skip
  """Co2L: ``mean over current rows of SupCon(z; all rows) + lam mean_i KL(old relations of i || relations of i)``.

  Rows are the current and stored ones, each in two views: as the run shows it, and one of
  :func:`cljax.methods.views.shown_again`. z are their features through a network of two layers to ``width`` numbers of
  norm 1, which is of training alone. Stored rows are positives and negatives of current ones, never anchors. The second
  term begins with the second task: the relations of a view are the softmax of its products with all other views, over
  ``relation_temperature``; those of the model at the end of the last task, on the same views in eval mode, over
  ``past_temperature``, which is lower: they are sharper. lam is ``distillation``.

  When a task ends a linear classifier of C outputs is made anew on the features, which stand still: ``passes`` over the
  task's rows and the stored ones by :func:`cljax.methods.replay.linear_head.fitted`, classes alike, in batches
  of ``head_batch``, at ``rate``; it is what answers, so that until the first task ends all outputs are 0. Then rows of
  the task are stored: lists drawn uniformly, ``M // K`` rows for each class of each task.

  ``average`` 'rows': the first term over the number of all rows, as the released code has it, so that it falls with the
  share of stored ones. Deviations: the teacher's entropy is subtracted; the first term is not multiplied by
  ``temperature / 0.07``, as in the released code; the first view is augmented where the run augments; the classifier
  sees rows without augmentation; stored rows come beside the task's, not shuffled in. Requests clear stored rows; the
  classifier is among the parameters. Raises UsageError for inputs that are no pictures ``[H, W, C]``, a capacity below
  the number of lists, and a model without features. Spec A15; Cha et al., 2021.
  """
  views.refuse_other_inputs(spec, "co2l")
  network = heads.with_projection(heads.linear_classifier(model, spec, "co2l"), spec, "co2l", width)
  memory, size = sets.make_exemplars(spec, capacity), min(replay_batch or spec.batch_size, capacity)

  def prepare(key, learner, batch):
    rows, weight = memory.sample(fold(key, "sample"), learner.method_state.memory, size)
    return learner, of_terms_alone(append(batch, drawn(spec, rows, weight, batch.visit)))

  def term(key, params, learner, batch, outputs):
    x = views.shown_again(key, spec, batch.x, least_area, jitter, grey, flip)
    again = views.outputs_again(key, network, params, learner.model_state, batch, x)
    first, second = (heads.projected(params["projection"], o.features) for o in (outputs, again))
    anchors = jnp.where(jnp.arange(batch.weight.shape[0]) < spec.batch_size, batch.weight, 0.0)
    loss = losses.reduce(losses.supcon(first, second, batch.y, batch.weight, temperature), anchors)
    if average == "rows":
      loss *= jnp.sum(anchors) / jnp.maximum(jnp.sum(batch.weight), 1.0)
    teacher = learner.method_state.teacher
    said = [sets.said_by_teacher(network, learner, batch._replace(x=v), key).features for v in (batch.x, x)]
    one, other = (heads.projected(teacher.params["projection"], f) for f in said)
    now, then, weight = similarities(first, second), similarities(one, other), jnp.tile(batch.weight, 2)
    held = instances_held(now, then, weight, relation_temperature, past_temperature)
    return loss + jnp.where(batch.visit.others > 0, distillation * held, 0.0)

  def end_task(key, learner, task):
    state = learner.method_state

    def features(x, row_task):
      told = {"task": network.task_for(row_task), "mask": None}
      out, _ = network.apply(learner.params, learner.model_state, x, train=False, key=key, **told)
      return heads.flat(out.features)

    here = lambda start, block: task.rows.batch(start, block)
    kept, weight = memory.contents(state.memory)
    rows = task.rows.as_read().batch(0, task.rows.capacity)
    there = rows.weight > 0
    f = sets.in_blocks(lambda *at: features(here(*at).x, here(*at).task), task.rows.capacity)
    f = jnp.concatenate([f, sets.of_stored(spec, kept, features)])
    y, inside = jnp.concatenate([rows.y, kept["y"]]), jnp.concatenate([there, weight > 0])
    made = linear_head.fitted(
      fold(key, "head"), f, y, inside, spec.num_classes, passes=passes, rate=rate, size=head_batch
    )
    put = lambda name, w: made[name.rsplit("/")[-1]].astype(w.dtype) if name.startswith("network/linear/") else w
    learner = learner._replace(params=tree.map_named(put, learner.params))
    group = sets.list_of(spec, rows, there)
    filled = memory.add(state.memory, sets.stored_rows(rows), group, sets.drawn_ranks(fold(key, "rows"), group), there)
    return learner._replace(method_state=state._replace(memory=filled, teacher=sets.teacher_of(learner)))

  return Method(model=network, prepare=prepare, terms={"co2l": term}, end_task=end_task, **sets.hooks(spec, memory))


register(
  "co2l",
  Entry(
    co2l,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "temperature": Option(0.5, 1e-6),
      "distillation": Option(1.0, 0),
      "relation_temperature": Option(0.2, 1e-6),
      "past_temperature": Option(0.01, 1e-6),
      "passes": Option(100, 0),
      "rate": Option(1.0, 0),
      "head_batch": Option(256, 1),
      "average": Option(AVERAGES[0], choices=AVERAGES),
      **views.VIEW,
      "width": Option(128, 1),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Cha et al. 2021",
  ),
)
