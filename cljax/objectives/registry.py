"""Objectives by name, with their options."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cljax.core.types import UsageError
from cljax.objectives.objective import Objective

SECTION = "objective"


class Number(NamedTuple):
  """A float option, which is traced: a sweep varies it in one program."""

  default: float
  low: float = 0.0
  above: bool = False  # greater than ``low``, not equal


class Text(NamedTuple):
  """An option that is one of some names."""

  default: str
  choices: tuple[str, ...]


class Offer(NamedTuple):
  """``make(model, spec, **options) -> Objective`` and its options."""

  make: Callable[..., Objective]
  options: Mapping[str, Number | Text]


OBJECTIVES: dict[str, Offer] = {}


class Chosen(NamedTuple):
  """An objective with its options: a factory ``(model, spec, values) -> Objective``. ``values`` hold the traced ones
  under ``objective.NAME``."""

  name: str
  options: tuple[tuple[str, Any], ...] = ()

  @property
  def hyper(self) -> dict[str, float]:
    """The options that are traced."""
    return {f"{SECTION}.{k}": v for k, v in self.options if isinstance(v, float)}

  def __call__(self, model, spec, values: Mapping[str, Any]) -> Objective:
    given = {k: values.get(f"{SECTION}.{k}", v) for k, v in self.options}
    return OBJECTIVES[self.name].make(model, spec, **given)


def offered(**options: Number | Text):
  """Registers the decorated ``make(model, spec, **options)`` under its name; what is left calls for a factory."""

  def register(make):
    name = make.__name__
    OBJECTIVES[name] = Offer(make, options)

    @functools.wraps(make)
    def call(**given) -> Chosen:
      return chosen(name, given)

    del call.__wrapped__  # its signature is not that of ``make``
    return call

  return register


def chosen(name: str, given: Mapping[str, Any] | None = None) -> Chosen:
  """The factory of a name; UsageError names an objective or option that is not known, or a value not allowed."""
  if name not in OBJECTIVES:
    near = difflib.get_close_matches(str(name), OBJECTIVES, 3) or sorted(OBJECTIVES)
    raise UsageError(f"objective.name: unknown {name!r}; did you mean {', '.join(near)}?")
  options = OBJECTIVES[name].options
  for key in given or {}:
    if key not in options:
      raise UsageError(f"objective.{key}: {name!r} has no such option; allowed: {', '.join(sorted(options)) or 'none'}")
  values = {key: _checked(key, (given or {}).get(key, option.default), option) for key, option in options.items()}
  return Chosen(name, tuple(sorted(values.items())))


def _checked(key: str, value, option: Number | Text):
  if isinstance(option, Text):
    if value not in option.choices:
      raise UsageError(f"objective.{key}: got {value!r}; allowed: {', '.join(option.choices)}")
    return value
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise UsageError(f"objective.{key}: got {value!r} of type {type(value).__name__}; expected float")
  if not (value > option.low if option.above else value >= option.low):
    least = "above" if option.above else "at least"
    raise UsageError(f"objective.{key}: got {value}; expected a number {least} {option.low:g}")
  return float(value)


def given(objective: str | Callable, options: Mapping[str, Any] | None = None) -> Any:
  """What a user names or gives, as a factory; UsageError where it is neither."""
  if isinstance(objective, str):
    return chosen(objective, options)
  if options:
    raise UsageError("objective_options: belong to an objective that is named; a factory has its own")
  if not callable(objective):
    raise UsageError(
      f"objective: got {type(objective).__name__}; expected one of {', '.join(sorted(OBJECTIVES))}, or a factory "
      "(model, spec, values) -> Objective"
    )
  return objective
