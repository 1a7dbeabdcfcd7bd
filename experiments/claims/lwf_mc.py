"""Without stored rows distilling predictions forgets less than plain training; distilling features does not help."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("lwf_mc", "finetune"),
  paper="Smith et al. 2023",
  sentence="Over tasks of new classes, without stored rows, holding the sigmoids of old classes to the old network's "
  "ends at a better accuracy than plain training, and at a better one than holding its features besides.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, Adam 0.001, batch 32, 20 epochs, "
  "strength 1. Final average accuracy of lwf_mc minus that of finetune, and minus that of lwf_mc with features=1, in "
  "points.",
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 20, "optimizer": "adam", "learning_rate": 1e-3}
  runs = {
    "lwf_mc": train(stream, "lwf_mc", seeds, **given),
    "with features": train(stream, "lwf_mc", seeds, features=1.0, **given),
    "finetune": train(stream, "finetune", seeds, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  effects = {f"accuracy of lwf_mc - {n}": percent(runs["lwf_mc"]) - percent(runs[n]) for n in list(runs)[1:]}
  return Measured(effects, figures)
