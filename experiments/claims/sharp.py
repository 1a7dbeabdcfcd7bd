"""Replay of the last task's hidden values, into a network whose mature units stand, against plain training."""

from cljax import models
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("sharp", "er"),
  paper="Gurbuz et al. 2023",
  sentence="Hidden values of the last task alone, replayed into layers whose mature units stand, keep more of older "
  "classes than plain training, and than replay of as many rows of all tasks.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-400-10, SGD 0.05, batch 32, 5 epochs, 200 "
  "stored rows or values, share 0.95 (the spec's). Final average accuracy of sharp minus that of finetune, and minus "
  "that of er, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  model = models.mlp(stream.dataset.train.x.shape[1:], stream.num_classes, hidden=(100, 400))
  runs = {name: train(stream, name, seeds, model=model) for name in ("sharp", "er", "finetune")}
  runs["sharp, half of the activation"] = train(stream, "sharp", seeds, model=model, share=0.5)
  mine = percent(runs["sharp"])
  return Measured(
    {f"accuracy of sharp - {other}": mine - percent(runs[other]) for other in ("finetune", "er")},
    {
      **{f"{name} accuracy": percent(run) for name, run in runs.items()},
      "sharp forgetting": forgetting(runs["sharp"]),
    },
  )
