"""Recommendations in sequence: what four cohorts of users chose, one cohort after the other, ranked by BPR.

``python -m experiments.objectives.ranking --workdir=DIR [--seeds=3]``: writes the rows to ``DIR/ratings.npz``, trains
each method by the command ``launch.sweep`` (this file is its configuration), then finetune on the stream with a
request, and writes the reports of ``launch.report``. Run it again to go on where it was stopped.

The table is made by a seeded generator: items and users have factors of DIM standard normal numbers, a cohort's users
share a taste, of which twice is added to their own, and a user chooses CHOSEN items without replacement, by a softmax
of the inner products. A quarter of a user's choices is for tests. :func:`known` says how well those very factors rank.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from experiments.objectives import _shared

FILE = "ratings.npz"
COHORTS, USERS, ITEMS, CHOSEN, DIM = 4, 60, 150, 24, 4
METHODS = ("finetune", "er", "agem", "si", "ewc", "cumulative", "joint")
FORGET = "4:ids=0-199"


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": f"npz:{FILE}"})
  config.stream = ConfigDict({"kind": "group", "tasks": COHORTS, "validation": 0.1})
  config.model = ConfigDict({"name": "matrix_factorisation", "users": COHORTS * USERS, "items": ITEMS, "dim": 8})
  config.objective = ConfigDict({"name": "ranking", "items": ITEMS, "negatives": 4})
  config.optimizer = ConfigDict({"name": "adam", "learning_rate": 0.01})
  config.train = ConfigDict({"batch_size": 64, "epochs": 15})
  config.method_defaults = ConfigDict({"er": {"capacity": 400}, "agem": {"capacity": 400}, "si": {"strength": 1.0}})
  return config


def get_hyper(h):
  return _shared.each(h, allowed()[0])


def allowed() -> tuple[list[str], list[str]]:
  return _shared.allowed("ranking", METHODS, items=ITEMS)


def fit() -> np.ndarray:
  """``[users, items]``: the inner products that choices follow."""
  rng = np.random.default_rng(0)
  items, taste = rng.normal(size=(ITEMS, DIM)), rng.normal(size=(COHORTS, DIM))
  users = 2 * np.repeat(taste, USERS, 0) + rng.normal(size=(COHORTS * USERS, DIM))
  return users @ items.T


def choices() -> tuple[np.ndarray, np.ndarray]:
  """``(train [users, n], test [users, m])``: items by a softmax without replacement (Gumbel noise); which of them are
  for tests is drawn."""
  scores = fit()
  noise = np.random.default_rng(1).gumbel(size=scores.shape)
  chosen = np.random.default_rng(2).permuted(np.argsort(-(scores + noise), 1)[:, :CHOSEN], axis=1)
  return chosen[:, : CHOSEN * 3 // 4], chosen[:, CHOSEN * 3 // 4 :]


def known() -> float:
  """The share of pairs (test choice, other item) that the generator's own factors order rightly."""
  scores, held = fit(), choices()[1]
  mine = np.take_along_axis(scores, held, 1)
  above = mine[:, :, None] > scores[:, None, :]
  return float(above.sum() / (above.size - mine.size))  # an item is in no pair with itself


def write_rows(folder: pathlib.Path) -> pathlib.Path:
  """``ratings.npz``: pairs (user, item), the cohort, and as target, which BPR does not look at, the inner product."""
  path = folder / FILE
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    scores = fit()
    arrays: dict[str, Any] = {}
    for name, part in zip(("train", "test"), choices(), strict=True):
      user = np.repeat(np.arange(len(part)), part.shape[1])
      arrays[f"x_{name}"] = np.stack([user, part.reshape(-1)], 1).astype(np.int32)
      arrays[f"y_{name}"] = scores[user, part.reshape(-1)].astype(np.float32)
      arrays[f"group_{name}"] = user // USERS
    np.savez(path, **arrays)
  return path


def run(workdir: str, seeds: str, more=()) -> int:
  return _shared.run(__file__, "ranking", allowed()[1], FORGET, workdir, seeds, more, write_rows, items=ITEMS)


if __name__ == "__main__":  # as a configuration it has no flags of its own
  _WORKDIR = flags.DEFINE_string("workdir", None, "folder for the rows, the runs and the reports", required=True)
  _SEEDS = flags.DEFINE_string("seeds", "3", "a number of seeds or a list")
  app.run(lambda argv: sys.exit(run(_WORKDIR.value, _SEEDS.value, argv[1:])))
