"""Each class's own covariance makes more of frozen features than distances to their means."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent, train

CLAIM = Claim(
  methods=("fecam", "simplecil", "slda"),
  paper="Goswami et al. 2023",
  sentence="Without exemplars and on frozen features, the Mahalanobis distance under a covariance of each class is "
  "more accurate than nearest class means, and than one covariance for all.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, batch 32, 5 epochs, SGD 0.05; the "
  "network is frozen after the first task. Final average accuracy of fecam minus that of simplecil with "
  "first_task=train, and minus that of slda, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  run = lambda name, **arm: percent(train(stream, name, seeds, **arm))
  mine, means, shared = run("fecam"), run("simplecil", first_task="train"), run("slda")
  return Measured(
    {"accuracy of fecam - simplecil": mine - means, "accuracy of fecam - slda": mine - shared},
    {"fecam accuracy": mine, "simplecil accuracy": means, "slda accuracy": shared},
  )
