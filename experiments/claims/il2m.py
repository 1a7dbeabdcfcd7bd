"""Scores of old classes, set right by what they were, improve fine-tuning with exemplars."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("il2m",),
  paper="Belouadah & Popescu 2019",
  sentence="Rectifying the scores of old classes by their statistics from when they were learned raises the accuracy "
  "of class-incremental fine-tuning with exemplars.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, 5 epochs in batches of 32, "
  "50 exemplars. Final average accuracy of il2m minus that of the same network without rectification, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  runs = {
    "il2m": train(stream, "il2m", seeds, capacity=50),
    "fine-tuning": train(stream, "il2m", seeds, capacity=50, rectify=False),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of il2m - fine-tuning": percent(runs["il2m"]) - percent(runs["fine-tuning"])}, figures)
