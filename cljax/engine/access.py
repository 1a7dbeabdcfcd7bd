"""What a method declares, held against its hooks, the scenario and the model."""

from __future__ import annotations

import jax
import numpy as np

from cljax.core.method import Method, _keep, _keep_batch
from cljax.core.types import AccessError, Model, Spec, UsageError
from cljax.estimators import per_sample
from cljax.methods.registry import METHODS, check_needs
from cljax.streams.labels import withheld


def check_access(name: str, method: Method, spec: Spec) -> None:
  """Refuses a method whose hooks exceed what it declared, or that needs what the scenario does not give."""
  access, faults = method.access, []
  if not access.task_boundaries and (method.start_task is not _keep or method.end_task is not _keep):
    faults.append("has start_task or end_task but does not declare Access(task_boundaries=True)")
  if method.forget is not None and not access.forgets:
    faults.append("has forget but does not declare Access(forgets=True)")
  if access.stores_data and method.scrub is None:
    faults.append(
      "stores data but has no scrub, so a deletion request could not be honoured (scrub=replay.scrub_memory(buffer) "
      "where the state is a cljax.methods.replay.Replay)"
    )
  if faults:  # all at once
    raise AccessError(f"method {name!r} {'; it '.join(faults)}")
  check_needs("the method of this factory" if name == "<lambda>" else repr(name), access.needs, spec)
  if access.task_id_at_test and not spec.task_id_given:
    raise UsageError(
      f"method.name: {name!r} needs the task id at test; this stream gives none (use stream.kind='task')"
    )


def check_labels(name: str, access, stream, recipe, presentations: bool, learned) -> None:
  """UsageError where the stream withholds labels of training rows that something in the run would read."""
  tasks = withheld(stream)
  if not tasks:
    return
  told = f"stream.labelled: the training rows of task {tasks[0]} have no labels"
  if not learned.classes:
    raise UsageError(f"{told}, so the objective must be of classes; {learned.name!r} has other targets")
  if not access.unlabelled:
    able = ", ".join(sorted(n for n, e in METHODS.items() if e.access.unlabelled and not e.access.forgets))
    raise UsageError(f"{told}, which {name!r} learns from; those that do without: {able}")
  if recipe.patience:
    raise UsageError(
      f"train.patience: got {recipe.patience}, which ends tasks by labels that stream.labelled withholds"
    )
  if presentations:
    raise UsageError("train.presentations: got True, which compares labels that stream.labelled withholds")


def mixed_rows(method: Method) -> bool:
  """Whether rows of several tasks may meet in a step."""
  return method.prepare is not _keep_batch or method.access.trains_on != "current"


def check_tasks(method: Method, model: Model, spec: Spec) -> None:
  """UsageError where the model reads the task of its rows and nobody can tell it at test."""
  made = method.model or model
  if (model.by_task or (made.by_task and method.predict is None)) and not spec.task_id_given:
    raise UsageError(
      "model: reads the task of its rows, which this stream does not tell at test; use stream.kind='task', or "
      "streams.from_tasks(..., task_id_given=True)"
    )


def check_reads_one_task(method, model: Model, x, told: bool) -> None:
  """UsageError where the model reads one task for all rows and the method's gradients are of rows of several; and, in
  a stream that tells the task at test (``told``), where the method is not told it, so that neither is the model."""
  model, access = method.model or model, method.access
  several = mixed_rows(method) or bool(method.references)
  if model.by_task or not (several if access.task_boundaries else told):
    return

  def apply(task, params, state, x):
    return model.apply(params, state, x, train=False, key=jax.random.key(0), task=task, mask=None)[0].logits

  params, state = jax.eval_shape(model.init, jax.random.key(0))
  try:
    traced = jax.make_jaxpr(apply)(jax.ShapeDtypeStruct((), np.int32), params, state, x).jaxpr
  except (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
  ):  # it takes no number of a task, or wants one for each row
    return
  if per_sample.times_read(traced, traced.invars[0]):
    why = "this method's batches hold rows of several" if several else "this method is not told it, nor is the model"
    raise UsageError(
      f"model: reads the task as one number, but {why}; give it by_task=True and take the task of each row, or make it "
      "one that does by cljax.models.by_row"
    )
