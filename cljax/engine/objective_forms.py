"""The form of an objective of the caller's own, held against what the engine will do with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import Batch, UsageError
from cljax.objectives.objective import Objective, Score, prediction_of

FAILS = (TypeError, ValueError, AttributeError, LookupError)  # what code raises on arguments that it is not made for


def first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]


def made(factory: Callable, model, spec, values) -> Objective:
  """What a factory ``(model, spec, values) -> Objective`` gives, of the right form."""
  try:
    given = factory(model, spec, values)
  except UsageError:
    raise
  except TypeError as error:
    raise UsageError(f"objective: the factory is called with (model, spec, values): {first_line(error)}") from error
  if not isinstance(given, Objective):
    raise UsageError(f"objective: the factory gave {type(given).__name__}; expected cljax.objectives.Objective")
  for name, score in given.scores.items():
    if not isinstance(score, Score) or score.better not in ("higher", "lower"):
      told = f"better={score.better!r}" if isinstance(score, Score) else type(score).__name__
      raise UsageError(f"objective.scores: {name!r} is {told}; expected a Score whose better is 'higher' or 'lower'")
  if given.main not in given.scores:
    raise UsageError(f"objective.main: got {given.main!r}; expected one of {', '.join(given.scores) or 'the scores'}")
  return given


def check_forms(learned: Objective, apply: Callable, params, rows: Callable) -> Any:
  """The shapes of losses, weights and scores for two and for three rows; returns what the model is shown.

  ``apply(params, x) -> (Outputs, state)``; ``rows(count) -> Batch``, abstract.
  """
  seen: list[Any] = []

  def model(key, params, batch):
    seen.append(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch.x))
    out, new = apply(params, batch.x)
    if learned.check is not None:
      learned.check(out.logits, batch.y)
    return out, new

  def losses(batch):
    given = learned.loss(jax.random.key(0), model, params, batch)
    if not isinstance(given, tuple) or len(given) != 4:
      raise UsageError(f"objective.loss: gave a {type(given).__name__}; expected (each, inside, Outputs, model_state)")
    return given[:2]

  def scored(score):
    return lambda batch: score.fn(jax.random.key(0), lambda b: apply(params, b.x)[0].logits, batch)

  parts = []
  for count in (2, 3):
    batch = rows(count)
    each, inside = traced("objective.loss", losses, batch)
    parts.append(each.shape[1:])
    if each.ndim < 1 or each.shape[0] != count:
      raise UsageError(
        f"objective.loss: gives losses of shape {list(each.shape)} for {count} rows; expected [B] or [B, L]"
      )
    if inside is not None and inside.shape != each.shape:
      raise UsageError(f"objective.loss: weights of a row's parts are {list(inside.shape)}, losses {list(each.shape)}")
    for name, score in learned.scores.items():
      both = traced(f"objective.scores: {name!r}", scored(score), batch)
      if not isinstance(both, tuple) or len(both) != 2 or any(getattr(a, "shape", None) != (count,) for a in both):
        told = [list(getattr(a, "shape", ())) for a in both] if isinstance(both, tuple) else type(both).__name__
        raise UsageError(
          f"objective.scores: {name!r} gives {told} for {count} rows; expected a numerator and a denominator, [B] each"
        )
  if parts[0] != parts[1]:
    raise UsageError(
      f"objective.loss: a row has losses {list(parts[0])} among two rows and {list(parts[1])} among three; expected "
      "the same number of parts whatever the batch: targets [B] against predictions [B, 1] give [B, B]"
    )
  return seen[0] if seen else None


def check_rows(stream, model, spec) -> None:
  """UsageError where the rows that a stream uses hold what the model or the objective has no place for."""
  learned = spec.objective
  if model.check_rows is None and learned.check_rows is None:
    return
  prediction = prediction_of(learned, model, spec) if learned.check_rows is not None else None

  def check(x, y):
    if model.check_rows is not None:
      model.check_rows(x)
    if learned.check_rows is not None:
      learned.check_rows(prediction, x, y)

  for split, used in (
    (stream.dataset.train, (*stream.train, *stream.validation)),
    (stream.dataset.test, stream.test),
  ):
    try:
      check(split.x, split.y)
    except UsageError:
      rows = np.unique(np.concatenate(used))
      if len(rows) == len(split.id):
        raise
      check(*jax.tree.map(lambda a, rows=rows: a[rows], (split.x, split.y)))  # others are nobody's


def traced(what: str, function: Callable, batch: Batch):
  """``function`` on abstract rows; plain numbers that it gives stand as arrays without an axis."""
  try:
    return jax.eval_shape(lambda b: jax.tree.map(jnp.asarray, function(b)), batch)
  except UsageError:
    raise
  except FAILS as error:
    raise UsageError(f"{what}: does not fit this model and these data: {first_line(error)}") from error


__all__ = ["FAILS", "check_forms", "check_rows", "first_line", "made"]
