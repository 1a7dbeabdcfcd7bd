"""Two numbers correct the preference for new classes."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("bic",),
  paper="Wu et al. 2019",
  sentence="Correcting the logits of the newest classes by two numbers, fitted on few balanced rows held out, raises "
  "the final accuracy of distillation with exemplars.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), "
  "MLP 64-100-100-10, SGD 0.05, batch 32, 10 epochs, 100 exemplars, of which 10 are held out; final average accuracy "
  "of bic minus that of bic with bias_steps=0, in points.",
  seeds=10,
)


def measure(seeds):
  stream, given = digits("class", active="seen"), {"epochs": 10, "capacity": 100}
  mine, plain = train(stream, "bic", seeds, **given), train(stream, "bic", seeds, bias_steps=0, **given)
  return Measured(
    {"accuracy of bic - uncorrected": percent(mine) - percent(plain)},
    {
      "bic accuracy": percent(mine),
      "uncorrected accuracy": percent(plain),
      "bic forgetting": forgetting(mine),
      "uncorrected forgetting": forgetting(plain),
    },
  )
