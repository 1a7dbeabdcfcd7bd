"""Columns that read earlier ones transfer what these learned, and forget nothing."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("pnn",),
  paper="Rusu et al. 2016",
  sentence="Lateral connections let a new column build on what earlier columns learned: it reaches a better accuracy "
  "than a column that learns from scratch, and nothing is forgotten.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, 100 training rows, MLP 64-100-100-10, SGD 0.05, batch 10, "
  "3 epochs (few, so that there is something to gain); mean accuracy right after learning of pnn at its "
  "default minus that at scale 0, where columns are independent, in points; forgetting is 0 exactly.",
)


def measure(seeds):
  stream = digits("task", rows=100)
  given = {"epochs": 3, "batch_size": 10}
  runs = {"lateral": train(stream, "pnn", seeds, **given), "alone": train(stream, "pnn", seeds, **given, scale=0.0)}
  runs["finetune"] = train(stream, "finetune", seeds, **given)
  for name in ("lateral", "alone"):
    assert np.all(forgetting(runs[name]) == 0), f"{name}: a task's accuracy changed after it was learned"
  figures = {f"{name} right after learning": learned(run) for name, run in runs.items()}
  figures |= {f"{name} accuracy": percent(run) for name, run in runs.items()}
  return Measured({"learned with laterals - without": learned(runs["lateral"]) - learned(runs["alone"])}, figures)
