"""BiC: exemplars and distillation; two numbers, fitted on rows held out, correct the logits of the newest classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets

PART = 10  # one exemplar in so many is held out
MOST = 5  # and of a class at most one row in so many


class BiCState(NamedTuple):
  taught: sets.Taught  # exemplars that are trained on, the teacher
  held: Any  # exemplars that are held out
  scale: Any  # [2] float32: beta and gamma
  newest: Any  # [C] bool: the classes that they correct


def corrected(logits, scale, newest):
  """``beta z + gamma`` at the newest classes, z at others."""
  z = logits.astype(jnp.float32)
  return jnp.where(newest[None], scale[0] * z + scale[1], z)


def fitted(logits, y, weight, newest, class_mask, steps: int, rate):
  """``[2]``: beta and gamma after ``steps`` of gradient descent from (1, 0) on the mean cross-entropy of the corrected
  logits, which is convex in them; (1, 0) where no row or no class is there to be corrected."""

  def loss(scale):
    return losses.reduce(losses.cross_entropy(corrected(logits, scale, newest), y, class_mask), weight)

  move = lambda _, scale: scale - rate * jax.grad(loss)(scale)
  return jax.lax.fori_loop(0, steps, move, jnp.array([1.0, 0.0]))


def bic(
  model, spec: Spec, *, capacity: int, temperature, bias_rate, bias_steps: int = 200, replay_batch: int = 0
) -> Method:
  """Bias correction: ``(1 - lam) CE + lam KL(corrected teacher/T || f/T over old classes)``, then beta and gamma.

  ``lam = n_old / (n_old + n_new)``, which grows to 1; no factor T^2. A tenth of the exemplars is held out, a row of
  each class at least: of each class as many, drawn before its task is learned, which no step trains on. When a task
  that has old classes ends, ``z <- beta z + gamma`` of its classes is fitted on these rows by cross-entropy of the
  logits, the network fixed: ``bias_steps`` (0: no correction) of gradient descent at ``bias_rate`` from (1, 0). Only
  the newest pair is applied, in answers and to the teacher. Old logits, and for beta > 0 the order of the new classes,
  stay. Exemplars and means over the union are those of :func:`cljax.methods.replay.icarl.icarl`; old classes are those
  met before that the current task has not.

  Deviations: all held-out rows in each step of the fit; a class gives at most a fifth of its rows to be held out; a
  task that comes back draws again, among rows that were trained on. A request's rows leave both memories at once, beta
  and gamma with the next fit. Raises UsageError for a capacity below two for each list, and a model without features.
  Spec B1; Wu et al., 2019.
  """
  number = sets.number_of_lists(spec)
  if capacity < 2 * number:
    raise UsageError(
      f"method.capacity: got {capacity}; expected at least 2 for each of the {number} classes of all tasks, of which "
      "one is held out"
    )
  out = max(capacity // PART, number)
  memory, held = sets.make_exemplars(spec, capacity - out), sets.make_exemplars(spec, out)
  size = min(replay_batch or spec.batch_size, capacity - out)
  shared = sets.hooks(spec, memory)

  def inner(learner):
    return learner._replace(method_state=learner.method_state.taught)

  def back(learner, new):
    return new._replace(method_state=learner.method_state._replace(taught=new.method_state))

  def sides(visit):
    old, new = sets.old_and_new(spec, visit)
    count = lambda which: jnp.sum(which, dtype=jnp.float32)
    return old, new, count(old) / (count(old) + count(new))

  def is_held(state, rows):
    """``[B]`` bool: whether rows are among those that are held out."""
    kept, there = held.contents(state.held)
    same = (rows.id[:, None] == kept["id"][None]) & (rows.task[:, None] == kept["task"][None])
    return (same & (there > 0)[None]).any(1)

  def init(key, learner):
    taught = shared["init"](key, learner)
    row = jax.tree.map(lambda a: a[0], taught.memory.rows)
    return BiCState(taught, held.init(row), jnp.array([1.0, 0.0]), jnp.zeros(spec.num_classes, bool))

  def start_task(key, learner, task):
    """Draws the rows of the task that are held out."""
    state, rows = learner.method_state, task.rows.as_read().batch(0, task.rows.capacity)
    there = rows.weight > 0
    group = sets.list_of(spec, rows, there)
    rank = sets.drawn_ranks(fold(key, "held"), group)
    count = jnp.zeros(spec.num_classes, jnp.int32).at[rows.y].add(there.astype(jnp.int32))[rows.y]
    kept = held.add(state.held, sets.stored_rows(rows), group, rank, there & (rank < count // MOST))
    learner = back(learner, shared["start_task"](key, inner(learner), task))
    state = learner.method_state._replace(held=kept)
    away = jnp.sum(jnp.where(kept.rows["task"] == task.id, held.contents(kept)[1], 0.0))
    state = state._replace(taught=state.taught._replace(rows=state.taught.rows - away))
    return learner._replace(method_state=state)

  def prepare(key, learner, batch):
    state, (_, _, lam) = learner.method_state, sides(batch.visit)
    batch = batch._replace(weight=jnp.where(is_held(state, batch), 0.0, batch.weight))
    taught = state.taught
    batch = sets.union(fold(key, "exemplars"), spec, memory, taught.memory, batch, taught.rows, size)
    extra = {**batch.extra, "share": sets.shares(batch)}
    return learner, batch._replace(scale=batch.scale * (1 - lam), extra=extra)

  def term(key, params, learner, batch, outputs):
    del params
    state, (old, _, lam), share = learner.method_state, sides(batch.visit), batch.extra["share"]
    own = slice(0, share.shape[0])
    said = corrected(sets.taught(model, inner(learner), batch, key)[own], state.scale, state.newest)
    each = losses.distillation(outputs.logits[own], said, temperature, old) / temperature**2
    return lam * jnp.sum(share * jnp.where(share != 0, each, 0.0))

  def end_task(key, learner, task):
    del key
    state, (old, new, _) = learner.method_state, sides(task.visit)
    among = lambda rows: ~is_held(state, rows)
    learner = back(learner, sets.task_ended(model, spec, memory, inner(learner), task, among=among))
    kept, weight = held.contents(state.held)
    told = {"task": model.task_for(kept["task"]), "mask": None}
    x = spec.view(kept["x"], kept["task"])
    said, _ = model.apply(learner.params, learner.model_state, x, train=False, key=learner.key, **told)
    mask = spec.class_mask(kept["task"], task.visit.trained)
    scale = fitted(said.logits, kept["y"], weight, new, mask, bias_steps, bias_rate)
    scale = jnp.where(old.any(), scale, jnp.array([1.0, 0.0]))
    return learner._replace(method_state=learner.method_state._replace(scale=scale, newest=new))

  def predict(key, learner, x, task):
    told, state = {"task": model.task_for(task), "mask": None}, learner.method_state
    said, _ = model.apply(learner.params, learner.model_state, x, train=False, key=key, **told)
    return corrected(said.logits, state.scale, state.newest)

  def scrub(learner, request):
    learner = back(learner, shared["scrub"](inner(learner), request))
    state = learner.method_state
    left = held.remove(state.held, lambda rows: request.names(rows["id"], rows["task"]))
    return learner._replace(method_state=state._replace(held=left))

  return Method(
    init=init,
    start_task=start_task,
    prepare=prepare,
    terms={"distillation": term},
    end_task=end_task,
    predict=predict,
    scrub=scrub,
    after_forget=lambda learner, before: back(learner, shared["after_forget"](inner(learner), before)),
  )


register(
  "bic",
  Entry(
    bic,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "temperature": Option(2.0, 1e-6),
      "bias_rate": Option(0.1, 0),
      "bias_steps": Option(200, 0),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Wu et al. 2019",
  ),
)
