"""Scaling weights inside the spans of related tasks lets new tasks learn better than GPM lets them."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("trgp", "gpm"),
  paper="Lin et al. 2022",
  sentence="Trusting the spans of the old tasks nearest to a new one, with the weights scaled inside them, ends at a "
  "better accuracy task-incrementally than orthogonal projection alone.",
  protocol="Split digits, task-incremental, 5 tasks of 2 classes, 200 training rows, MLP 64-100-100-10, SGD 0.05, "
  "batch 32, 5 epochs; threshold .97 growing by .003 a task for both, trgp else at its defaults; final average "
  "accuracy of trgp minus that of gpm, in points. Forgetting beside it.",
  seeds=5,
)


def measure(seeds):
  stream = digits("task", rows=200)
  runs = {name: train(stream, name, seeds, threshold=0.97, threshold_step=0.003) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} right after learning": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of trgp - gpm": percent(runs["trgp"]) - percent(runs["gpm"])}, figures)
