"""iCaRL: herded exemplars, sigmoid outputs that are distilled, and the nearest mean of exemplars as the answer."""

from __future__ import annotations

import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.distillation.lwf_mc import held_sigmoids
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets

FORMS, ANSWERS = ("paper", "released"), ("nearest_mean", "outputs")


def icarl(
  model, spec: Spec, *, capacity: int, replay_batch: int = 0, form: str = "paper", distillation: bool = True,
  classify: str = "nearest_mean",
) -> Method:  # fmt: skip
  """iCaRL: ``mean over rows and outputs of BCE(f(x), t)``, t the teacher's sigmoids at old classes, labels at others.

  Rows are the task's and the exemplars, each with its share of their union: a step takes ``replay_batch`` exemplars (0:
  as many as rows), and the two means weigh ``N / (N + E)`` and ``E / (N + E)``. Old classes are those met before that
  the current task has not, so that a task which comes back, or whose classes are everybody's, is learned from labels.
  Outputs are those of classes met so far, among those that the stream lets compete. When a task ends its lists are made
  by herding and all are cut to ``M // K``, K the lists there are: one for each class of each task. ``classify``
  'nearest_mean': ``-|f(x) - mu_c|^2`` of normalised features, mu_c the normalised mean of the exemplars of class c
  under the network of now, made anew at each call (E more rows); the model's outputs while there are none, or with
  'outputs' (the paper's hybrid 1). ``distillation`` False: labels everywhere (its hybrid 2).

  ``form`` 'released': all outputs take part, unseen ones too; lists of ``ceil(M / K)``, herding that may repeat a row
  in its sum (and ends further from the mean), means over pictures and mirrored ones. Deviations: steps pass over the
  task's rows alone and exemplars come beside them, where the paper shuffles the union; re-implementations with softmax
  are other methods. A request's rows leave the lists, which are not refilled; means know nothing of them at once.
  Raises UsageError for a capacity below the number of lists, for 'released' without pictures ``[H, W, C]``, and for a
  model without features. Spec A1; Rebuffi et al., 2017.
  """
  released = form == "released"
  if released and len(spec.shown.shape if hasattr(spec.shown, "shape") else ()) != 3:
    raise UsageError("method.form: got 'released', which mirrors pictures; expected inputs [H, W, C], or form='paper'")
  memory = sets.make_exemplars(spec, capacity, "ceil" if released else "floor")
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
    old, said = sets.old_and_new(spec, visit)[0], sets.taught(model, learner, batch, key)[own] if distillation else None
    seen = jnp.ones(spec.num_classes, bool) if released else (of_task & visit.seen[:, None]).any(0)
    inside = jnp.broadcast_to(seen, outputs.logits[own].shape)
    inside = inside if batch.class_mask is None else inside & batch.class_mask[own]
    each = held_sigmoids(outputs.logits[own], batch.y[own], said, old, inside)
    return jnp.sum(share * jnp.where(share != 0, each, 0.0))

  def end_task(key, learner, task):
    del key
    return sets.task_ended(model, spec, memory, learner, task, repeats=released)

  def predict(key, learner, x, task):
    if classify == "outputs":
      told = {"task": model.task_for(task), "mask": None}
      return model.apply(learner.params, learner.model_state, x, train=False, key=key, **told)[0].logits
    state = learner.method_state
    return sets.nearest_mean(key, model, spec, memory, state.memory, learner, x, task, flip=released)

  return Method(prepare=prepare, terms={"icarl": term}, end_task=end_task, predict=predict, **sets.hooks(spec, memory))


register(
  "icarl",
  Entry(
    icarl,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "form": Option("paper", choices=FORMS),
      "distillation": Option(True),
      "classify": Option("nearest_mean", choices=ANSWERS),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Rebuffi et al. 2017",
  ),
)
