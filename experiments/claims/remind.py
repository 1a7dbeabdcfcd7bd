"""Codes of what frozen lower layers give are better replayed than as many bytes of rows."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("remind", "er"),
  paper="Hayes et al. 2020",
  sentence="With as many bytes of memory, replay of codes of what lower layers give, which stand after a base of half "
  "the classes, ends at a better accuracy than replay of the rows themselves through a network that learns whole.",
  protocol="Class-incremental digits, a base of 5 classes and then 5 tasks of one, MLP 64-100-100-10 cut before its "
  "second hidden layer, SGD 0.05, 3 epochs in batches of 10; 200 rows of codes of 25 bytes, which with labels and "
  "numbers are 8.5 kB, for 100 rows of er, 8.4 kB. Final average accuracy of remind minus that of er, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class", tasks=6, classes_per_task=(5, 1, 1, 1, 1, 1))
  given = {"epochs": 3, "batch_size": 10}
  runs = {
    "remind": train(stream, "remind", seeds, **given, capacity=200),
    "er": train(stream, "er", seeds, **given, capacity=100),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of remind - er": percent(runs["remind"]) - percent(runs["er"])}, figures)
