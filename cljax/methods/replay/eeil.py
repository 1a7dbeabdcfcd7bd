"""EEIL: exemplars, a distillation for each old task's outputs, and balanced training when a task ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay import finetuning
from cljax.objectives.objective import reduced


def by_head(logits, said, temperature, heads):
  """``[B]``: the sum over ``heads [H, C]`` bool of ``KL(softmax(said/T) || softmax(logits/T))`` within each, no T^2; a
  head of no class gives 0."""
  each = jax.vmap(lambda mask: losses.distillation(logits, said, temperature, mask))(heads)
  return jnp.sum(each, axis=0) / temperature**2


def eeil(
  model, spec: Spec, *, strength, temperature, rate, capacity: int, replay_batch: int = 0, passes: int = 30
) -> Method:
  """EEIL: ``CE + strength sum_(old tasks) KL(teacher/T || f/T within the task's classes)``, then balanced training.

  No factor T^2. Both are means over the union of the task's rows and the exemplars, as for
  :func:`cljax.methods.replay.icarl.icarl`, whose lists these are; the classes of a task that the current one has too
  are not distilled. When a task ends that has old ones, the new lists are made and the whole network is trained
  ``passes`` times over them (balanced), at ``rate``, by the same loss; there the current task's classes are distilled
  too, from the network before that, so that they are not lost with the rows that are no exemplars. The teacher is what
  is left. ``passes=0`` leaves the balanced training out.

  Deviations: no gradient noise and no augmentation but the run's; the rate of the balanced training is constant, its
  batches as large as a step's and without augmentation. Raises UsageError for a capacity below the number of lists and
  a model without features. Spec B6; Castro et al., 2018.
  """
  memory, of_task = sets.make_exemplars(spec, capacity), jnp.asarray(spec.classes_of_task)
  size = min(replay_batch or spec.batch_size, capacity)

  def old_heads(visit):
    """``[T, C]``: the classes of each task met before that the current one has not."""
    return of_task & visit.met[:, None] & ~of_task[visit.task][None]

  def prepare(key, learner, batch):
    state = learner.method_state
    batch = sets.union(fold(key, "exemplars"), spec, memory, state.memory, batch, state.rows, size)
    return learner, batch._replace(extra={**batch.extra, "share": sets.shares(batch)})

  def term(key, params, learner, batch, outputs):
    del params
    share = batch.extra["share"]
    own = slice(0, share.shape[0])
    said = sets.taught(model, learner, batch, key)[own]
    each = by_head(outputs.logits[own], said, temperature, old_heads(batch.visit))
    return strength * jnp.sum(share * jnp.where(share != 0, each, 0.0))

  def end_task(key, learner, task):
    state, visit = learner.method_state, task.visit
    kept = sets.refill(model, spec, memory, state.memory, learner, task)
    before = sets.teacher_of(learner)
    heads = old_heads(visit)

    def loss(key, params, model_state, batch):
      told = {"task": model.task_for(batch.task), "mask": (batch.weight > 0).astype(jnp.float32)}
      apply = lambda key, params, batch: model.apply(params, model_state, batch.x, train=True, key=key, **told)
      each, inside, out, moved = spec.objective.loss(key, apply, params, batch)

      def said(teacher):
        found, _ = model.apply(teacher.params, teacher.model_state, batch.x, train=False, key=key, **told)
        return jax.lax.stop_gradient(found.logits.astype(jnp.float32))

      each_held = by_head(out.logits, said(state.teacher), temperature, heads)
      each_held += by_head(out.logits, said(before), temperature, of_task[visit.task][None])
      return reduced(each, inside, batch) + strength * losses.reduce(each_held, batch.weight), moved

    def trained(learner):
      return finetuning.on_stored(
        fold(key, "balanced"), learner, spec, memory, kept, visit, loss,
        passes=passes, rate=rate, trains=lambda name: True, size=spec.batch_size,
      )  # fmt: skip

    learner = jax.lax.cond(heads.any(), trained, lambda learner: learner, learner) if passes else learner
    return learner._replace(method_state=state._replace(memory=kept, teacher=sets.teacher_of(learner)))

  return Method(prepare=prepare, terms={"distillation": term}, end_task=end_task, **sets.hooks(spec, memory))


register(
  "eeil",
  Entry(
    eeil,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "strength": Option(1.0, 0),
      "temperature": Option(2.0, 1e-6),
      "passes": Option(30, 0),
      "rate": Option(0.001, 0),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Castro et al. 2018",
  ),
)
