"""Options of methods and objectives: a default and what is allowed, and the one check of a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cljax.core.checks import MOST
from cljax.core.types import UsageError


class Option(NamedTuple):
  """A hyper-parameter: its default and what is allowed. Floats are traced (a sweep varies them in one program).

  The default's type is that of the values; None: a function, or none, which is given from Python alone.
  """

  default: Any
  low: float | None = None
  high: float | None = None
  choices: tuple = ()
  needs: Mapping[str, tuple] = {}  # other options, and their values with which this one is read
  above: bool = False  # greater than ``low``, not equal
  below: bool = False  # less than ``high``, not equal


def checked(label: str, value, option: Option):
  """``value`` in the option's type; UsageError names ``label``, what was given and what is allowed."""
  kind, given = type(option.default), f"got {value!r} of type {type(value).__name__}"
  if option.choices:
    if value not in option.choices:
      raise UsageError(f"{label}: got {value!r}; allowed: {', '.join(map(str, option.choices))}")
    return value
  if option.default is None:
    if value is not None and not callable(value):
      raise UsageError(f"{label}: {given}; expected a function")
    return value
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
    if kind is int and option.low is not None:
      raise UsageError(f"{label}: got {value!r}; expected an integer of at least {option.low}")
    raise UsageError(f"{label}: {given}; expected {kind.__name__}")
  if kind not in (int, float):
    return value
  what, high = "an integer" if kind is int else "a number", option.high
  high = MOST if high is None and kind is int else high
  if value != value:
    raise UsageError(f"{label}: got {value}; expected a number")
  if option.low is not None and not (value > option.low if option.above else value >= option.low):
    raise UsageError(
      f"{label}: got {value}; expected {what} {'above' if option.above else 'of at least'} {option.low:g}"
    )
  if high is not None and (value >= high if option.below else value > high):
    told = f"{'below' if option.below else 'of at most'} {high if kind is int else f'{high:g}'}"
    raise UsageError(f"{label}: got {value}; expected {what} {told}")
  return value
