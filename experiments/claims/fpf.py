"""Finetuning of few modules at few times does what replay in each step does."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("fpf", "er"),
  paper="Zhao et al. 2023",
  sentence="Plain training with 40 finetuning steps of two modules on stored rows, where each task ends, is more "
  "accurate than experience replay from as large a memory in each step, which takes more batches of stored rows.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, 5 epochs in batches of 32 (45 "
  "or 50 steps a task), 200 rows kept, 32 replayed; the two layers of three that moved most, at rate 0.05. Final "
  "average accuracy minus that of er, in points.",
  seeds=5,
)


def measure(seeds):
  stream, given = digits("class"), {"capacity": 200, "replay_batch": 32}
  few = {**given, "steps": 40}
  runs = {
    "two modules": train(stream, "fpf", seeds, **few, modules=2),
    "one module": train(stream, "fpf", seeds, **few, modules=1),
    "all modules": train(stream, "fpf", seeds, **few, modules=3),
    "two, every 23 steps": train(stream, "fpf", seeds, **{**few, "steps": 20}, modules=2, every=23),  # of 230
    "er": train(stream, "er", seeds, **given),
  }
  figures = {f"{name}: accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name}: forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name}: learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of fpf - er": percent(runs["two modules"]) - percent(runs["er"])}, figures)
