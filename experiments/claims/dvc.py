"""Rows whose gradients would grow, and two views that agree, are worth more in one pass than uniform replay."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("dvc", "er", "mir"),
  paper="Gu et al. 2022",
  sentence="In one pass over a class-incremental stream, two views of each row that agree and replay of the rows whose "
  "gradients the coming step would raise most end at a better accuracy than experience replay.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.1, one epoch in batches of 10 "
  "with 10 replayed rows, 100 rows kept, of which 50 are candidates; views are cut to 0.6 of the area at least and not "
  "mirrored, as digits are not; the virtual step is as large as the real one. Final average accuracy of dvc minus that "
  "of er, in points. For the reader: dvc of rows drawn uniformly, dvc without views, and mir.",
  seeds=10,
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 100}
  seen = {"least_area": 0.6, "flip": False}
  runs = {
    "dvc": train(stream, "dvc", seeds, **given, **seen),
    "er": train(stream, "er", seeds, **given),
    "mir": train(stream, "mir", seeds, **given, virtual_rate=0.1),
    "dvc, uniform": train(stream, "dvc", seeds, **given, **seen, retrieval="uniform"),
    "dvc, without views": train(stream, "dvc", seeds, **given, views=False),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of dvc - er": percent(runs["dvc"]) - percent(runs["er"])}, figures)
