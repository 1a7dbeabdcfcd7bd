"""What a result is judged by: its scores, which of them is the main one, which way is better, and how they are written.

Where accuracy is the only score, ``result.json`` holds it as ``accuracy_matrix`` and says no more; else it holds
``scores {name: [S][E+1][T]}``, ``better {name: 'higher' | 'lower'}``, ``main`` (its ``metrics`` are that one's) and
``score_metrics {name: metrics}`` of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ACCURACY = "accuracy"
BETTER = ("higher", "lower")


def main(result: Mapping[str, Any]) -> str:
  """The score that ``metrics``, ``validation_matrix`` and ``curves`` are of."""
  return str(result.get("main", ACCURACY))


def better(result: Mapping[str, Any], name: str = "") -> str:
  """``'higher'`` or ``'lower'``, of a score (default: the main one)."""
  return str(result.get("better", {}).get(name or main(result), "higher"))


def matrices(result: Mapping[str, Any]) -> dict[str, Any]:
  """``{name: [S][E+1][T]}``, the main score first."""
  held = result["scores"] if "scores" in result else {ACCURACY: result["accuracy_matrix"]}
  first = main(result)
  return {first: held[first], **{n: v for n, v in held.items() if n != first}}


def sign(better: str) -> int:
  """What makes higher better: -1 where lower is."""
  return -1 if better == "lower" else 1


def label(name: str) -> str:
  """A score's name in sentences and headings: ``squared_error`` is 'squared error'."""
  return name.replace("_", " ")


def number(name: str, value: float) -> str:
  """A score's value, accuracy in percent: ``81.2``; others with four digits: ``0.4631``."""
  return f"{100 * value:.1f}" if name == ACCURACY else f"{value:.4g}"


def with_error(name: str, mean: float | None, stderr: float | None, nothing: str = "-") -> str:
  """``81.2 ± 1.0`` of accuracy, in percent; ``0.4631 ± 0.012`` of other scores; no error for one seed."""
  if mean is None or math.isnan(mean):
    return nothing
  if stderr is None or math.isnan(stderr):
    return number(name, mean)
  return f"{number(name, mean)} ± {100 * stderr:.1f}" if name == ACCURACY else f"{number(name, mean)} ± {stderr:.2g}"


def unit(name: str, before: str = ", ") -> str:
  """``', %'`` behind the name of accuracy; nothing behind others."""
  return f"{before}%" if name == ACCURACY else ""
