"""The arguments of ``cljax.run`` from Python, checked as flags are: one line that names what was given."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cljax.core.types import Forget, Model, UsageError
from cljax.engine.recipe import Recipe
from cljax.engine.setup import Member, Options
from cljax.streams.build import Stream

MOST_MEMBERS = 10**6  # of a population: each has parameters of its own


def check_arguments(stream, model, training, options, sections: Mapping[str, Any], devices=None) -> None:
  """Raises UsageError unless these have their types; ``sections``: by name, mappings of options, or None."""
  for name, value, kind in (
    ("stream", stream, Stream),
    ("model", model, Model),
    ("training", training, Recipe),
    ("options", options, Options),
  ):
    if not isinstance(value, kind):
      how = "; cljax.models.from_linen, from_nnx or from_apply make one of yours" if kind is Model else ""
      raise UsageError(f"{name}: got {_shown(value)}; expected cljax.{kind.__name__}{how}")
  for name, value in sections.items():
    if value is not None and not isinstance(value, Mapping):
      raise UsageError(f"{name}: got {_shown(value)}; expected a mapping of names to values")
  if devices is not None and not isinstance(devices, Sequence | np.ndarray):
    raise UsageError(f"devices: got {_shown(devices)}; expected a list of JAX's devices")


def check_calls(workdir, report, stop) -> None:
  """Raises UsageError unless ``workdir`` is a path and the others can be called; None passes."""
  if workdir is not None and not isinstance(workdir, str | os.PathLike):
    raise UsageError(f"workdir: got {_shown(workdir)}; expected a path")
  for name, value in (("report", report), ("stop", stop)):
    if value is not None and not callable(value):
      raise UsageError(f"{name}: got {_shown(value)}; expected a function")


def answers_of(answers, stream) -> dict[int, tuple[str, dict[str, Any]]]:
  """``{event: (method, options)}`` of Forget events that other methods answer, in the order of the events."""
  if answers is not None and not isinstance(answers, Mapping):
    raise UsageError(f"answers: got {_shown(answers)}; expected {{event: method}}")
  out: dict[int, tuple[str, dict[str, Any]]] = {}
  for event, given in sorted((answers or {}).items(), key=lambda pair: str(pair[0]).rjust(9)):
    name, options = given if isinstance(given, tuple | list) and len(given) == 2 else (given, {})
    if not _whole(event) or not 0 <= event < len(stream.events) or not isinstance(stream.events[event], Forget):
      asked = [e for e, what in enumerate(stream.events) if isinstance(what, Forget)]
      raise UsageError(f"answers: got event {event!r}; the stream's Forget events are {asked or 'none'}")
    if not isinstance(name, str) or not isinstance(options, Mapping):
      raise UsageError(f"answers[{event}]: got {_shown(given)}; expected a method's name, or (name, options)")
    out[int(event)] = (name, dict(options))
  return out


def seeds_of(seeds) -> list[int]:
  """``3`` is seeds 0, 1, 2; else a list of them. NumPy's integers are integers; text and truth values are not."""
  if _whole(seeds):
    if not 1 <= seeds <= MOST_MEMBERS:
      raise UsageError(f"seeds: got {seeds}; expected at least 1 and at most {MOST_MEMBERS}")
    return list(range(int(seeds)))
  seeds = np.asarray(seeds) if isinstance(seeds, jax.Array) else seeds
  listed = isinstance(seeds, Sequence | np.ndarray) and not isinstance(seeds, str | bytes) and np.ndim(seeds) == 1
  out = [int(s) for s in seeds if _is_seed(s)] if listed else []
  if not out or len(out) < len(seeds) or len(set(out)) != len(out):
    raise UsageError(f"seeds: got {_shown(seeds)}; expected a number of seeds, or distinct seeds from 0 to 2**32 - 1")
  return out


def members_of(population) -> list[Member]:
  """The members of a population, each with a seed and finite numbers."""
  if not isinstance(population, Sequence) or isinstance(population, str | bytes | Member):
    raise UsageError(f"population: got {_shown(population)}; expected a list of cljax.Member")
  for at, member in enumerate(population):
    if not isinstance(member, Member):
      raise UsageError(f"population[{at}]: got {_shown(member)}; expected cljax.Member")
    if not _is_seed(member.seed):
      raise UsageError(f"population[{at}].seed: got {_shown(member.seed)}; expected an integer from 0 to 2**32 - 1")
    if not isinstance(member.hyper, Mapping):
      raise UsageError(f"population[{at}].hyper: got {_shown(member.hyper)}; expected a mapping of names to numbers")
    for name, value in member.hyper.items():
      if not _is_number(value):
        raise UsageError(f"population[{at}].hyper: {name} is {_shown(value)}; expected a finite number")
  return list(population)


def _whole(value) -> bool:
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_seed(value) -> bool:
  return _whole(value) and 0 <= value < 2**32


def _is_number(value) -> bool:
  array = isinstance(value, np.ndarray | jax.Array) and value.ndim == 0 and np.issubdtype(value.dtype, np.number)
  plain = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.complexfloating)
  return (plain or array) and math.isfinite(float(value))


def _shown(value) -> str:
  return f"{type(value).__name__} {repr(value)[:80]}"
