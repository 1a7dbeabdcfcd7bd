"""What a run costs, measured from the run itself: bytes from its arrays, operations from its compiled step."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cljax import metrics
from cljax.core import tree
from cljax.core.types import Batch, Learn, UsageError, Visit
from cljax.engine import Prepared, schedule
from cljax.engine.step import StreamPosition
from cljax.objectives import objective


class Cost(NamedTuple):
  """Bytes and floating-point operations of one member, by Learn event ``T``."""

  model_bytes: np.ndarray  # [T] parameters and model state; static shapes, so they do not grow
  stored_bytes: np.ndarray  # [T] what a method that stores rows keeps of them
  data_bytes: int  # the training inputs of the whole stream
  step_flops: float  # one training step of the method
  plain_flops: float  # forward and backward of the task loss on one batch of the task
  training_flops: np.ndarray  # [T]
  one_pass_flops: np.ndarray  # [T] plain steps over the task's rows, once


def _flops(function, *arguments) -> float:
  return float((jax.jit(function).lower(*arguments).cost_analysis() or {}).get("flops", 0.0))


def cost(prepared: Prepared) -> Cost:
  """The cost of a prepared run, without running it: XLA's operation counts of the lowered step.

  A loop inside a step counts as one turn of it, and work at task boundaries is not counted.
  """
  built = prepared.setup
  spec, parts, stream = built.spec, built.parts, built.stream
  learner = jax.eval_shape(parts.init, jax.random.key(0))
  data = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), built.train)
  number, tasks = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((spec.num_tasks,), bool)
  place = StreamPosition(Visit(number, tasks, tasks), number, number, number)
  ints = jax.ShapeDtypeStruct((spec.batch_size,), jnp.int32)
  alive = jax.ShapeDtypeStruct((), bool)
  step = _flops(parts.step, learner, data, place, alive, ints, ints, ints)
  model = parts.method.model or built.model
  rows = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct((spec.batch_size, *a.shape), a.dtype), tree)
  weight = jax.ShapeDtypeStruct((spec.batch_size,), jnp.float32)

  def plain(params, model_state, batch):
    given = {"train": True, "key": jax.random.key(0), "task": model.task_for(jnp.zeros((), jnp.int32)), "mask": None}
    apply = lambda key, p, batch: model.apply(p, model_state, batch.x, **given)
    return jax.grad(lambda p: objective.mean_loss(parts.objective, jax.random.key(0), apply, p, batch))(params)

  batch = Batch(rows(spec.shown), rows(spec.target), weight, ints, ints)
  one = _flops(plain, learner.params, learner.model_state, batch)
  steps: list[int] = []
  counts: list[int] = []
  learned: list[int] = []
  for at, event in enumerate(stream.events):
    if isinstance(event, Learn):
      steps.append(schedule.schedule(stream, learned, at, event.task, built.trains_on, built.recipe).steps)
      counts.append(len(stream.train[event.task]))
      learned.append(event.task)
  count = len(steps)
  stored = tree.nbytes(learner.method_state) if parts.method.access.stores_data else 0
  row_bytes = tree.nbytes(spec.shown)
  return Cost(
    model_bytes=np.full(count, tree.nbytes((learner.params, learner.model_state)), np.float64),
    stored_bytes=np.full(count, stored, np.float64),
    data_bytes=row_bytes * sum(counts),
    step_flops=step,
    plain_flops=one,
    training_flops=np.asarray(steps) * step,
    one_pass_flops=np.ceil(np.asarray(counts) / spec.batch_size) * one,
  )


class Learned(Protocol):
  """What is asked of a result: its accuracies, None where it has none, and ``learning_rows [S, T, T]``."""

  @property
  def accuracy(self) -> Any: ...
  @property
  def learning_rows(self) -> np.ndarray: ...


def more_than_forgetting(result: Learned, spent: Cost, epsilon: float = 10.0) -> dict[str, np.ndarray]:
  """The criteria of Diaz-Rodriguez et al. (2018) by name, ``[S]`` each, from a run and its measured cost.

  ``cljax.metrics.cl_score`` and ``cl_stability`` weigh them. ``epsilon``: see ``metrics.computational_efficiency``.
  ``result``: a :class:`cljax.RunResult`, or what :mod:`cljax.evaluation.efficiency` makes of a ``result.json``.
  Raises UsageError for a run without an accuracy: the criteria are shares of what is right.
  """
  if result.accuracy is None:
    by = next(iter(getattr(result, "scores", None) or ["nothing"]))
    raise UsageError(f"result: was scored by {by!r}; these criteria are of accuracies")
  R = np.asarray(result.learning_rows, np.float64)
  each = lambda value: np.full(R.shape[:-2], float(value))
  return {
    "accuracy": metrics.triangle_accuracy(R),
    "remembering": metrics.remembering(R),
    "positive_backward_transfer": metrics.positive_backward_transfer(R),
    "forward_transfer": metrics.zero_shot_transfer(R),
    "model_size_efficiency": each(metrics.model_size_efficiency(spent.model_bytes)),
    "sample_storage_efficiency": each(metrics.sample_storage_efficiency(spent.stored_bytes, spent.data_bytes)),
    "computational_efficiency": each(
      metrics.computational_efficiency(spent.training_flops, spent.one_pass_flops, epsilon)
    ),
  }
