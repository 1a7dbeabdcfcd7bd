"""One network out of what all tasks' intervals share keeps more than a network that learns task after task."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, mlp, percent, train

CLAIM = Claim(
  methods=("hyperinterval", "finetune"),
  paper="Krukowski et al. 2024",
  sentence="One network, whose weights are made of the embedding that the intervals of all tasks share, ends at a "
  "better accuracy on tasks of other inputs than the same network that learns one after the other.",
  protocol="Permuted digits, 3 tasks, MLP 64-50-50-10, Adam 0.001, 10 epochs in batches of 32 (450 steps a task); "
  "gamma 5, beta 0.005, 24 numbers of an embedding (the paper's), the worst case's share at a half and the radius at "
  "its full size after half of a task's steps, as in the paper. Final average accuracy of hyperinterval minus that of "
  "finetune, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("permuted", tasks=3)
  given = {"epochs": 10, "optimizer": "adam", "learning_rate": 0.001, "model": mlp(stream, hidden=(50, 50))}
  runs = {
    "hyperinterval": train(stream, "hyperinterval", seeds, **given, ramp=225, decay=0.5 / 225),
    "finetune": train(stream, "finetune", seeds, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured(
    {"accuracy of hyperinterval - finetune": percent(runs["hyperinterval"]) - percent(runs["finetune"])}, figures
  )
