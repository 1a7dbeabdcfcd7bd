"""Two averages of the weights improve replay."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("cls_er", "er"),
  paper="Arani et al. 2022",
  sentence="Learning classes incrementally, replay that is held to the better of a fast and a slow average of the "
  "weights, and answers by the slow one, ends at a better accuracy than experience replay.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 10 epochs, 50 rows "
  "kept; cls_er at the published settings of split MNIST (strength 2, decay 0.99, rates 1 and 0.9). Final average "
  "accuracy of cls_er minus that of er, in points.",
  seeds=10,
)


def measure(seeds):
  stream, given = digits("class"), {"epochs": 10, "capacity": 50}
  own = {"strength": 2.0, "decay": 0.99, "plastic_rate": 1.0, "stable_rate": 0.9}
  runs = {"cls_er": train(stream, "cls_er", seeds, **given, **own), "er": train(stream, "er", seeds, **given)}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  return Measured({"accuracy of cls_er - er": percent(runs["cls_er"]) - percent(runs["er"])}, figures)
