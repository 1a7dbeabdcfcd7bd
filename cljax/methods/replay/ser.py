"""SER: stored rows held to what was said of them when they came, and new rows to what the last task's network says."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import stored
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  INSERT_OUTPUTS,
  Replay,
  append,
  drawn,
  example_prediction,
  example_row,
  insert_pending,
  make_memory,
  offered,
  places,
  predictions_of,
  rows_of,
  scrub_memory,
  start,
  stored_gap,
)
from cljax.methods.replay.exemplars import teacher_of


class StrongReplay(NamedTuple):
  """The memory of :func:`ser`, rows with what was said of them, and the model at the end of the last task."""

  replay: Replay
  teacher: Teacher
  taught: Any  # bool: whether a task has ended


def ser(
  model, spec: Spec, *, alpha, beta, capacity: int, policy: str = "reservoir", replay_batch: int = 0,
  insert: str = "every_pass",
) -> Method:  # fmt: skip
  """Strong Experience Replay: ``mean CE(current)``, and once a task has ended ``+ mean CE(x_B, y_B) + alpha MSE(f(x_B),
  z_B) + beta MSE(f(x), f_old(x))``.

  One draw serves both terms of the memory. z are the predictions of a row when it came, as for
  :func:`cljax.methods.replay.derpp`, ``f_old`` is the network at the end of the last task, in eval mode, on the current
  rows as the step shows them. MSE is the mean over rows and all logits; of any objective with ``each``, over all
  numbers of a prediction, for text over the tokens that count. The first task is plain: its rows are stored, and none
  is read. After a request the old network moves as the edit moved the parameters; what is stored of other rows was said
  by a network that knew those which are gone.

  A step passes over the current rows once more. Deviation: where tasks share classes the released code stores augmented
  rows and shows them as they are; here rows are stored as they were read, and augmented anew. Spec A3; Zhuo et al.,
  2023.
  """
  memory = make_memory(spec, capacity, policy)
  size, scrub_rows = min(replay_batch or spec.batch_size, capacity), scrub_memory(memory)

  def prepare(key, learner, batch):
    state = learner.method_state
    replay = insert_pending(key, memory, state.replay)
    rows, weight = memory.sample(fold(key, "sample"), replay.memory, size)
    some = drawn(spec, rows, jnp.where(state.taught, weight, 0.0), batch.visit)
    batch = batch._replace(extra={**batch.extra, "ser": (rows["logits"], some, places(batch, size))})
    return learner._replace(method_state=state._replace(replay=replay)), append(batch, some, scale=1.0)

  def backward(key, params, learner, batch, outputs):
    del key, params, learner
    return alpha * stored_gap(spec, outputs, batch.extra["ser"])

  def forward(key, params, learner, batch, outputs):
    del params
    own, teacher = stored.own_rows(spec, batch), learner.method_state.teacher
    told = {"task": model.task_for(own.task), "mask": None}
    old, _ = model.apply(teacher.params, teacher.model_state, own.x, train=False, key=key, **told)
    gap = stored_gap(spec, outputs, (old.logits, own, jnp.arange(spec.batch_size, dtype=jnp.int32)))
    return beta * jnp.where(learner.method_state.taught, gap, 0.0)

  def after_step(key, learner, info):
    del key
    rows = rows_of(spec, info.batch, logits=predictions_of(spec, info))
    replay = learner.method_state.replay._replace(pending=rows, weight=offered(spec, info.batch, insert))
    return learner._replace(method_state=learner.method_state._replace(replay=replay))

  def end_task(key, learner, task):
    del key, task
    state = learner.method_state._replace(teacher=teacher_of(learner), taught=jnp.ones((), bool))
    return learner._replace(method_state=state)

  def scrub(learner, request):
    state = learner.method_state
    replay = scrub_rows(learner._replace(method_state=state.replay), request).method_state
    return learner._replace(method_state=state._replace(replay=replay))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.teacher.params, before, learner.params)
    return learner._replace(method_state=state._replace(teacher=state.teacher._replace(params=followed)))

  def init(key, learner):
    del key
    row = example_row(spec, logits=example_prediction(model, spec))
    return StrongReplay(start(memory, spec, row), teacher_of(learner), jnp.zeros((), bool))

  return Method(
    init=init,
    prepare=prepare,
    terms={"backward": backward, "forward": forward},
    after_step=after_step,
    end_task=end_task,
    scrub=scrub,
    after_forget=after_forget,
  )


register(
  "ser",
  Entry(
    ser,
    {"alpha": Option(0.2, 0), "beta": Option(0.2, 0), **BUFFER, **INSERT_OUTPUTS},
    ACCESS._replace(task_boundaries=True, needs=("each", "plain_inputs")),
    "Zhuo et al. 2023",
  ),
)
