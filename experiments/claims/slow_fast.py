"""A few rows of new classes, learned near slow weights that take a little of them."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, final, percent, train

SHOTS = 5
CLAIM = Claim(
  methods=("slow_fast", "ncm"),
  paper="Wang et al. 2021",
  sentence="When new classes come with a few rows each, fast weights near slow ones, which take a little of them, end "
  "at a better accuracy under nearest means than plain training under nearest means.",
  protocol="Class-incremental digits, 5 classes with all their rows, then 5 with 5 rows each; MLP 64-100-100-10, SGD "
  "0.05, batch 32, 20 epochs, strength 1, consolidation 0.1 (the defaults). Final average accuracy of slow_fast minus "
  "that of ncm, in points.",
  seeds=5,
)


def few(stream):
  """The stream whose later tasks have ``SHOTS`` rows of each class, the first in its order."""
  y = stream.dataset.train.y
  chosen = lambda rows: np.concatenate([rows[y[rows] == c][:SHOTS] for c in np.unique(y[rows])])
  return stream._replace(train=(stream.train[0], *(chosen(np.asarray(rows)) for rows in stream.train[1:])))


def measure(seeds):
  stream = few(digits("class", 2))
  runs = {
    "slow_fast": train(stream, "slow_fast", seeds, epochs=20),
    "slow_fast, slow weights stand": train(stream, "slow_fast", seeds, epochs=20, consolidation=0.0),
    "slow_fast, fast weights stay": train(stream, "slow_fast", seeds, epochs=20, consolidation=1.0),
    "ncm": train(stream, "ncm", seeds, epochs=20),
  }
  return Measured(
    {"accuracy of slow_fast - ncm": percent(runs["slow_fast"]) - percent(runs["ncm"])},
    {
      **{f"{name} accuracy": percent(run) for name, run in runs.items()},
      "slow_fast on new classes": final(runs["slow_fast"], 1),
    },
  )
