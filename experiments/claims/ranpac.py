"""Ridge regression on random projections of frozen features is more accurate than on these, and than class means."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent, train

CLAIM = Claim(
  methods=("ranpac", "simplecil"),
  paper="McDonnell et al. 2023",
  sentence="Ridge regression on random projections of frozen features is more accurate than ridge regression on the "
  "features themselves, and than nearest class means.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, batch 32, 5 epochs, SGD 0.05; the "
  "network is frozen after the first task; 1000 projections. Final average accuracy of ranpac minus that of ranpac "
  "with width=0, and minus that of simplecil with first_task=train, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  run = lambda name, **arm: percent(train(stream, name, seeds, **arm))
  mine, plain, means = run("ranpac"), run("ranpac", width=0), run("simplecil", first_task="train")
  return Measured(
    {"accuracy of ranpac - without projections": mine - plain, "accuracy of ranpac - simplecil": mine - means},
    {"ranpac accuracy": mine, "ranpac without projections accuracy": plain, "simplecil accuracy": means},
  )
