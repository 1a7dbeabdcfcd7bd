"""Regression in sequence: scikit-learn's diabetes rows by body mass, five groups one after the other.

``python -m experiments.objectives.regression --workdir=DIR [--seeds=5]``: writes the rows to ``DIR/diabetes.npz``,
trains each method by the command ``launch.sweep`` (this file is its configuration) and writes the report of
``launch.report``. Run it again to go on where it was stopped. Inputs and targets have mean 0 and variance 1 over all
rows, so that a squared error of 1 is that of the mean; a quarter of the rows is for tests. A method that needs what the
objective does not have is left out, with a line that says so.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

FILE = "diabetes.npz"
GROUPS = 5
BODY_MASS = 2  # column
METHODS = ("finetune", "er", "ewc", "si", "l2", "gem", "cumulative", "joint")


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": f"npz:{FILE}"})
  config.stream = ConfigDict({"kind": "group", "tasks": GROUPS, "validation": 0.15})
  config.model = ConfigDict({"name": "mlp", "hidden": (32,)})
  config.objective = ConfigDict({"name": "regression", "noise": 0.5})
  config.optimizer = ConfigDict({"learning_rate": 0.02})
  config.train = ConfigDict({"batch_size": 16, "epochs": 40})
  config.eval = ConfigDict({"every": 20})
  config.method_defaults = ConfigDict({"er": {"capacity": 50}, "gem": {"capacity": 50}})
  return config


def get_hyper(h):
  """Each method; those with a strength with several, which share a program."""
  wide = lambda m: h.product([h.fixed("method.name", m), h.sweep("method.strength", [0.01, 0.1, 1.0, 10.0])])
  return h.chainit([wide(m) if m in ("ewc", "si", "l2") else h.fixed("method.name", m) for m in allowed()[0]])


def allowed() -> tuple[list[str], list[str]]:
  """The methods that regression has all for, and a line for each of the others."""
  from cljax import methods, objectives

  objective = objectives.regression()(None, None, {})
  missing = {m: [n for n in methods.lookup(m).access.needs if not getattr(objective, n)] for m in METHODS}
  lines = [f"{m}: left out, needs {', '.join(lacks)}" for m, lacks in missing.items() if lacks]
  return [m for m in METHODS if not missing[m]], lines


def write_rows(folder: pathlib.Path) -> pathlib.Path:
  """``diabetes.npz`` with x, y and group of train and test, the same bytes each time."""
  from sklearn.datasets import load_diabetes

  x, y = load_diabetes(return_X_y=True)
  x, y = (((a - a.mean(0)) / a.std(0)).astype(np.float32) for a in (x, y))
  mass = x[:, BODY_MASS]
  group = np.searchsorted(np.quantile(mass, np.arange(1, GROUPS) / GROUPS), mass).astype(np.int32)
  test = np.arange(len(x)) % 4 == 3
  parts = {"x": x, "y": y, "group": group}
  path = folder / FILE
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{f"{k}_{s}": v[m] for k, v in parts.items() for s, m in (("train", ~test), ("test", test))})
  return path


def run(workdir: str, seeds: str, more=()) -> int:
  """Writes the rows, sweeps and reports; the exit code. ``more``: flags of ``launch.sweep``."""
  from cljax.cli import report, sweep

  write_rows(pathlib.Path(workdir))
  for line in allowed()[1]:
    print(line, file=sys.stderr)
  given = [
    f"--config={__file__}",
    f"--workdir={workdir}/sweep",
    f"--config.data.data_dir={workdir}",
    f"--seeds={seeds}",
  ]
  return sweep.main(["sweep", *given, *more]) or report.main(["report", f"{workdir}/sweep"])


if __name__ == "__main__":  # as a configuration it has no flags of its own
  _WORKDIR = flags.DEFINE_string("workdir", None, "folder for the rows, the runs and the report", required=True)
  _SEEDS = flags.DEFINE_string("seeds", "5", "a number of seeds or a list")
  app.run(lambda argv: sys.exit(run(_WORKDIR.value, _SEEDS.value, argv[1:])))
