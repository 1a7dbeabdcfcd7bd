"""Rows that the coming step would hurt are worth more than uniform ones."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import forgetting, learned, mlp, mnist, percent, train

CLAIM = Claim(
  methods=("mir", "er"),
  paper="Aljundi et al. 2019, retrieval",
  sentence="In one pass over a class-incremental stream, replay of the rows whose loss the coming step would raise "
  "most ends at a better accuracy than uniform replay.",
  protocol="Split MNIST, class-incremental, 5 tasks of 2 classes, 1,000 rows each (the paper's), MLP 784-400-10, SGD "
  "0.05, one epoch in batches of 10 with 10 replayed rows, 500 rows kept, of which 50 are candidates; final "
  "average accuracy of mir minus that of er, in points. The virtual step is as large as the real one. On "
  "digits, MLP 64-100-100-10, SGD 0.1 and 100 rows kept, it was inconclusive (2.5 [-1.5, 6.5]).",
  seeds=10,
)


def measure(seeds):
  stream = mnist("class", rows=5_000)
  given: dict[str, Any] = {"epochs": 1, "batch_size": 10, "learning_rate": 0.05, "capacity": 500}
  given["model"] = mlp(stream, (400,))
  runs = {
    name: train(stream, name, seeds, **given, **({"virtual_rate": 0.05} if name == "mir" else {}))
    for name in CLAIM.methods
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of mir - er": percent(runs["mir"]) - percent(runs["er"])}, figures)
