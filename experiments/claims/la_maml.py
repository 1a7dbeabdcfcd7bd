"""Rates that are learned by what a step does to old rows are worth more than replay at one rate."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import forgetting, learned, mnist, percent, train

CLAIM = Claim(
  methods=("la_maml", "er"),
  paper="Gupta et al. 2020",
  sentence="In one pass over a stream of tasks, look-ahead steps with learned rates end at a better accuracy than "
  "experience replay with the same memory, and than look-ahead steps at a fixed rate (C-MAML).",
  protocol="Permuted MNIST, 20 tasks of all 10 classes, 1,000 rows each and 200 rows kept, MLP 784-100-100-10, one "
  "epoch in batches of 10 with 10 replayed rows, SGD 0.1; la_maml by its defaults but alpha_rate 0.1 (rates "
  "0.1 at first, clip 2, second order), C-MAML at alpha 0.1. Final average accuracy of la_maml minus that "
  "of er, and of C-MAML, in points. On permuted digits, 5 tasks and 100 rows kept, it was inconclusive (1.1 "
  "[-1.1, 3.4], 2.8 [0.6, 5.0]).",
)


def measure(seeds):
  stream = mnist("permuted", tasks=20, rows=1_000)
  given: dict[str, Any] = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 200}
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
