"""A name of a registry means one thing: no method is called as an objective or an evaluator is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cljax.core.types import UsageError

TABLES: dict[str, Mapping[str, Any]] = {}
_WHAT = {"method.name": "a method", "objective.name": "an objective", "evaluators": "an evaluator"}


def check_free(kind: str, name: str) -> None:
  """UsageError where ``name`` is one of another kind's table; ``kind`` is the argument that a name is given by."""
  for other, table in TABLES.items():
    if other != kind and name in table:
      raise UsageError(f"{kind}: {name!r} is already the name of {_WHAT[other]}; a name means one thing")
