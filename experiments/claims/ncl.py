"""NCL ends above plain training, and above its own penalty without its metric."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("ncl",),
  paper="Kao et al. 2021",
  sentence="Descent in the metric of the old tasks' precision beats the same penalty under plain descent.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; ncl at its "
  "defaults, finetune, and kfac_ewc at strength 1 / rows of a task, which is the same penalty: final average accuracy.",
)


def measure(seeds):
  stream = digits("permuted")
  found = {name: train(stream, name, seeds) for name in ("finetune", "ncl")}
  found["kfac_ewc"] = train(stream, "kfac_ewc", seeds, strength=1 / len(stream.train[0]))
  return Measured(
    {f"accuracy of ncl - {n}": percent(found["ncl"]) - percent(found[n]) for n in ("finetune", "kfac_ewc")},
    {
      **{f"{n} accuracy": percent(r) for n, r in found.items()},
      **{f"{n} forgetting": forgetting(r) for n, r in found.items()},
      "ncl right after learning": learned(found["ncl"]),
    },
  )
