"""Replay in the loss and projection in the update together (Hess et al., 2023)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses, projectors
from cljax.method import Method, Reference
from cljax.methods.projection import EPISODIC, episodic
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import append, drawn, example_row, share
from cljax.tree import fold
from cljax.types import Spec


def mixed(spec: Spec, ring, size: int, name: str):
  """``(prepare, replayed)``: the step on ``w L_current + (1 - w) L_replay``, and the same stored rows again.

  Both draw by a key of the step, so that the rows are the same and need not be kept between the two.
  """

  def replayed(learner):
    key = fold(jax.random.fold_in(learner.key, learner.step), name)
    return ring.sample(key, learner.method_state, size)

  def prepare(key, learner, batch):
    del key
    rows, weight = replayed(learner)
    new = jnp.where(weight.sum() > 0, projectors.current_weight(batch.visit.others), 1.0)
    own = share(batch.weight) if batch.coefficient is None else batch.coefficient
    batch = batch._replace(coefficient=new * own)
    return learner, append(batch, drawn(spec, rows, weight, batch.visit, (1 - new) * share(weight)))

  return prepare, replayed


def evaluated_loss(model):
  """The mean cross-entropy of a reference batch in eval mode, as a :class:`Reference`'s loss."""

  def loss(key, params, learner, batch):
    state, mask = learner.model_state, batch.weight
    outputs, _ = model.apply(params, state, batch.x, train=False, key=key, task=None, mask=mask)
    return losses.reduce(losses.cross_entropy(outputs.logits, batch.y, batch.class_mask), batch.weight)

  return loss


def er_agem(model, spec: Spec, *, capacity: int, replay_batch: int = 0) -> Method:
  """ER + A-GEM: the gradient of ``w L_current + (1 - w) L_replay``, projected by A-GEM on that of ``L_replay``.

  ``L_replay`` is the mean over the same ``replay_batch`` stored rows in both (0: as many as in the batch), augmented
  anew. ``w = 1 / (t + 1)`` in task t, counted from 0. The memory holds ``capacity // num_tasks`` rows of each finished
  task; the released code balances by class. The reference gradient is taken in eval mode. The projection acts on the
  raw gradient: under momentum or Adam the step applied may still conflict. Spec 4.8; Hess et al., 2023.
  """
  ring, end_task, scrub = episodic(spec, capacity)
  prepare, replayed = mixed(spec, ring, min(replay_batch or spec.batch_size, capacity), "er_agem")

  def batch(key, learner):
    del key
    rows, weight = replayed(learner)
    return drawn(spec, rows, weight)

  return Method(
    init=lambda key, learner: ring.init(example_row(spec)),
    prepare=prepare,
    references={"replay": Reference(batch, evaluated_loss(model))},
    transform=projectors.er_agem("replay"),
    end_task=end_task,
    scrub=scrub,
  )


def er_gem(
  model, spec: Spec, *, margin, ridge, capacity: int, replay_batch: int = 0, reference_batch: int = 0
) -> Method:
  """ER + GEM: the gradient of :func:`er_agem`'s loss, projected by GEM with one constraint for each finished task.

  Each constraint is the gradient on ``reference_batch`` rows (0: as many as in the batch, or all there are) of that
  task's portion, drawn anew at each step. BatchNorm's own parameters are projected with the rest; the released code
  leaves them out. Spec 4.8; Hess et al., 2023.
  """
  ring, end_task, scrub = episodic(spec, capacity)
  prepare, _ = mixed(spec, ring, min(replay_batch or spec.batch_size, capacity), "er_gem")
  size = min(reference_batch or spec.batch_size, capacity // spec.num_tasks)

  def batch(key, learner):
    stored, weight = ring.contents(learner.method_state)
    place = jax.random.uniform(key, (spec.num_tasks, weight.shape[0] // spec.num_tasks))
    at = jax.lax.top_k(place + weight.reshape(place.shape), size)[1]  # rows that exist come first
    at = at + jnp.arange(spec.num_tasks)[:, None] * place.shape[1]
    return jax.tree.map(lambda a: a[at], drawn(spec, stored, weight))

  return Method(
    init=lambda key, learner: ring.init(example_row(spec)),
    prepare=prepare,
    references={"replay": Reference(batch, evaluated_loss(model))},
    transform=projectors.er_gem("replay", margin, ridge),
    end_task=end_task,
    scrub=scrub,
  )


SIZES = {"capacity": Option(200, 1), "replay_batch": Option(0, 0)}
register("er_agem", Entry(er_agem, SIZES, EPISODIC, "Hess et al. 2023", test={"capacity": 20}))
register(
  "er_gem",
  Entry(
    er_gem,
    {"margin": Option(0.5, 0), "ridge": Option(0.001, 0), **SIZES, "reference_batch": Option(0, 0)},
    EPISODIC,
    "Hess et al. 2023",
    test={"capacity": 20},
  ),
)
