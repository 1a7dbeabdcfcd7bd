"""Replay in the loss and projection in the update together (Hess et al., 2023)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from cljax import memory, projectors
from cljax.core import tree
from cljax.core.calls import since_0_2
from cljax.core.method import Method, Reference
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods.heads import batch_norms
from cljax.methods.projection.gradients import EPISODIC, ON_GRADIENT, Episodes, by_references, episodic
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import append, drawn, example_row, grouped
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


@since_0_2("spec stands behind model")
def evaluated_loss(model, spec: Spec):
  """The loss of a reference batch in eval mode, as a :class:`Reference`'s loss."""

  def loss(key, params, learner, batch):
    def apply(key, params, batch):
      told = {"task": model.task_for(batch.task), "mask": batch.weight}
      return model.apply(params, learner.model_state, batch.x, train=False, key=key, **told)

    return mean_loss(spec.objective, key, apply, params, batch)

  return loss


def class_balanced(spec: Spec, capacity: int):
  """A memory of past tasks with equal quotas for all classes met so far (of each task its own, where the task is told
  at test), each a uniform sample of its rows; a task's rows are offered when it first ends, and not again where it
  comes back.

  Returns ``(memory, init, end_task, scrub)``, as :func:`cljax.methods.projection.gradients.episodic`.
  """
  own = spec.task_id_given
  group = (lambda rows: rows["task"] * spec.num_classes + rows["y"]) if own else (lambda rows: rows["y"])
  buffer = memory.class_balanced(capacity, spec.num_classes * (spec.num_tasks if own else 1), group)

  def init(key, learner):
    del key, learner
    return Episodes(buffer.init(example_row(spec)), ())

  def end_task(key, learner, task):
    rows, size = task.rows.as_read(), spec.batch_size

    def offer(i, state):
      batch = rows.batch(i * size, size)
      stored = {"x": batch.x, "y": batch.y, "id": batch.id, "task": batch.task}
      return buffer.add(fold(jax.random.fold_in(key, i), "add"), state, stored, batch.weight)

    blocks = jnp.where(task.visit.first, -(-rows.count // size), 0)
    filled = jax.lax.fori_loop(0, blocks, offer, learner.method_state.memory)
    return learner._replace(method_state=Episodes(filled, ()))

  def scrub(learner, request):
    kept = buffer.remove(learner.method_state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=Episodes(kept, ()))

  return buffer, init, end_task, scrub


def without_norms(model, projector, norms: str):
  """The projector of all leaves but BatchNorm's, of which gradients and references pass by; of all where 'projected' or
  where there are none."""
  left_out = batch_norms(model) if norms == "free" else frozenset()
  if not left_out:
    return projector
  return optax.masked(projector, lambda params: tree.map_named(lambda name, _: name not in left_out, params))


def er_agem(
  model, spec: Spec, *, capacity: int, replay_batch: int = 0, on: str = "gradient", balance: str = "auto",
  norms: str = "projected",
) -> Method:  # fmt: skip
  """ER + A-GEM: the gradient of ``w L_current + (1 - w) L_replay``, projected by A-GEM on that of ``L_replay``.

  ``L_replay`` is the mean over the same ``replay_batch`` stored rows in both (0: as many as in the batch), augmented
  anew. ``w = 1 / (t + 1)`` where t other tasks were met before. ``balance`` 'class': the memory has equal quotas for
  the classes of finished tasks, in full use (the released code keeps ``capacity // num_classes`` rows of each); 'task':
  ``capacity // num_tasks`` rows of each finished task, balanced by class; 'auto' is 'class' where there are classes.
  ``norms`` 'free' leaves BatchNorm's parameters out of the projection, as for :func:`er_gem`, where it is the default:
  each default is its released code's, of which only that of GEM leaves them out (spec 4.8). The reference gradient is
  taken in eval mode. The promise is on the gradient: under momentum, Adam or weight decay the step applied may still
  conflict, but not with ``on='update'``. Spec 4.8; Hess et al., 2023.
  """
  if balance == "class" and not spec.objective.classes:
    raise UsageError(f"method.balance: got 'class', which needs classes; {spec.objective.name!r} has none")
  by_class = balance == "class" or (balance == "auto" and spec.objective.classes)
  ring, init, end_task, scrub = (class_balanced if by_class else episodic)(spec, capacity)
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
    **by_references(projectors.er_agem("replay"), on, around=partial(without_norms, model, norms=norms)),
  )


def er_gem(
  model, spec: Spec, *, margin, ridge, capacity: int, replay_batch: int = 0, reference_batch: int = 0,
  on: str = "gradient", norms: str = "free",
) -> Method:  # fmt: skip
  """ER + GEM: the gradient of :func:`er_agem`'s loss, projected by GEM with one constraint for each finished task.

  Each constraint is the gradient on ``reference_batch`` rows (0: as many as in the batch, or all there are) of that
  task's portion, drawn anew at each step and balanced by class when the task ended. ``norms`` 'free': BatchNorm's
  parameters, known by the statistics that their layers keep, are left out of products and projection and follow their
  own gradient ('projected': with the rest). The released code leaves them out too, but then gives them no gradient once
  a task was met. What an optimizer does to the promise, and ``on='update'``, are as for ``gem``. Spec 4.8; Hess et al.,
  2023.
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
    **by_references(projectors.er_gem("replay", margin, ridge), on, margin, partial(without_norms, model, norms=norms)),
  )


SIZES = {"capacity": Option(200, 1), "replay_batch": Option(0, 0), **ON_GRADIENT}
NORMS = ("free", "projected")
register(
  "er_agem",
  Entry(
    er_agem,
    {
      **SIZES,
      "balance": Option("auto", choices=("auto", "class", "task")),
      "norms": Option("projected", choices=NORMS),
    },
    EPISODIC._replace(needs=()),
    "Hess et al. 2023",
  ),
)
register(
  "er_gem",
  Entry(
    er_gem,
    {
      "margin": Option(0.5, 0),
      "ridge": Option(0.001, 0),
      **SIZES,
      "reference_batch": Option(0, 0),
      "norms": Option("free", choices=NORMS),
    },
    EPISODIC._replace(needs=()),
    "Hess et al. 2023",
  ),
)
