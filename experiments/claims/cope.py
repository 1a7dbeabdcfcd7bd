"""Prototypes that follow as running means, with the pseudo-prototypical loss, improve replay in one pass."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("cope", "er"),
  paper="De Lange & Tuytelaars 2021",
  sentence="In one pass over a class-incremental stream, evolving prototypes with the pseudo-prototypical loss end "
  "at a better accuracy than experience replay with a softmax classifier.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.1, one epoch in batches of 10 "
  "with 10 replayed rows, 100 rows kept; cope at the paper's temperature 0.1 and momentum 0.99, width 32. Final "
  "average accuracy of cope minus that of er, in points. Beside it, for the reader: the paper's rate, and a momentum "
  "for 30 steps a task, of which the paper has over a thousand.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 100}
  runs = {name: train(stream, name, seeds, **given) for name in ("cope", "er")}
  slower = {**given, "learning_rate": 0.01}
  runs["cope at rate 0.01"] = train(stream, "cope", seeds, **slower)
  runs["cope at rate 0.01, momentum 0.9"] = train(stream, "cope", seeds, **slower, momentum=0.9)
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of cope - er": percent(runs["cope"]) - percent(runs["er"])}, figures)
