"""Holding where the network looked forgets less than holding what it said."""

from cljax import models
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("lwm", "lwf"),
  paper="Dhar et al. 2019",
  sentence="Learning classes incrementally without stored rows, attention maps that are held beside the outputs end "
  "at a better accuracy than the outputs alone.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), CNN "
  "of widths 16 and 32, SGD 0.05, batch 32, 5 epochs; final average accuracy of lwm minus that of lwf, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class", active="seen")
  model = models.cnn(stream.dataset.train.x.shape[1:], stream.num_classes, widths=(16, 32))
  runs = {name: train(stream, name, seeds, model=model) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  return Measured({"accuracy of lwm - lwf": percent(runs["lwm"]) - percent(runs["lwf"])}, figures)
