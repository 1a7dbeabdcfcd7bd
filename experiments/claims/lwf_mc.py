"""Sigmoid outputs that are held to the last network's forget less than plain training, without stored rows."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("lwf_mc", "finetune", "lwf", "icarl"),
  paper="Rebuffi et al. 2017, its LwF.MC",
  sentence="Learning classes incrementally without stored rows, sigmoid outputs of which those of old classes are held "
  "to the last network's end at a better accuracy than plain training.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, batch 32, 10 epochs; SGD 0.5 for lwf_mc "
  "and icarl, whose loss is a mean over up to 10 outputs, and 0.05 for the others. Final average accuracy of lwf_mc "
  "minus that of finetune, in points. For the reader: lwf, and icarl with 100 exemplars.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  given = {"lwf_mc": {"learning_rate": 0.5}, "icarl": {"learning_rate": 0.5, "capacity": 100}}
  runs = {name: train(stream, name, seeds, epochs=10, **given.get(name, {})) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of lwf_mc - finetune": percent(runs["lwf_mc"]) - percent(runs["finetune"])}, figures)
