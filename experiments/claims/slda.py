"""A streamed covariance makes more of frozen features than their class means."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent, train

CLAIM = Claim(
  methods=("slda", "simplecil", "finetune"),
  paper="Hayes and Kanan 2020",
  sentence="On the features of a frozen network, streaming LDA is more accurate than nearest class means and than "
  "tuning the network.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, batch 32, 5 epochs, SGD 0.05; the "
  "network is frozen after the first task. Final average accuracy of slda minus that of simplecil with "
  "first_task=train, and minus that of finetune, in points; for the reader also the released form.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  run = lambda name, **arm: percent(train(stream, name, seeds, **arm))
  mine, means, plain = run("slda"), run("simplecil", first_task="train"), run("finetune")
  return Measured(
    {"accuracy of slda - simplecil": mine - means, "accuracy of slda - finetune": mine - plain},
    {
      "slda accuracy": mine,
      "slda, released form accuracy": run("slda", form="released"),
      "simplecil accuracy": means,
      "finetune accuracy": plain,
    },
  )
