"""SGP learns new tasks better than GPM, and forgets hardly more."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import forgetting, learned, mnist, percent, train

CLAIM = Claim(
  methods=("sgp", "gpm"),
  paper="Saha and Roy 2023",
  sentence="Scaling steps along old directions by their importance, instead of closing them, ends at a better "
  "accuracy.",
  protocol="Permuted MNIST, 10 tasks of all 10 classes, 5,000 rows each, MLP 784-100-100-10, SGD 0.01, batch 10, 5 "
  "epochs (the paper's but for the rows); threshold 0.95 for both, alpha 10; final average accuracy of sgp "
  "minus that of gpm, in points. Forgetting beside it. On task-incremental digits, 5 tasks of 2 classes, "
  "200 rows, SGD 0.05, batch 32 and threshold 0.97 growing by 0.003 a task, it was inconclusive (0.3 [-0.3, "
  "0.9]).",
  seeds=5,
)


def measure(seeds):
  stream = mnist("permuted", tasks=10, rows=5_000)
  given: dict[str, Any] = {"batch_size": 10, "learning_rate": 0.01, "threshold": 0.95, "threshold_step": 0.0}
  runs = {name: train(stream, name, seeds, **given) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} right after learning": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of sgp - gpm": percent(runs["sgp"]) - percent(runs["gpm"])}, figures)
