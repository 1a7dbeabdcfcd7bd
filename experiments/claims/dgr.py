"""Replay from a generator, labelled by the solver of before, forgets less than plain training without stored rows."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("dgr", "finetune", "er"),
  paper="Shin et al. 2017",
  sentence="Over tasks of new classes, without stored rows, replaying what a generator makes up under the labels of "
  "the solver of before ends at a better accuracy than plain training.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, Adam 0.001, batch 32, 20 epochs; "
  "generator 64-100-100 with 20 numbers of code, Adam 0.001. Final average accuracy of dgr minus that "
  "of finetune, in points. For the reader: er with 200 stored rows.",
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 20, "optimizer": "adam", "learning_rate": 1e-3}
  more = {"dgr": {"latent": 20, "width": 100}}
  runs = {name: train(stream, name, seeds, **given, **more.get(name, {})) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of dgr - finetune": percent(runs["dgr"]) - percent(runs["finetune"])}, figures)
