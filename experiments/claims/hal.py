"""Anchors whose outputs a step may not change improve replay."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import forgetting, mlp, mnist, percent, train

CLAIM = Claim(
  methods=("hal", "er"),
  paper="Chaudhry et al. 2021",
  sentence="In one pass over a stream of tasks, replay that keeps the outputs on anchors, made where forgetting is "
  "largest, ends at a better accuracy than replay with the same ring buffer.",
  protocol="Permuted MNIST, 20 tasks of all 10 classes, 1,000 rows each, MLP 784-256-256-10, SGD 0.1, one epoch in "
  "batches of 10 with 10 replayed rows, a ring of 200, which is one row of each class and task; hal's "
  "virtual step is as large as the real one, its strength 0.1. Final average accuracy of hal minus that of "
  "er, in points. On task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10 and a ring of 50, it "
  "did not hold (-0.8 [-1.5, -0.0]).",
  seeds=10,
)


def measure(seeds):
  stream = mnist("permuted", tasks=20, rows=1_000)
  given: dict[str, Any] = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 200, "policy": "ring"}
  given["model"] = mlp(stream, (256, 256))
  runs = {name: train(stream, name, seeds, **given) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  return Measured({"accuracy of hal - er": percent(runs["hal"]) - percent(runs["er"])}, figures)
