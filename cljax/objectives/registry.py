"""Objectives by name, with their options."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cljax.core import names
from cljax.core.options import Option, checked
from cljax.core.types import UsageError
from cljax.objectives.objective import Objective

SECTION = "objective"


def Number(default: float, low: float = 0.0, above: bool = False, high: float | None = None) -> Option:
  """A float option, which is traced: a sweep varies it in one program."""
  return Option(float(default), low, high, above=above)


def Whole(default: int, low: int = 0) -> Option:
  """An integer option, which is static: it sets shapes."""
  return Option(default, low)


def Text(default: str, choices: tuple[str, ...]) -> Option:
  """An option that is one of some names."""
  return Option(default, choices=choices)


def Function() -> Option:
  """An option that is a function of the user's own, given from Python alone: a configuration does not list it. Without
  one the objective takes its own."""
  return Option(None)


class Offer(NamedTuple):
  """``make(model, spec, **options) -> Objective`` and its options."""

  make: Callable[..., Objective]
  options: Mapping[str, Option]


OBJECTIVES: dict[str, Offer] = {}
names.TABLES["objective.name"] = OBJECTIVES


class Chosen(NamedTuple):
  """An objective with its options: a factory ``(model, spec, values) -> Objective``. ``values`` hold the traced ones
  under ``objective.NAME``."""

  name: str
  options: tuple[tuple[str, Any], ...] = ()

  @property
  def hyper(self) -> dict[str, float]:
    """The options that are traced."""
    return {f"{SECTION}.{k}": v for k, v in self.options if isinstance(v, float)}

  @property
  def own_code(self) -> bool:
    """Whether an option is a function of the user's own."""
    return any(callable(v) for _, v in self.options)

  @property
  def told(self) -> str:
    """The options as a run's identity has them: functions by name, the same in every process."""
    name = lambda v: f"{v.__module__}.{getattr(v, '__qualname__', type(v).__name__)}" if callable(v) else v
    return repr(tuple((k, name(v)) for k, v in self.options))

  def __call__(self, model, spec, values: Mapping[str, Any]) -> Objective:
    given = {k: values.get(f"{SECTION}.{k}", v) for k, v in self.options}
    return OBJECTIVES[self.name].make(model, spec, **given)


def offered(**options: Option):
  """Registers the decorated ``make(model, spec, **options)`` under its name; what is left calls for a factory."""

  def register(make):
    name = make.__name__
    code = lambda function: (function.__code__.co_filename, function.__qualname__)
    if name in OBJECTIVES and code(OBJECTIVES[name].make) != code(make):  # a file may be read again
      raise UsageError(f"objective.name: {name!r} is already registered")
    names.check_free("objective.name", name)
    OBJECTIVES[name] = Offer(make, options)

    @functools.wraps(make)
    def call(**given: Any) -> Chosen:
      return chosen(name, given)

    del call.__wrapped__  # its signature is not that of ``make``
    return call

  return register


def offer_of(name: str) -> Offer:
  """What is offered under a name; UsageError names the nearest where there is none."""
  if name not in OBJECTIVES:
    near = difflib.get_close_matches(str(name), OBJECTIVES, 3) or sorted(OBJECTIVES)
    raise UsageError(f"objective.name: unknown {name!r}; did you mean {', '.join(near)}?")
  return OBJECTIVES[name]


def defaults(name: str) -> dict[str, Any]:
  """The options that a configuration lists and their defaults, which of an option that has to be given is not allowed
  itself."""
  return {k: o.default for k, o in sorted(offer_of(name).options.items()) if o.default is not None}


def chosen(name: str, given: Mapping[str, Any] | None = None) -> Chosen:
  """The factory of a name; UsageError names an objective or option that is not known, a value not allowed, or an option
  that has to be given."""
  options = offer_of(name).options
  for key in given or {}:
    if key not in options:
      raise UsageError(f"objective.{key}: {name!r} has no such option; allowed: {', '.join(sorted(options)) or 'none'}")
  values = {k: _checked(k, (given or {}).get(k, option.default), option) for k, option in options.items()}
  return Chosen(name, tuple(sorted((k, v) for k, v in values.items() if v is not None)))


def _checked(key: str, value, option: Option):
  label, default = f"{SECTION}.{key}", option.default
  if isinstance(value, int) and value == default and option.low is not None and value < option.low:
    raise UsageError(f"{label}: not given; expected an integer of at least {option.low}")
  return checked(label, value, option)


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
