"""The claims ledger: one small file for each claim of a paper, measured on an embedded dataset.

A file ``experiments/claims/NAME.py`` holds ``CLAIM = Claim(...)`` and ``measure(seeds) -> Measured``. Effects are one
number a seed, each claimed to be above its margin; the verdict comes from their confidence intervals alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import NamedTuple

import numpy as np

VERDICTS = ("holds", "does not hold at this scale", "inconclusive")


class Claim(NamedTuple):
  """What a paper claims and how it is tried here: ``seeds`` repetitions; ``quick``: part of the subset that CI runs."""

  methods: tuple[str, ...]  # names in cljax.methods or of public functions
  paper: str
  sentence: str  # the paper's claim in one sentence
  protocol: str  # dataset, stream, model, arms, what is compared
  seeds: int = 5
  quick: bool = False


class Measured(NamedTuple):
  """``effects``: {condition: [S] one number a seed, claimed above 0}; ``figures``: {label: [S] numbers} for the
  reader, such as each arm's accuracy in percent. Pairs of arms share the seed, so an effect is a paired difference."""

  effects: dict[str, np.ndarray]
  figures: dict[str, np.ndarray] = {}


class Interval(NamedTuple):
  mean: float
  low: float
  high: float
  verdict: str


def interval(values, confidence: float = 0.95) -> Interval:
  """Student's t interval of the mean of ``values [S]`` (S >= 2), and its verdict against 0.

  *holds*: the interval lies above 0; *does not hold at this scale*: it lies at or below 0; else *inconclusive*. Where
  all values are equal the interval is that value. A value that is not finite makes it *does not hold*: a diverged arm
  is a finding, not a gap.
  """
  from scipy import stats

  values = np.asarray(values, np.float64)
  if values.ndim != 1 or len(values) < 2:
    raise ValueError(f"effects: got shape {values.shape}; expected [S] with S >= 2")
  if not np.isfinite(values).all():
    return Interval(float("nan"), float("nan"), float("nan"), VERDICTS[1])
  mean = float(values.mean())
  half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
  low, high = mean - half, mean + half
  verdict = VERDICTS[0] if low > 0 else VERDICTS[1] if high <= 0 else VERDICTS[2]
  return Interval(mean, low, high, verdict)


def verdict(intervals) -> str:
  """A claim holds where each of its conditions holds; it does not where one does not; else it is inconclusive."""
  found = [i.verdict for i in intervals]
  if all(v == VERDICTS[0] for v in found):
    return VERDICTS[0]
  return VERDICTS[1] if VERDICTS[1] in found else VERDICTS[2]


def names() -> list[str]:
  """Every claim's name: the public modules of this package."""
  return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str):
  """The module of one claim."""
  return importlib.import_module(f"experiments.claims.{name}")
