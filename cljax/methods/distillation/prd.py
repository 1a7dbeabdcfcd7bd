"""PRD: a contrast of views learns the features, prototypes answer, and how these relate to rows is held."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods import views
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads
from cljax.objectives.rows import of_terms_alone

RELATIONS = ("rows", "classes")


class PrdState(NamedTuple):
  teacher: Teacher  # the model at the end of the last task, its prototypes among its parameters
  known: Any  # [C] bool: classes of tasks that were begun and were not forgotten: those that are answered


def apart(directions, features, y, weight):
  """``mean 1 - cos(f, p_y)`` over rows; no gradient goes to the features. directions ``[D, C]``, features ``[B, D]``;
  0 where no row has weight."""
  f = heads.unit(jax.lax.stop_gradient(features))
  own = heads.unit(directions, axis=0).T[y]
  return losses.reduce(1.0 - jnp.sum(f * own, axis=-1), weight)


def scores(directions, features):
  """``[B, C]``: ``<f, p / |p|>``, of features as they are."""
  return features @ heads.unit(directions, axis=0)


def relations_held(now, then, weight, of_task, temperature, relation: str):
  """``[T]``: of each task, KL from the relations of scores ``then`` to those of ``now``, both ``[N, C]``, over the
  temperature; 0 for a task without classes or without rows.

  'rows': each prototype's softmax over the rows of positive ``weight [N]``, the mean over the classes of the task,
  ``of_task [T, C]``; 'classes': each row's softmax over these, the weighted mean over rows. No gradient to ``then``.
  """
  now, then = now / temperature, then / temperature
  if relation == "rows":
    each = losses.distillation(now.T, then.T, 1.0, weight > 0)
    return jax.vmap(lambda mask: losses.reduce(each, mask.astype(jnp.float32)))(of_task)
  each = jax.vmap(lambda mask: losses.distillation(now, then, 1.0, mask))(of_task)
  return jax.vmap(lambda e: losses.reduce(e, weight))(each)


def prd(
  model, spec: Spec, *, temperature, distillation, prototypes, relation_temperature, least_area, jitter, grey,
  flip: bool = True, width: int = 128, relation: str = "rows",
) -> Method:  # fmt: skip
  """PRD: ``SupCon(z, z') + c_p mean (1 - cos(sg f, p_y)) + c_d sum_(old tasks) mean_k KL(q_k || s_k)``; no replay.

  Two views of each row: as the run shows it, and one of :func:`cljax.methods.views.shown_again`. z are their features
  f ``[B, D]`` through a network of two layers to ``width`` numbers of norm 1, which is of training alone; p ``[D, C]``
  are directions, one a class, of which the cosine with f answers, among classes of tasks that were begun. s_k is the
  softmax over the rows of the step, both views, of ``<f, p_k / |p_k|> / T``; q_k the same of the model at the end of
  the last task, in eval mode on the same views. Old tasks are those met before, but for the current one. Old prototypes
  move by the third term. ``relation`` 'rows' is the paper's; 'classes', the released code's: each row's softmax over
  the classes of an old task. c_p ``prototypes``, c_d ``distillation``, T ``relation_temperature``.

  Deviations: the teacher's entropy is subtracted, so that what agrees gives 0; the mean over a task's prototypes is
  UNVERIFIED; prototypes are trained by the run's optimizer; the first view is augmented where the run augments. A
  request clears the teacher's prototypes of classes that go whole, which are neither answered nor held from then on;
  the teacher's other numbers follow the edit. Raises UsageError for inputs that are no pictures ``[H, W, C]`` and for a
  model without features. Spec 7.3; Asadi et al., 2023.
  """
  views.refuse_other_inputs(spec, "prd")
  network = heads.with_projection(heads.cosine_classifier(model, spec, "prd"), spec, "prd", width)
  of_task = jnp.asarray(spec.classes_of_task)

  def directions(params):
    return params["network"]["cosine"]["directions"][:, :, 0]

  def teacher_of(learner):
    return Teacher(tree.copy(learner.params), tree.copy(learner.model_state))

  def start_task(key, learner, task):
    del key
    state = learner.method_state
    return learner._replace(method_state=state._replace(known=state.known | of_task[task.id]))

  def term(key, params, learner, batch, outputs):
    state, visit = learner.method_state, batch.visit
    x = views.shown_again(key, spec, batch.x, least_area, jitter, grey, flip)
    again = views.outputs_again(key, network, params, learner.model_state, batch, x)
    first, second = (heads.flat(o.features) for o in (outputs, again))
    z, other = (heads.projected(params["projection"], v) for v in (first, second))
    loss = losses.reduce(losses.supcon(z, other, batch.y, batch.weight, temperature), batch.weight)
    f, y, weight = jnp.concatenate([first, second]), jnp.tile(batch.y, 2), jnp.tile(batch.weight, 2)
    loss += prototypes * apart(directions(params), f, y, weight)
    told = {"task": model.task_for(batch.task), "mask": None}
    say = lambda x: network.apply(state.teacher.params, state.teacher.model_state, x, train=False, key=key, **told)[0]
    before = jnp.concatenate([heads.flat(say(v).features) for v in (batch.x, x)])
    now, then = scores(directions(params), f), scores(directions(state.teacher.params), before)
    each = relations_held(now, then, weight, of_task & state.known[None], relation_temperature, relation)
    old = visit.met & (jnp.arange(spec.num_tasks) != visit.task)
    return loss + distillation * jnp.sum(jnp.where(old, each, 0.0))

  def end_task(key, learner, task):
    del key, task
    return learner._replace(method_state=learner.method_state._replace(teacher=teacher_of(learner)))

  def predict(key, learner, x, task):
    told = {"task": model.task_for(task), "mask": None}
    said = network.apply(learner.params, learner.model_state, x, train=False, key=key, **told)[0].logits
    known = learner.method_state.known
    return jnp.where((known | ~known.any())[None], said, -jnp.inf)

  def scrub(learner, request):
    state, gone = learner.method_state, request.classes[None, :, None]
    clear = lambda name, w: jnp.where(gone, 0, w) if name.endswith("cosine/directions") else w
    teacher = state.teacher._replace(params=tree.map_named(clear, state.teacher.params))
    return learner._replace(method_state=PrdState(teacher, state.known & ~request.classes))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.teacher.params, before, learner.params)
    return learner._replace(method_state=state._replace(teacher=state.teacher._replace(params=followed)))

  return Method(
    model=network,
    init=lambda key, learner: PrdState(teacher_of(learner), jnp.zeros(spec.num_classes, bool)),
    start_task=start_task,
    prepare=lambda key, learner, batch: (learner, of_terms_alone(batch)),
    terms={"prd": term},
    end_task=end_task,
    predict=predict,
    scrub=scrub,
    after_forget=after_forget,
  )


register(
  "prd",
  Entry(
    prd,
    {
      "temperature": Option(0.1, 1e-6),
      "prototypes": Option(2.0, 0),
      "distillation": Option(4.0, 0),
      "relation_temperature": Option(1.0, 1e-6),
      "relation": Option(RELATIONS[0], choices=RELATIONS),
      **views.VIEW,
      "width": Option(128, 1),
    },
    Access(task_boundaries=True, needs=("classes", "plain_inputs")),
    "Asadi et al. 2023",
  ),
)
