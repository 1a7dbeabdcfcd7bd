"""Features crossed with one another: a design in which every two levels of any two factors meet, one run a row.

``python -m experiments.metamorphic --law=crossed --workdir=DIR`` runs the whole of it. Entries come from the registry
and the proof records alone, so that a new one is in it without a line here.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import cljax
from cljax import methods
from experiments import _metamorphic_draw as draws
from experiments._metamorphic_laws import LAWS, law
from experiments._metamorphic_trial import Trial

# With an entry that only answers requests, 'beside' is what learns; its own answer stands in for 'forget'.
FACTORS: dict[str, tuple] = {
  "beside": ("", "er", "ewc", "lwf"),
  "order": ((), (0, 1, 0), (1, 0, 0, 1)),
  "active": ("all", "seen", "task"),
  "forget": ("", "retrain", "ssd", "graddiff"),
  "dtype": ("float32", "bfloat16"),
  "seeds": ((0,), (3, 1)),
  "optimizer": ("sgd", "adam"),
}
TRIED = ("resumed", "population", "tasks renamed", "classes renamed")


def covering(factors: dict[str, tuple], seed: int, candidates: int = 8) -> list[dict[str, Any]]:
  """Rows in which every pair of levels of two factors comes at least once; greedy, so not the fewest."""
  rng, names = np.random.default_rng(seed), list(factors)
  factor = np.repeat(np.arange(len(names)), [len(factors[n]) for n in names])  # of each level, all in one line
  levels = [np.flatnonzero(factor == k) for k in range(len(names))]
  open_ = factor[:, None] != factor  # [levels, levels] bool, symmetric: pairs that no row has yet
  rows = []
  while open_.any():
    pairs = np.argwhere(open_)
    tried = []
    for _ in range(candidates):
      row = pairs[rng.integers(len(pairs))].tolist()
      for k in rng.permutation([k for k in range(len(names)) if k not in factor[row]]):
        order = rng.permutation(levels[k])
        row.append(int(order[open_[order][:, row].sum(1).argmax()]))
      tried.append(row)
    best = max(tried, key=lambda row: open_[np.ix_(row, row)].sum())
    open_[np.ix_(best, best)] = False
    rows.append({names[factor[at]]: factors[names[factor[at]]][at - levels[factor[at]][0]] for at in sorted(best)})
  return rows


@functools.lru_cache(maxsize=4)
def design(seed: int) -> list[dict[str, Any]]:
  return covering({"entry": tuple(sorted(methods.METHODS)), **FACTORS}, seed)


def combination(row: dict[str, Any], rng) -> draws.Combination:
  """The run of a row."""
  name, beside, forget = row["entry"], row["beside"], row["forget"]
  access = methods.lookup(name).access
  learns = [n for n in dict.fromkeys((name, beside)) if n]
  if access.forgets:
    learns, forget = ([beside] if beside and not access.task_boundaries else []), name
  part = lambda n: draws.Part(n, draws.options_of(rng, n))
  stream: dict[str, Any] = {"tasks": 2, "active": row["active"], "validation": 0.2}
  if row["order"]:
    stream["order"] = row["order"]
  out = draws.Combination(
    parts=tuple(map(part, learns)),
    forget=part(forget) if forget else None,
    kind="task" if access.task_id_at_test else "class",
    stream=stream,
    classes=4,
    rows=60,
    data_seed=0,
    requests=(),
    seeds=row["seeds"],
    optimizer=row["optimizer"],
    learning_rate=0.01 if row["optimizer"] == "adam" else 0.05,
    recipe=cljax.Recipe(batch_size=draws.BATCH, epochs=1),
    options=cljax.Options(chunk_steps=5),
    activation="relu",
    dtype=row["dtype"],
  )
  return draws.with_requests(rng, out) if forget else out


@law("crossed", "what holds of a feature holds of any two of them together", weight=0)
def crossed(trial: Trial, rng) -> str | None:
  for name in TRIED:
    if LAWS[name].applies(trial.combination):
      found = LAWS[name].check(trial, rng)
      if found:
        return f"{name}: {found}"
  return None
