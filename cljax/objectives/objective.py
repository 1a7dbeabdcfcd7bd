"""The form of an objective: what is learned, and what is scored. The ready-made ones are in :mod:`cljax.objectives`.

The engine, estimators and forget edits know no labels: they call an Objective, made inside the trace by a factory
``(model, spec, values) -> Objective``, so that its numbers can be traced and swept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.types import Batch, UsageError


class Score(NamedTuple):
  """A ratio of sums over rows, never a mean of means.

  ``fn(key, predict, batch) -> (numerator [B], denominator [B])`` with ``predict(batch) -> prediction``; the host adds
  the sums in float64 and gives ``finish(ratio)`` (such as exp or sqrt). ``better``: 'higher' or 'lower'. ``bits``: of
  every row the numerator is 0 or 1 and the denominator 1, so that the raw log keeps one bit of it.
  """

  fn: Callable
  finish: Callable = lambda ratio: ratio
  better: str = "higher"
  bits: bool = False


class Objective(NamedTuple):
  """What the engine trains and scores, as pure functions; all but ``loss`` and ``scores`` may be None.

  ``loss(key, apply, params, batch) -> (each, inside, Outputs, model_state)``: losses ``[B]`` or ``[B, L]`` and the
  weights of a row's parts, of the same shape (None: all 1). ``apply(key, params, batch) -> (Outputs, model_state)`` is
  the model. That rows of weight 0 are absent is the engine's care: it multiplies by ``batch.weight``.
  ``each(prediction, batch) -> (each, inside)``: the same from a prediction, where one forward pass gives it.
  ``inputs(batch) -> batch``: what the model is applied on for that prediction, where it is not the row as it is; what
  it draws follows the row's id, so that ``each`` of the batch that it gives knows it.
  ``scores {name: Score}``; ``main``: the one that fills the matrix.
  ``sample(key, prediction, batch) -> batch`` with targets drawn from the model; ``factor(prediction, batch)``: a factor
  of the output's information; ``divergence(prediction, teacher, batch, temperature)``: of the loss's shape.
  ``check(prediction, target)`` raises UsageError where a row's shapes do not fit; ``check_rows(prediction, x, y)``
  where what rows hold does not, such as a token that has no logit: all rows of a split, in NumPy as they are stored,
  against one row's prediction, which is abstract (:func:`prediction_of`).
  ``parts(batch) -> [B, L]``: the weights of a row's parts before they are reduced, where a row has several (tokens):
  predictions are then ``[B, L, ...]``. None: a row is one part.
  ``labels(batch) -> (labels, weight)``, ``[B]`` or ``[B, L]``: where predictions are logits of what the labels number,
  those, and what each weighs in its row (classification; tokens).
  ``classes``: whether targets are class numbers, which tasks label through the stream's table.
  """

  name: str
  loss: Callable
  scores: Mapping[str, Score]
  main: str
  each: Callable | None = None
  inputs: Callable | None = None
  sample: Callable | None = None
  factor: Callable | None = None
  divergence: Callable | None = None
  check: Callable | None = None
  classes: bool = False
  parts: Callable | None = None
  check_rows: Callable | None = None
  labels: Callable | None = None

  @property
  def plain_inputs(self) -> bool:
    """Whether the model is applied on rows as they are: what methods need that apply it themselves."""
    return self.inputs is None


def supervised(name: str, each: Callable, scores: Mapping[str, Score], main: str, **more: Any) -> Objective:
  """An objective of ``each(prediction, batch) -> (each, inside)``: one forward pass a step."""

  def loss(key, apply, params, batch):
    outputs, model_state = apply(key, params, batch)
    return *each(outputs.logits, batch), outputs, model_state

  return Objective(name, loss, scores, main, each=each, **more)


def of_rows(each, inside):
  """``[B]``: each row's mean over its parts; ``each`` itself where a row has one."""
  return each if inside is None else jax.vmap(losses.reduce)(each, inside)


def reduced(each, inside, batch):
  """The loss of a batch: the weighted mean over all parts of all rows; of each group, times its scale, and summed.

  ``each [B, ...]``, ``inside`` of its shape (None: all 1). Nothing of a group of scale 0 reaches the value or the
  gradient, not even a NaN.
  """

  def mean(weight):
    weight = weight.reshape(-1, *(1,) * (each.ndim - 1))
    return losses.reduce(each, jnp.broadcast_to(weight, each.shape) if inside is None else weight * inside)

  if batch.group is None:
    return mean(batch.weight)
  if batch.scale is None:  # as where 0.1's seventh field, the coefficient, is given by place
    raise UsageError("batch.group: has no scale beside it; methods.replay.append(batch, more, scale=) gives both")
  total = jnp.zeros((), jnp.float32)
  for g in range(batch.scale.shape[0]):
    there = (batch.group == g) & (batch.scale[g] != 0)
    total += batch.scale[g] * mean(jnp.where(there, batch.weight, 0.0))
  return total


def mean_loss(objective: Objective, key, apply: Callable, params, batch):
  """The loss of a batch; ``apply(key, params, batch) -> (Outputs, model_state)`` is the model."""
  each, inside, *_ = objective.loss(key, apply, params, batch)
  return reduced(each, inside, batch)


def prediction_of(learned: Objective, model, spec):
  """One row's prediction as the loss sees it, abstract and in float32: a tree of shapes without the leading axis."""
  one = lambda a: jnp.zeros((1, *a.shape), a.dtype)
  x, y = jax.tree.map(one, (spec.shown, spec.target))
  number = jnp.zeros(1, jnp.int32)
  batch = Batch(x, y, jnp.ones(1, jnp.float32), number, number, spec.class_mask(number, jnp.ones(spec.num_tasks, bool)))

  def predicted(key):
    params, state = model.init(key)

    def apply(key, params, batch):
      return model.apply(params, state, batch.x, train=False, key=key, task=model.task_for(batch.task), mask=None)

    return learned.loss(key, apply, params, batch)[2].logits

  shapes = jax.eval_shape(predicted, jax.random.key(0))
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], jnp.float32), shapes)


def squared_gap(learned: Objective, prediction, target, batch):
  """``(each, inside)``: the mean squared gap of two predictions, ``[B]`` of all numbers of a row; ``[B, L]`` where it
  has parts, with their weights. ``batch`` has the rows' targets."""
  inside = None if learned.parts is None else learned.parts(batch)

  def flat(a):
    a = a.reshape(*(a.shape[:1] if inside is None else inside.shape), -1)
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))

  own, other = (jnp.concatenate([flat(a) for a in jax.tree.leaves(t)], -1) for t in (prediction, target))
  return losses.logit_mse(own, other), inside


def row_loss(objective: Objective, apply_fn: Callable) -> Callable:
  """``loss_fn(params, batch) -> [B]`` for the pure calls of :mod:`cljax.unlearning`; ``apply_fn(params, batch)``."""

  def loss_fn(params, batch):
    if objective.each is not None and objective.inputs is not None:
      batch = objective.inputs(batch)
      return of_rows(*objective.each(apply_fn(params, batch).logits, batch))
    apply = lambda key, params, batch: (apply_fn(params, batch), None)
    return of_rows(*objective.loss(None, apply, params, batch)[:2])

  return loss_fn


def terms(score: Score, key, predict: Callable, batch) -> list[Any]:
  """``[numerator [B], denominator [B]]`` in float32; 0 of the rows without weight."""
  there = batch.weight > 0
  return [jnp.where(there, part.astype(jnp.float32), 0.0) for part in score.fn(key, predict, batch)]


def sums(score: Score, key, predict: Callable, batch) -> Any:
  """``[2]``: the numerator and the denominator over the rows of positive weight."""
  return jnp.stack([jnp.sum(part) for part in terms(score, key, predict, batch)])
