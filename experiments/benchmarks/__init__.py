"""Benchmarks: paired, interleaved runs in one process, told as ratios of medians.

A suite is a module ``experiments/benchmarks/NAME.py`` with ``suite(report, repeats) -> Table``; ``report`` takes a line
of progress, ``repeats`` the rounds of each comparison. ``python -m launch.benchmark --suite=NAME`` runs and records it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Stats(NamedTuple):
  """Seconds of one function over the rounds: ``samples [R]``, paired by round with those of its rivals."""

  samples: np.ndarray

  @property
  def median(self) -> float:
    return float(np.median(self.samples))

  @property
  def spread(self) -> tuple[float, float]:
    """The first and third quartile, in seconds."""
    low, high = np.percentile(self.samples, (25, 75))
    return float(low), float(high)


class Table(NamedTuple):
  """What a suite returns: rows of equal keys, in the order they are to be shown, and remarks below them."""

  title: str
  rows: list[dict[str, Any]]
  notes: list[str] = []
  plot: Callable[[str], None] | None = None  # plot(path) draws the suite's picture


def clocked(function: Callable[[], Any]) -> Callable[[], float]:
  """``function`` as a timer: its seconds until what it returned is ready."""

  def run() -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start

  return run


def rounds(timers: Mapping[Any, Callable[[], float]], repeats: int, warmup: int = 1) -> dict[Any, Stats]:
  """Calls every timer once a round, in an order that rotates, so that a busy machine slows all alike.

  Each returns its seconds. ``warmup`` rounds are not counted: they compile.
  """
  names = list(timers)
  seconds: dict[Any, list[float]] = {name: [] for name in names}
  for turn in range(-warmup, repeats):
    first = turn % len(names)
    for name in names[first:] + names[:first]:
      elapsed = timers[name]()
      if turn >= 0:
        seconds[name].append(elapsed)
  return {name: Stats(np.array(values)) for name, values in seconds.items()}


def paired(functions: Mapping[str, Callable[[], Any]], repeats: int = 15, warmup: int = 2) -> dict[str, Stats]:
  """:func:`rounds` of functions, each by the clock until what it computed is ready."""
  return rounds({name: clocked(function) for name, function in functions.items()}, repeats, warmup)


def exponent(sizes, values) -> float:
  """The slope of ``log(values)`` in ``log(sizes)``, by least squares."""
  return float(np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float)), 1)[0])


def ratio(mine: Stats, base: Stats) -> tuple[float, float, float]:
  """Median, first and third quartile of ``mine / base``, round by round."""
  low, middle, high = np.percentile(mine.samples / base.samples, (25, 50, 75))
  return float(middle), float(low), float(high)


def shown(value: tuple[float, float, float]) -> str:
  """A ratio with its quartiles, such as ``1.12 [1.10, 1.15]``."""
  return "{:.2f} [{:.2f}, {:.2f}]".format(*value)


def names() -> list[str]:
  """Every suite's name: the public modules of this package."""
  return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str):
  """The module of one suite."""
  return importlib.import_module(f"experiments.benchmarks.{name}")


def machine() -> dict[str, Any]:
  """Versions and hardware, recorded with every figure."""
  import jaxlib
  import optax

  model = ""
  if os.path.exists("/proc/cpuinfo"):
    with open("/proc/cpuinfo") as lines:
      model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
  return {
    "device": jax.devices()[0].device_kind,
    "backend": jax.default_backend(),
    "cpu": model or platform.processor(),
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "load": round(os.getloadavg()[0], 1),
    "python": platform.python_version(),
    "jax": jax.__version__,
    "jaxlib": jaxlib.__version__,
    "optax": optax.__version__,
    "numpy": np.__version__,
  }


def markdown(rows: list[dict[str, Any]]) -> str:
  """Rows as a Markdown table; floats to three significant digits."""
  if not rows:
    return "(no rows)"
  columns = list(dict.fromkeys(k for row in rows for k in row))
  cell = lambda v: f"{v:.3g}" if isinstance(v, float) else str(v)
  lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
  lines += ["| " + " | ".join(cell(row.get(c, "")) for c in columns) + " |" for row in rows]
  return "\n".join(lines)
