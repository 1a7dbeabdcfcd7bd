"""A lock of the weight field at committed anchors prevents forgetting without stored rows."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import TASKS, pretrained, rows
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("niwf",),
  paper="Non-interfering weight fields 2026",
  sentence="A weight field that is held to what it gave at committed anchors forgets less than one that is not, and "
  "ends at a better accuracy.",
  protocol="Task-incremental digits 0 to 5 in 3 tasks of 2 classes, MLP 64-100-100-10 whose hidden layers have "
  "learned digits 6 to 9; rank 4, field of 32 units, 4 anchors, radius 0.1, Adam 0.001, batch 32, 10 epochs. Strength "
  "0.01 (the default) against 0; beside them disjoint regions. Forgetting without minus with the lock, and final "
  "average accuracy with minus without, in points.",
)
ARMS: dict[str, dict[str, Any]] = {"locked": {}, "free": {"strength": 0.0}, "disjoint": {"regions": "disjoint"}}


def measure(seeds):
  stream = rows(TASKS)._replace(active="task", task_id_given=True)
  given = {"epochs": 10, "learning_rate": 0.001, "optimizer": "adam", "model": pretrained()}
  runs = {n: train(stream, "niwf", seeds, **given, **arm) for n, arm in ARMS.items()}
  figures = {f"{n}, accuracy": percent(run) for n, run in runs.items()}
  figures |= {f"{n}, forgetting": forgetting(run) for n, run in runs.items()}
  figures |= {f"{n}, right after learning": learned(run) for n, run in runs.items()}
  return Measured(
    {
      "forgetting without - with": forgetting(runs["free"]) - forgetting(runs["locked"]),
      "accuracy with - without": percent(runs["locked"]) - percent(runs["free"]),
    },
    figures,
  )
