"""Old classes on moved features of new ones keep a linear layer from forgetting, without exemplars."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent, train

CLAIM = Claim(
  methods=("fetril", "simplecil", "lwf"),
  paper="Petit et al. 2023",
  sentence="Without exemplars, a linear layer on frozen features that is trained on features of new classes moved to "
  "the means of old ones is more accurate than distillation, and than nearest class means on the same features.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, batch 32, 5 epochs, SGD 0.05; the "
  "network is frozen after the first task. Final average accuracy of fetril minus that of lwf, and minus that of "
  "simplecil with first_task=train, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  run = lambda name, **arm: percent(train(stream, name, seeds, **arm))
  mine, distilled, means = run("fetril"), run("lwf"), run("simplecil", first_task="train")
  return Measured(
    {"accuracy of fetril - lwf": mine - distilled, "accuracy of fetril - simplecil": mine - means},
    {"fetril accuracy": mine, "lwf accuracy": distilled, "simplecil accuracy": means},
  )
