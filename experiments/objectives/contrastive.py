"""Learning without labels, in sequence: SimCLR on scikit-learn's digits, two classes after two, by a linear probe.

``python -m experiments.objectives.contrastive --workdir=DIR [--seeds=3]``: trains each method by the command
``launch.sweep`` (this file is its configuration) and writes the report of ``launch.report``. Run it again to go on
where it was stopped. The main score is the contrastive loss, which no label enters; what the representation is worth is
said by the evaluator ``linear_probe``: a ridge classifier on the frozen features of all classes met so far, its
accuracy on each task's test rows. A method that needs what the objective does not have is left out, with a line that
says so.
"""

from __future__ import annotations

import sys

from absl import app, flags
from ml_collections import ConfigDict

METHODS = ("finetune", "er", "ewc", "si", "lwf", "cumulative")


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": "digits"})
  config.stream = ConfigDict({"kind": "class", "tasks": 5, "validation": 0.15})
  config.model = ConfigDict({"name": "mlp", "hidden": (128, 32)})
  config.objective = ConfigDict({"name": "contrastive", "temperature": 0.5, "noise": 0.3, "drop": 0.3})
  config.optimizer = ConfigDict({"learning_rate": 0.1})
  config.train = ConfigDict({"batch_size": 64, "epochs": 40})
  config.evaluators = ("linear_probe",)
  config.method_defaults = ConfigDict({"er": {"capacity": 200}})
  return config


def get_hyper(h):
  """Each method; those with a strength with several, which share a program."""
  wide = lambda m: h.product([h.fixed("method.name", m), h.sweep("method.strength", [0.01, 0.1, 1.0])])
  return h.chainit([wide(m) if m in ("ewc", "si") else h.fixed("method.name", m) for m in allowed()[0]])


def allowed() -> tuple[list[str], list[str]]:
  """The methods that the objective has all for, and a line for each of the others."""
  from cljax import methods, objectives

  objective = objectives.contrastive()(None, None, {})
  missing = {m: [n for n in methods.lookup(m).access.needs if not getattr(objective, n)] for m in METHODS}
  lines = [f"{m}: left out, needs {', '.join(lacks)}" for m, lacks in missing.items() if lacks]
  return [m for m in METHODS if not missing[m]], lines


def run(workdir: str, seeds: str, more=()) -> int:
  """Sweeps and reports; the exit code. ``more``: flags of ``launch.sweep``."""
  from cljax.cli import report, sweep

  for line in allowed()[1]:
    print(line, file=sys.stderr)
  given = [f"--config={__file__}", f"--workdir={workdir}/sweep", f"--seeds={seeds}"]
  return sweep.main(["sweep", *given, *more]) or report.main(["report", f"{workdir}/sweep"])


if __name__ == "__main__":  # as a configuration it has no flags of its own
  _WORKDIR = flags.DEFINE_string("workdir", None, "folder for the runs and the report", required=True)
  _SEEDS = flags.DEFINE_string("seeds", "3", "a number of seeds or a list")
  app.run(lambda argv: sys.exit(run(_WORKDIR.value, _SEEDS.value, argv[1:])))
