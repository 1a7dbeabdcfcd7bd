"""Boosting by a second network and compressing both into one beats distillation with as many exemplars."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("foster", "wa", "icarl"),
  paper="Wang et al. 2022",
  sentence="Boosting with a new network and compressing into one ends at a better accuracy than one network that is "
  "held by distillation (wa, icarl), with as many exemplars.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), "
  "MLP 64-100-100-10, SGD 0.05 (icarl 0.5, whose loss is a mean over outputs), batch 32, 10 epochs, 100 "
  "exemplars, compression of 8 passes at 0.05 (the paper's share of its 170 + 130); final average accuracy "
  "of foster minus that of wa and that of icarl, in points. For the reader also foster with beta and "
  "compression_beta of 0, under which all classes weigh the same.",
  seeds=5,
)


def measure(seeds):
  stream, given = digits("class", active="seen"), {"epochs": 10, "capacity": 100}
  fit = {"passes": 8, "rate": 0.05}
  runs = {
    "foster": train(stream, "foster", seeds, **fit, **given),
    "wa": train(stream, "wa", seeds, **given),
    "icarl": train(stream, "icarl", seeds, learning_rate=0.5, **given),
    "classes weigh the same": train(stream, "foster", seeds, beta=0.0, compression_beta=0.0, **fit, **given),
  }
  figures = {f"{name}, accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name}, forgetting": forgetting(run) for name, run in runs.items()}
  over = lambda name: percent(runs["foster"]) - percent(runs[name])
  return Measured({f"accuracy of foster - {name}": over(name) for name in ("wa", "icarl")}, figures)
