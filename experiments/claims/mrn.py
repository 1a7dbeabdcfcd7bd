"""Experts that stand under a router from few stored rows beat one network that replays as many."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("mrn",),
  paper="Zheng et al. 2023",
  sentence="Experts of each task, weighed by a router that is fitted on few stored rows, end at a better accuracy than "
  "one network that replays as many.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, 200 stored rows, SGD 0.05, batch 32, 5 "
  "epochs; the router by 30 passes of SGD 0.01, soft. Final average accuracy minus that of er with as many rows, "
  "in points; beside it the hard route.",
)


def measure(seeds):
  stream = digits("class")
  runs = {
    "mrn": train(stream, "mrn", seeds, capacity=200),
    "er": train(stream, "er", seeds, capacity=200),
    "hard route": train(stream, "mrn", seeds, capacity=200, route="hard"),
  }
  figures = {f"{n}, accuracy": percent(run) for n, run in runs.items()}
  figures |= {f"{n}, forgetting": forgetting(run) for n, run in runs.items()}
  figures |= {f"{n}, learned": learned(run) for n, run in runs.items()}
  return Measured({"accuracy of mrn - er": percent(runs["mrn"]) - percent(runs["er"])}, figures)
