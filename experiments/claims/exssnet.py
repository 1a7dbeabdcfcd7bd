"""Training the weights that a mask has alone beats masks over weights that stand, and forgets nothing."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("exssnet",),
  paper="Yadav and Bansal 2023",
  sentence="After the search for a task's mask, training the weights that no earlier mask has improves accuracy over "
  "the mask alone, and forgets nothing.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, 500 training rows, MLP 64-100-100-10, Adam 0.01 (the "
  "paper's for masks), batch 32, 10 epochs, a tenth of the weights in each mask, half of the steps for the "
  "search; final average accuracy minus that where all steps search, in points; forgetting is 0 exactly.",
)


def measure(seeds):
  stream = digits("task", rows=500)
  given = {"epochs": 10, "learning_rate": 0.01, "optimizer": "adam"}
  runs = {
    name: train(stream, "exssnet", seeds, search=s, **given) for name, s in (("exssnet", 0.5), ("mask alone", 1.0))
  }
  for name, run in runs.items():
    assert np.all(forgetting(run) == 0), f"{name}: a task's accuracy changed after it was learned"
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} right after learning": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of exssnet - mask alone": percent(runs["exssnet"]) - percent(runs["mask alone"])}, figures)
