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


class Score(NamedTuple):
  """A ratio of sums over rows, never a mean of means.

  ``fn(key, predict, batch) -> (numerator [B], denominator [B])`` with ``predict(batch) -> prediction``; the host adds
  the sums in float64 and gives ``finish(ratio)`` (such as exp or sqrt). ``better``: 'higher' or 'lower'.
  """

  fn: Callable
  finish: Callable = lambda ratio: ratio
  better: str = "higher"


class Objective(NamedTuple):
  """What the engine trains and scores, as pure functions; all but ``loss`` and ``scores`` may be None.

  ``loss(key, apply, params, batch) -> (each, inside, Outputs, model_state)``: losses ``[B]`` or ``[B, L]`` and the
  weights of a row's parts, of the same shape (None: all 1). ``apply(key, params, batch) -> (Outputs, model_state)`` is
  the model. That rows of weight 0 are absent is the engine's care: it multiplies by ``batch.weight``.
  ``each(prediction, batch) -> (each, inside)``: the same from a prediction, where one forward pass gives it.
  ``scores {name: Score}``; ``main``: the one that fills the matrix.
  ``sample(key, prediction, batch) -> batch`` with targets drawn from the model; ``factor(prediction, batch)``: a factor
  of the output's information; ``divergence(prediction, teacher, batch, temperature)``: of the loss's shape.
  ``check(prediction, target)`` raises UsageError where a row's shapes do not fit.
  ``classes``: whether targets are class numbers, which tasks label through the stream's table.
  """

  name: str
  loss: Callable
  scores: Mapping[str, Score]
  main: str
  each: Callable | None = None
  sample: Callable | None = None
  factor: Callable | None = None
  divergence: Callable | None = None
  check: Callable | None = None
  classes: bool = False


def supervised(name: str, each: Callable, scores: Mapping[str, Score], main: str, **more) -> Objective:
  """An objective of ``each(prediction, batch) -> (each, inside)``: one forward pass a step."""

  def loss(key, apply, params, batch):
    outputs, model_state = apply(key, params, batch)
    return *each(outputs.logits, batch), outputs, model_state

  return Objective(name, loss, scores, main, each=each, **more)


def of_rows(each, inside):
  """``[B]``: each row's mean over its parts; ``each`` itself where a row has one."""
  return each if inside is None else jax.vmap(losses.reduce)(each, inside)


def reduced(each, inside, batch):
  """The loss of a batch: the weighted mean over all parts of all rows, or ``sum(coefficient * row)`` where given."""
  if batch.coefficient is not None:
    return losses.reduce(of_rows(each, inside), batch.weight, batch.coefficient)
  if inside is None:
    return losses.reduce(each, batch.weight)
  return losses.reduce(each, batch.weight.reshape(-1, *(1,) * (each.ndim - 1)) * inside)


def row_loss(objective: Objective, apply_fn: Callable) -> Callable:
  """``loss_fn(params, batch) -> [B]`` for the pure calls of :mod:`cljax.unlearning`; ``apply_fn(params, batch)``."""

  def loss_fn(params, batch):
    apply = lambda key, params, batch: (apply_fn(params, batch), None)
    return of_rows(*objective.loss(None, apply, params, batch)[:2])

  return loss_fn


def sums(score: Score, key, predict: Callable, batch) -> Any:
  """``[2]``: the numerator and the denominator over the rows of positive weight."""
  there = batch.weight > 0
  return jnp.stack([jnp.sum(jnp.where(there, part, 0).astype(jnp.float32)) for part in score.fn(key, predict, batch)])
