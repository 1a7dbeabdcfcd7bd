"""Successive halving over seeds: who goes on to more of them, on validation rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cljax.evaluation import scores, selection


class Rung(NamedTuple):
  """A round of a search: so many of the best configurations, on so many seeds."""

  configurations: int
  seeds: int


def rungs(configurations: int, seeds: int, count: int) -> list[Rung]:
  """``count`` rounds: each has half of the configurations of the one before (rounded up), on twice its seeds."""
  out = [Rung(configurations, seeds)]
  for _ in range(count - 1):
    out.append(Rung(-(-out[-1].configurations // 2), 2 * out[-1].seeds))
  return out


def trained(plan: Sequence[Rung]) -> int:
  """Runs (a configuration and a seed) that a plan trains: what a later round has from an earlier one is kept."""
  before = [Rung(0, 0), *plan[:-1]]
  return sum(now.configurations * (now.seeds - old.seeds) for now, old in zip(plan, before, strict=True))


def score(result: Mapping[str, Any], seeds: Sequence[int]) -> float | None:
  """``mean_s mean_i V_s[last Learn, i]`` of validation rows over these seeds and the tasks learned; None where one of
  them is missing, diverged or was not measured."""
  if "validation_matrix" not in result or not set(seeds) <= set(result["seeds"]):
    return None
  at = [result["seeds"].index(s) for s in seeds]
  alive = result.get("alive") or [True] * len(result["seeds"])
  held = selection.validation_accuracy(result["validation_matrix"], result["events"])[at]
  return float(held.mean()) if all(alive[i] for i in at) and np.isfinite(held).all() else None


def best(results: Sequence[Mapping[str, Any] | None], seeds: Sequence[int], keep: int) -> list[int]:
  """The places of the ``keep`` best, best first; of equals the earlier one. What has no score is never among them."""
  found = [(None if r is None else score(r, seeds), r) for r in results]
  order = [(-scores.sign(scores.better(r)) * v, i) for i, (v, r) in enumerate(found) if v is not None and r is not None]
  return [i for _, i in sorted(order)[:keep]]
