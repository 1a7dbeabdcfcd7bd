"""Principal directions of many output gradients are worth more than as many raw ones."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("pca_ogd", "ogd"),
  paper="Doan et al. 2021",
  sentence="At equal memory, projecting on principal gradient directions beats projecting on stored gradients.",
  protocol="Rotated digits, 5 tasks of all 10 classes over 180 degrees, MLP 64-100-100-10, SGD 0.05, batch 32, 5 "
  "epochs; 20 directions a task for both, pca_ogd's from 300 rows (its default); final accuracy of pca_ogd minus that "
  "of ogd.",
)


def measure(seeds):
  stream = digits("rotated")
  plain = train(stream, "finetune", seeds)
  raw = train(stream, "ogd", seeds, samples=20)
  mine = train(stream, "pca_ogd", seeds, directions=20)
  return Measured(
    {"accuracy of pca_ogd - ogd": percent(mine) - percent(raw)},
    {
      "finetune accuracy": percent(plain),
      "ogd accuracy": percent(raw),
      "pca_ogd accuracy": percent(mine),
      "ogd forgetting": forgetting(raw),
      "pca_ogd forgetting": forgetting(mine),
    },
  )
