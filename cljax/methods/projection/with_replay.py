"""Replay in the loss and projection in the update together (Hess et al., 2023)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import projectors
from cljax.core.method import Method, Reference
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods.projection.gradients import EPISODIC, ON_GRADIENT, by_references, episodic
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import append, drawn, grouped
from cljax.objectives.objective import mean_loss


def mixed(spec: Spec, ring, size: int, name: str):
  """``(prepare, replayed)``: the step on ``w L_current + (1 - w) L_replay``, and the same stored rows again.

  Both draw by a key of the step, so that the rows are the same and need not be kept between the two.
  """

  def replayed(learner):
    key = fold(jax.random.fold_in(learner.key, learner.step), name)
    return ring.sample(key, learner.method_state.memory, size)

  def prepare(key, learner, batch):
    del key
    rows, weight = replayed(learner)
    new = jnp.where(weight.sum() > 0, projectors.current_weight(batch.visit.others.astype(jnp.float32)), 1.0)
    batch = grouped(batch)
    batch = batch._replace(scale=new * batch.scale)
    return learner, append(batch, drawn(spec, rows, weight, batch.visit), scale=1 - new)

  return prepare, replayed


def evaluated_loss(model, spec: Spec):
  """The loss of a reference batch in eval mode, as a :class:`Reference`'s loss."""

  def loss(key, params, learner, batch):
    def apply(key, params, batch):
      told = {"task": model.task_for(batch.task), "mask": batch.weight}
      return model.apply(params, learner.model_state, batch.x, train=False, key=key, **told)

    return mean_loss(spec.objective, key, apply, params, batch)

  return loss


def er_agem(model, spec: Spec, *, capacity: int, replay_batch: int = 0, on: str = "gradient") -> Method:
  """ER + A-GEM: the gradient of ``w L_current + (1 - w) L_replay``, projected by A-GEM on that of ``L_replay``.

  ``L_replay`` is the mean over the same ``replay_batch`` stored rows in both (0: as many as in the batch), augmented
  anew. ``w = 1 / (t + 1)`` where t other tasks were met before. The memory holds ``capacity // num_tasks`` rows of each
  finished task, balanced by class. The reference gradient is taken in eval mode. The promise is on the gradient: under
  momentum, Adam or weight decay the step applied may still conflict, but not with ``on='update'``. Spec 4.8; Hess et
  al., 2023.
  """
  ring, init, end_task, scrub = episodic(spec, capacity)
  prepare, replayed = mixed(spec, ring, min(replay_batch or spec.batch_size, capacity), "er_agem")

  def batch(key, learner):
    del key
    rows, weight = replayed(learner)
    return drawn(spec, rows, weight)

  return Method(
    init=init,
    prepare=prepare,
    references={"replay": Reference(batch, evaluated_loss(model, spec))},
    end_task=end_task,
    scrub=scrub,
    **by_references(projectors.er_agem("replay"), on),
  )


def er_gem(
  model, spec: Spec, *, margin, ridge, capacity: int, replay_batch: int = 0, reference_batch: int = 0,
  on: str = "gradient",
) -> Method:  # fmt: skip
  """ER + GEM: the gradient of :func:`er_agem`'s loss, projected by GEM with one constraint for each finished task.

  Each constraint is the gradient on ``reference_batch`` rows (0: as many as in the batch, or all there are) of that
  task's portion, drawn anew at each step. BatchNorm's own parameters are projected with the rest; the released code
  leaves them out. What an optimizer does to the promise, and ``on='update'``, are as for ``gem``. Spec 4.8; Hess et
  al., 2023.
  """
  ring, init, end_task, scrub = episodic(spec, capacity)
  prepare, _ = mixed(spec, ring, min(replay_batch or spec.batch_size, capacity), "er_gem")
  share = capacity // spec.num_tasks
  if reference_batch > share:
    raise UsageError(f"method.reference_batch: got {reference_batch}; the memory holds {share} rows of each task")
  size = min(reference_batch or spec.batch_size, share)

  def batch(key, learner):
    stored, weight = ring.contents(learner.method_state.memory)
    place = jax.random.uniform(key, (spec.num_tasks, weight.shape[0] // spec.num_tasks), jnp.float32)
    at = jax.lax.top_k(place + weight.reshape(place.shape), size)[1]  # rows that exist come first
    at = at + jnp.arange(spec.num_tasks, dtype=at.dtype)[:, None] * place.shape[1]
    return jax.tree.map(lambda a: a[at], drawn(spec, stored, weight))

  return Method(
    init=init,
    prepare=prepare,
    references={"replay": Reference(batch, evaluated_loss(model, spec))},
    end_task=end_task,
    scrub=scrub,
    **by_references(projectors.er_gem("replay", margin, ridge), on, margin),
  )


SIZES = {"capacity": Option(200, 1), "replay_batch": Option(0, 0), **ON_GRADIENT}
register("er_agem", Entry(er_agem, SIZES, EPISODIC._replace(needs=()), "Hess et al. 2023"))
register(
  "er_gem",
  Entry(
    er_gem,
    {"margin": Option(0.5, 0), "ridge": Option(0.001, 0), **SIZES, "reference_batch": Option(0, 0)},
    EPISODIC._replace(needs=()),
    "Hess et al. 2023",
  ),
)
