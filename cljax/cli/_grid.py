"""Grids: points of a sweep, from ``--grid`` flags, ``--methods``, or a configuration file's ``get_hyper(h)``.

A point is a dict of overrides, ``{"method.name": "ewc", "method.strength": 10.0}``; a grid is a list of points.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cljax import UsageError
from cljax.cli._values import literal, short

Point = dict[str, Any]


def sweep(key: str, values: Iterable[Any]) -> list[Point]:
  """One point a value: ``h.sweep("method.strength", [1, 10])``. A leading ``config.`` in the key is allowed."""
  key, values = key.removeprefix("config."), list(values)
  if not values:
    raise UsageError(f"grid: {key} has no values; expected at least one")
  for i, value in enumerate(values):
    if value in values[:i]:
      raise UsageError(f"grid: {key} holds {value!r} twice")
  return [{key: value} for value in values]


def fixed(key: str, value: Any) -> list[Point]:
  """A single point: the same value in every run it is multiplied with."""
  return sweep(key, [value])


def product(grids: Sequence[list[Point]]) -> list[Point]:
  """All combinations, the last grid varying fastest."""
  return [_join(points) for points in itertools.product(*grids)]


def zipit(grids: Sequence[list[Point]]) -> list[Point]:
  """The first points of all grids together, then the second, ...; a grid of one point goes with every other."""
  longest = max((len(g) for g in grids), default=0)
  for g in grids:
    if len(g) not in (1, longest):
      raise UsageError(
        f"grid: zipit got grids of {', '.join(str(len(x)) for x in grids)} points; expected equal lengths"
      )
  return [_join(points) for points in zip(*(g * longest if len(g) == 1 else g for g in grids), strict=True)]


def chainit(grids: Iterable[list[Point]]) -> list[Point]:
  """One grid after the other: for methods with different keys."""
  return list(itertools.chain.from_iterable(grids))


def _join(points: Iterable[Point]) -> Point:
  out: Point = {}
  for point in points:
    for key, value in point.items():
      if key in out:
        raise UsageError(f"grid: {key} is varied twice; each key may stand once")
      out[key] = value
  return out


def parse(text: str) -> list[Point]:
  """One ``--grid``: ``method.strength=[1,10,100]``."""
  key, equals, values = text.partition("=")
  if not equals or not key.strip() or not values.strip():
    raise UsageError(f"grid: got {text!r}; expected KEY=[VALUE,...], such as method.strength=[1,10]")
  read = literal(values)
  if isinstance(read, str):
    text = f"grid: cannot read {short(values.strip())} of {key}; expected a list such as [1,10] or ['er','ewc']"
    raise UsageError(text)
  if not isinstance(read, list | tuple):
    raise UsageError(f"grid: {key} got {short(read)}; expected a list of values such as [{short(read)}]")
  return sweep(key.strip(), read)


ALL = "all"
# What a method may not do, as words behind all: those that are left keep to it.
_WITHOUT = {
  "no_rows": lambda a: not a.stores_data,
  "no_boundaries": lambda a: not a.task_boundaries,
  "no_task_data": lambda a: not a.boundary_data,
}


def families() -> dict[str, list[str]]:
  """``{family: methods that learn and whose point is not to forget}``, by the package or module that has the method:
  all but those of ``unlearning``."""
  from cljax import methods
  from cljax.methods import table

  out: dict[str, list[str]] = {}
  for name, entry in methods.METHODS.items():
    mine = table.family(entry)
    if mine not in ("unlearning", "your own"):
      out.setdefault(mine, []).append(name)
  return out


def named(words: Sequence[str]) -> tuple[list[str], set[str]]:
  """``(names, which of them come from "all")``: ``all`` is every method that learns, ``all:replay`` a family,
  ``all:no_rows`` those that store no rows; several words narrow down, as in ``all:penalties:no_task_data``."""
  from cljax import methods

  names: list[str] = []
  drawn: set[str] = set()
  for word in words:
    first, *rest = word.split(":")
    if first != ALL:
      names.append(word)
      continue
    known = families()
    found = [n for mine in known.values() for n in mine]
    for part in rest:
      if part in known:
        found = [n for n in found if n in known[part]]
      elif part in _WITHOUT:
        found = [n for n in found if _WITHOUT[part](methods.METHODS[n].access)]
      else:
        raise UsageError(f"methods: got {word!r}; allowed behind all: {', '.join([*known, *_WITHOUT])}")
    if not found:
      raise UsageError(f"methods: {word!r} is no method")
    drawn |= set(found) - set(words)
    names += found
  return list(dict.fromkeys(names)) if drawn else names, drawn


def points(grids: Sequence[str], methods: Sequence[str], module) -> list[Point]:
  """The points of a sweep: the product of ``--grid`` and ``--methods``; without them, the file's ``get_hyper``. Of a
  benchmark of presets, ``--methods`` are its settings."""

  parts = [parse(text) for text in grids]
  if hasattr(module, "preset_points"):
    parts.insert(0, module.preset_points(methods))
  elif methods:
    parts.insert(0, sweep("method.name", methods))
  if parts:
    return product(parts)
  if not hasattr(module, "get_hyper"):
    raise UsageError(
      "grid: not given; expected --grid='KEY=[VALUE,...]', --methods=A,B or get_hyper(h) in the config file"
    )
  found = module.get_hyper(sys.modules[__name__])
  if not isinstance(found, list) or not found or not all(isinstance(p, Mapping) for p in found):
    raise UsageError("grid: get_hyper(h) gave no points; expected what h.sweep, h.product, h.zipit or h.chainit return")
  return [dict(p) for p in found]


def label(point: Mapping[str, Any], method: str, forget: str, varied: Iterable[str]) -> str:
  """A short name of a point: the method and the keys that vary, such as ``er + ssd alpha=2``."""
  varied = [k for k in varied if not k.endswith(".name") or k.partition(".")[0] not in ("method", "forget")]
  fields = [k.partition(".")[2] for k in varied]
  short = lambda k: k if fields.count(k.partition(".")[2]) > 1 else k.partition(".")[2]
  shown = [f"{short(k)}={point[k]}" for k in varied if k in point]
  return " ".join([f"{method} + {forget}" if forget else method, *shown])
