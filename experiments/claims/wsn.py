"""Subnetworks that are learned with their weights forget nothing and beat those that are found by pruning."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("wsn", "packnet"),
  paper="Kang et al. 2022",
  sentence="Learning each task's subnetwork and its weights together forgets nothing and ends at a better accuracy "
  "than pruning each task's weights after they were trained.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, 500 training rows, MLP 64-100-100-10, Adam 0.001 (the "
  "paper's), batch 32, 15 epochs, half of the weights in each mask; packnet prunes half, a third of the "
  "steps behind it. Final average accuracy of wsn minus that of packnet, in points; forgetting of both is 0 "
  "exactly.",
)


def measure(seeds):
  stream = digits("task", rows=500)
  given = {"epochs": 15, "learning_rate": 0.001, "optimizer": "adam"}
  runs = {name: train(stream, name, seeds, **given) for name in ("wsn", "packnet", "finetune")}
  for name in CLAIM.methods:
    assert np.all(forgetting(runs[name]) == 0), f"{name}: a task's accuracy changed after it was learned"
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} right after learning": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of wsn - packnet": percent(runs["wsn"]) - percent(runs["packnet"])}, figures)
