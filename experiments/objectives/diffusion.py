"""Diffusion on 8x8 digits in sequence: five tasks of two classes each, with the class as the condition.

``python -m experiments.objectives.diffusion --workdir=DIR [--seeds=3]``: writes the rows to ``DIR/digits.npz`` (values
from -1 to 1), trains each method by the command ``launch.sweep`` (this file is its configuration), then finetune on the
stream with a request, and writes the reports of ``launch.report``. Run it again to go on where it was stopped. The
score is the mean squared error of the predicted noise.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from experiments.objectives import _shared

FILE = "digits.npz"
METHODS = ("finetune", "er", "agem", "ewc", "lwf", "cumulative", "joint")
FORGET = "5:ids=0-99"


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": f"npz:{FILE}"})
  config.stream = ConfigDict({"kind": "class", "tasks": 5, "validation": 0.1})
  config.model = ConfigDict({"name": "denoiser", "hidden": (128, 128), "conditions": 10})
  config.objective = ConfigDict({"name": "denoising", "schedule": "cosine", "steps": 100, "drop": 0.1})
  config.optimizer = ConfigDict({"name": "adam", "learning_rate": 0.002})
  config.train = ConfigDict({"batch_size": 32, "epochs": 60})
  config.method_defaults = ConfigDict({
    "er": {"capacity": 100},
    "ewc": {"strength": 100.0},
    "agem": {"capacity": 100},
    "graddiff": {"forget_weight": 0.1, "learning_rate": 0.05, "steps": 50},
  })  # fmt: skip
  return config


def get_hyper(h):
  return _shared.each(h, allowed()[0])


def allowed() -> tuple[list[str], list[str]]:
  return _shared.allowed("denoising", METHODS)


def write_rows(folder: pathlib.Path) -> pathlib.Path:
  """``digits.npz``: pictures, classes as conditions and as labels, by the fixed split of ``cljax.data``."""
  from cljax import data

  path = folder / FILE
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    found, arrays = data.load("digits"), {}
    for name, split in (("train", found.train), ("test", found.test)):
      arrays[f"x_{name}/x"] = split.x.astype(np.float32) / 8 - 1
      arrays[f"x_{name}/condition"] = arrays[f"y_{name}"] = split.y
    np.savez(path, **arrays)
  return path


def run(workdir: str, seeds: str, more=()) -> int:
  return _shared.run(__file__, "denoising", allowed()[1], FORGET, workdir, seeds, more, write_rows)


if __name__ == "__main__":  # as a configuration it has no flags of its own
  _WORKDIR = flags.DEFINE_string("workdir", None, "folder for the rows, the runs and the reports", required=True)
  _SEEDS = flags.DEFINE_string("seeds", "3", "a number of seeds or a list")
  app.run(lambda argv: sys.exit(run(_WORKDIR.value, _SEEDS.value, argv[1:])))
