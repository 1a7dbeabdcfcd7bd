"""A variational autoencoder on digits in sequence: five tasks of two classes each.

``python -m experiments.objectives.vae --workdir=DIR [--seeds=3]``: trains each method by the command ``launch.sweep``
(this file is its configuration), then finetune on the stream with a request, and writes the reports of
``launch.report``. Run it again to go on where it was stopped. The score is minus the evidence lower bound of a row, in
nats, of the mean code.
"""

from __future__ import annotations

import sys

from absl import app, flags
from ml_collections import ConfigDict

from experiments.objectives import _shared

METHODS = ("finetune", "er", "agem", "ewc", "lwf", "cumulative", "joint")
FORGET = "5:ids=0-99"


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": "digits"})
  config.stream = ConfigDict({"kind": "class", "tasks": 5, "validation": 0.1})
  config.model = ConfigDict({"name": "vae", "latent": 8, "hidden": (128,)})
  config.objective = ConfigDict({"name": "reconstruction"})
  config.optimizer = ConfigDict({"name": "adam", "learning_rate": 0.003})
  config.train = ConfigDict({"batch_size": 32, "epochs": 30})
  config.method_defaults = ConfigDict({
    "er": {"capacity": 100},
    "ewc": {"strength": 100.0},
    "agem": {"capacity": 100},
    "graddiff": {"forget_weight": 0.05, "learning_rate": 0.002, "steps": 50},
  })  # fmt: skip
  return config


def get_hyper(h):
  return _shared.each(h, allowed()[0])


def allowed() -> tuple[list[str], list[str]]:
  return _shared.allowed("reconstruction", METHODS)


def run(workdir: str, seeds: str, more=()) -> int:
  return _shared.run(__file__, "reconstruction", allowed()[1], FORGET, workdir, seeds, more)


if __name__ == "__main__":  # as a configuration it has no flags of its own
  _WORKDIR = flags.DEFINE_string("workdir", None, "folder for the runs and the reports", required=True)
  _SEEDS = flags.DEFINE_string("seeds", "3", "a number of seeds or a list")
  app.run(lambda argv: sys.exit(run(_WORKDIR.value, _SEEDS.value, argv[1:])))
