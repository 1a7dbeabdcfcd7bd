"""IL2M: exemplars, and scores of old classes set right by what they were when these were learned."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay.buffers import example_row


class DualMemory(NamedTuple):
  """The second memory is what is known of each class: three numbers."""

  memory: Any  # exemplars, rows as they were read
  rows: Any  # float32: how many rows the current task has
  first: Any  # [C] mean score of the class on its rows when it was learned; 0: not known
  now: Any  # [C] mean score of the class on its exemplars when the last task ended; 0: not known
  confidence: Any  # [C] mean largest score on the rows of the task that the class was learned in
  last: Any  # mean largest score on the rows of the last task
  newest: Any  # [C] bool: the classes of the last task
  met: Any  # [C] bool: those of all tasks that were begun


def scores(logits, met):
  """``[B, C]``: log-probabilities over the classes that were met; over all while none was."""
  inside = met | ~met.any()
  return jax.nn.log_softmax(jnp.where(inside[None], logits.astype(jnp.float32), -1e30), axis=-1)


def rectified(log_p, state: DualMemory):
  """``log_p [B, C]``; where the largest is of a newest class, those of old ones plus ``log (first / now) (last /
  confidence)``, which is 0 where one of these is not known."""
  known = (state.first > 0) & (state.now > 0) & (state.confidence > 0) & (state.last > 0) & ~state.newest
  one = lambda v: jnp.log(jnp.where(known, v, 1.0))
  factor = one(state.first) - one(state.now) + one(jnp.broadcast_to(state.last, known.shape)) - one(state.confidence)
  new = state.newest[jnp.argmax(log_p, axis=-1)]
  return jnp.where(new[:, None], log_p + factor[None], log_p)


def mean_score(log_p, y, weight, num_classes: int):
  """``(means [C], counts [C])``: of each class the mean probability of itself over its rows of positive weight."""
  of = jax.nn.one_hot(y, num_classes, dtype=jnp.float32) * (weight > 0).astype(jnp.float32)[:, None]
  counts = of.sum(0)
  p = jnp.take_along_axis(jnp.exp(log_p), y[:, None], axis=-1)[:, 0]
  return jnp.where(weight > 0, p, 0.0) @ of / jnp.maximum(counts, 1.0), counts


def il2m(model, spec: Spec, *, capacity: int, replay_batch: int = 0, rectify: bool = True) -> Method:
  """IL2M: CE over the task's rows and the exemplars; at test, where a new class is largest, ``p_c *= r_c`` of old ones.

  ``r_c = (first_c / now_c) (last / confidence_c)``: first_c is the mean probability of class c on its rows when the
  task ended that it was learned in, now_c that on its exemplars when the last task ended; confidence_c and last are the
  mean largest probabilities on the rows of those two tasks. New classes are those of the last task that ended, old ones
  those met before that it has not; where a class has no exemplar left, or nothing is known of it, ``r_c = 1``. All are
  probabilities over the classes met so far, in eval mode, taken before the lists are made anew; ``r_c`` of logits or of
  their logarithms would lower a class where it should raise it. Answers are ``log p``, of rectified ones without being
  normalised again. ``rectify`` False is fine-tuning with exemplars. No distillation.

  Exemplars and means over the union are those of :func:`cljax.methods.replay.icarl.icarl` (herded; the paper's way is
  UNVERIFIED). A class that another task has too is learned anew there. A request clears exemplars at once, and what is
  known of classes that go whole. Raises UsageError for a capacity below the number of lists and a model without
  features. Spec B5; Belouadah & Popescu, 2019.
  """
  memory, of_task = sets.make_exemplars(spec, capacity), jnp.asarray(spec.classes_of_task)
  size, classes = min(replay_batch or spec.batch_size, capacity), spec.num_classes

  def init(key, learner):
    del key, learner
    zeros, none = jnp.zeros(classes, jnp.float32), jnp.zeros(classes, bool)
    zero = jnp.float32(0)
    return DualMemory(memory.init(example_row(spec)), zero, zeros, zeros, zeros, zero, none, none)

  def start_task(key, learner, task):
    del key
    state = learner.method_state
    state = state._replace(rows=task.count.astype(jnp.float32), met=state.met | of_task[task.id])
    return learner._replace(method_state=state)

  def prepare(key, learner, batch):
    state = learner.method_state
    return learner, sets.union(fold(key, "exemplars"), spec, memory, state.memory, batch, state.rows, size)

  def said(key, learner, x, task):
    told = {"task": model.task_for(task), "mask": None}
    out, _ = model.apply(learner.params, learner.model_state, x, train=False, key=key, **told)
    return scores(out.logits, learner.method_state.met)

  def end_task(key, learner, task):
    state = learner.method_state
    new = of_task[task.id]
    kept, there = memory.contents(state.memory)
    log_p = sets.of_stored(spec, kept, lambda x, row_task: said(key, learner, x, row_task))
    now, left = mean_score(log_p, kept["y"], there, classes)
    here = lambda start, block: task.rows.batch(start, block)
    log_p = sets.in_blocks(lambda *at: said(key, learner, here(*at).x, here(*at).task), task.rows.capacity)
    rows = task.rows.as_read().batch(0, task.rows.capacity)
    first, count = mean_score(log_p, rows.y, rows.weight, classes)
    real = (rows.weight > 0).astype(jnp.float32)
    last = jnp.sum(jnp.where(real > 0, jnp.exp(log_p.max(-1)), 0.0)) / jnp.maximum(real.sum(), 1.0)
    learned = new & (count > 0)
    state = state._replace(
      memory=sets.refill(model, spec, memory, state.memory, learner, task),
      first=jnp.where(learned, first, state.first),
      now=jnp.where(left > 0, now, 0.0),
      confidence=jnp.where(learned, last, state.confidence),
      last=last,
      newest=new,
    )
    return learner._replace(method_state=state)

  def predict(key, learner, x, task):
    log_p = said(key, learner, x, task)
    return rectified(log_p, learner.method_state) if rectify else log_p

  def scrub(learner, request):
    state = learner.method_state
    kept = memory.remove(state.memory, lambda rows: request.names(rows["id"], rows["task"]))
    cleared = {f: jnp.where(request.classes, 0.0, getattr(state, f)) for f in ("first", "now", "confidence")}
    return learner._replace(method_state=state._replace(memory=kept, **cleared))

  return Method(init=init, start_task=start_task, prepare=prepare, end_task=end_task, predict=predict, scrub=scrub)


register(
  "il2m",
  Entry(
    il2m,
    {"capacity": Option(200, 1), "replay_batch": Option(0, 0), "rectify": Option(True)},
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Belouadah & Popescu 2019",
  ),
)
