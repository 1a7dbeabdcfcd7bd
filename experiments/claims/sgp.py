"""SGP learns new tasks better than GPM, and forgets hardly more."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("sgp", "gpm"),
  paper="Saha and Roy 2023",
  sentence="Scaling steps along old directions by their importance, instead of closing them, ends at a better accuracy "
  "task-incrementally.",
  protocol="Split digits, task-incremental, 5 tasks of 2 classes, 200 training rows, MLP 64-100-100-10, SGD 0.05, "
  "batch 32, 5 epochs; threshold .97 growing by .003 a task for both, alpha 10; final average accuracy of sgp minus "
  "that of gpm, in points. Forgetting beside it.",
  seeds=5,
)


def measure(seeds):
  stream = digits("task", rows=200)
  runs = {name: train(stream, name, seeds, threshold=0.97, threshold_step=0.003) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} right after learning": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of sgp - gpm": percent(runs["sgp"]) - percent(runs["gpm"])}, figures)
