"""What a run predicts for raw inputs: the same as it was judged by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core import tree
from cljax.core.judging import judged_classes
from cljax.core.method import Method
from cljax.core.types import Learn, UsageError
from cljax.engine import own_arguments


def judged_at(stream, trains_on: str, position: Mapping[str, Any]) -> np.ndarray:
  """The classes that compete where a run stands, by the ``position`` of its state (:mod:`cljax.core.judging`)."""
  begun = position["event"] + (1 if position["step"] or position["ended"] else 0)
  learned = [e.task for e in stream.events[:begun] if isinstance(e, Learn)]
  return judged_classes(stream, learned, trains_on)


def predictor(stream, parts_of: Callable, method: Method, judged, values, learner) -> Callable:
  """``predict(x, member=0, task=None) -> logits`` of learners and hyper-parameter values with a leading member axis.

  ``parts_of(values)`` builds the pure functions that the run evaluates with; ``judged [T, C]``: what competes.
  """
  return asked(stream, parts_of, method)(judged, values, learner)


def asked(stream, parts_of: Callable, method: Method, model=None) -> Callable:
  """``(judged, values, learner) -> predict`` as :func:`predictor`, compiled once for all that it is called with.

  With ``model``, the one that the factory of the method was given, ``predict`` gives the model's ``Outputs`` instead.
  """
  needs = [
    *(["the inputs depend on the task"] if stream.view.tables else []),
    *(["the stream tells the task at test"] if stream.task_id_given else []),
    *(["the method is told the task"] if method.access.task_id_at_test else []),
  ]
  tables = jax.tree.map(jnp.asarray, stream.view.tables)

  @jax.jit
  def logits(values, learner, tables, x, task, open_classes):
    shown = (
      x
      if isinstance(x, dict)
      else stream.view.apply(own_arguments.tables(values, tables), x, jnp.full(x.shape[0], task))
    )
    parts = parts_of(values)
    if model is not None:
      return outputs(parts, learner, shown, task)
    prediction = parts.predict(learner, shown, task)
    return jnp.where(open_classes, prediction, -jnp.inf) if parts.objective.classes else prediction

  def outputs(parts, learner, shown, task):
    learner, own = parts.evaluated(learner), parts.method.model or model
    told = task if method.access.task_id_at_test else None
    key = tree.fold(learner.key, "predict")
    return own.apply(learner.params, learner.model_state, shown, train=False, key=key, task=told, mask=None)[0]

  def of(judged, values, learner) -> Callable:
    classes = jnp.asarray(judged)
    every = classes[int(judged.sum(1).argmin())]  # the union, where any task was met

    @functools.lru_cache(1)  # else each call copies the parameters
    def one(member: int):
      return jax.tree.map(lambda a: a[member], (values, learner))

    def predict(x, member: int = 0, task: int | None = None):
      """Logits ``[B, C]`` of one member for stored inputs ``x``, shown as ``task`` shows them; -inf for classes that do
      not compete there. A dict is what the objective shows the model, and goes in as it is. UsageError without ``task``
      where the answer depends on it."""
      if task is None and needs:
        raise UsageError(f"task: got none, but {needs[0]}; expected one of 0..{stream.num_tasks - 1}")
      if task is not None and not 0 <= task < stream.num_tasks:
        raise UsageError(f"task: got {task}; expected one of 0..{stream.num_tasks - 1}")
      competing = every if task is None else classes[task]
      x = jax.tree.map(jnp.asarray, x)
      return logits(*one(member), tables, x, jnp.asarray(task or 0, jnp.int32), competing)

    return predict

  return of
