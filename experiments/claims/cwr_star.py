"""A classifier whose weights are consolidated class by class forgets less than plain training, without stored rows."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("cwr_star", "finetune"),
  paper="Lomonaco et al. 2020",
  sentence="Over batches of new classes, without stored rows, consolidating each class's output weights apart on an "
  "extractor that the first batch trained ends at a better accuracy than plain training on one batch after the other.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; final "
  "average accuracy of cwr_star minus that of finetune, in points. For the reader: the free extractor, and AR1 "
  "(extractor='si', strength 1).",
)


def measure(seeds):
  stream = digits("class")
  runs = {
    "cwr_star": train(stream, "cwr_star", seeds),
    "finetune": train(stream, "finetune", seeds),
    "free": train(stream, "cwr_star", seeds, extractor="free"),
    "ar1": train(stream, "cwr_star", seeds, extractor="si", strength=1.0),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  effects = {"accuracy of cwr_star - finetune": percent(runs["cwr_star"]) - percent(runs["finetune"])}
  return Measured(effects, figures)
