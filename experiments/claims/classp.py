"""CLASSP keeps old tasks better than EWC does, with one accumulator."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, learned, percent, train

CLAIM = Claim(
  methods=("classp", "ewc"),
  paper="Ludwig 2024",
  sentence="Shrinking the steps of weights that were much used keeps old tasks better than plain training and EWC do.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; final average "
  "accuracy of classp (defaults: plain first task, then scaled steps) minus those of finetune and of ewc.",
)


def measure(seeds):
  stream = digits("permuted")
  runs = {name: train(stream, name, seeds) for name in ("finetune", "ewc", "classp")}
  mine = percent(runs["classp"])
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured(
    {f"accuracy of classp - {name}": mine - percent(runs[name]) for name in ("finetune", "ewc")},
    figures,
  )
