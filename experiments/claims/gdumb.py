"""A network trained on the memory alone is as good as those that learn from the stream."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent, train

CLAIM = Claim(
  methods=("gdumb", "er", "agem"),
  paper="Prabhu et al. 2020",
  sentence="In one pass over a class-incremental stream, training a fresh network on a greedily balanced memory alone "
  "ends at a better accuracy than methods made for such streams: experience replay and A-GEM.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, one epoch in batches of 10, 100 rows "
  "kept; er with 10 replayed rows and agem, SGD 0.1; gdumb at its defaults (256 passes). Final average accuracy of "
  "gdumb minus that of each, in points.",
  seeds=10,
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 100}
  final = {name: percent(train(stream, name, seeds, **given)) for name in CLAIM.methods}
  return Measured(
    {f"accuracy of gdumb - {other}": final["gdumb"] - final[other] for other in ("er", "agem")},
    {f"{name} accuracy": values for name, values in final.items()},
  )
