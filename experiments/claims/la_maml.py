"""Rates that are learned by what a step does to old rows are worth more than replay at one rate."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("la_maml", "er"),
  paper="Gupta et al. 2020",
  sentence="In one pass over a stream of tasks, look-ahead steps with learned rates end at a better accuracy than "
  "experience replay with the same memory, and than look-ahead steps at a fixed rate (C-MAML).",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, one epoch in batches of 10 with 10 replayed "
  "rows, 100 rows kept, SGD 0.1; la_maml by its defaults but alpha_rate 0.1 (rates 0.1 at first, clip 2, second "
  "order), C-MAML at alpha 0.1. Final average accuracy of la_maml minus that of er, and of C-MAML, in points.",
)


def measure(seeds):
  stream = digits("permuted")
  given: dict[str, Any] = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 100}
  runs = {
    "la_maml": train(stream, "la_maml", seeds, alpha_rate=0.1, **given),
    "C-MAML": train(stream, "la_maml", seeds, rule="c_maml", **given),
    "er": train(stream, "er", seeds, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  mine = percent(runs["la_maml"])
  return Measured({f"accuracy of la_maml - {name}": mine - percent(runs[name]) for name in ("er", "C-MAML")}, figures)
