"""K-FAC EWC ends above EWC with a diagonal, each at its best strength."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

GRID = (0.3, 1.0, 3.0, 10.0)
CLAIM = Claim(
  methods=("kfac_ewc",),
  paper="Ritter et al. 2018",
  sentence="A Kronecker-factored precision keeps old tasks better than a diagonal one.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; ewc and "
  "kfac_ewc at the strengths of (0.3, 1, 3, 10) beside a mean Fisher (kfac_ewc's own is that over the rows of a"
  " task) that give the highest mean accuracy for two other seeds: final average accuracy of kfac_ewc minus "
  "that of ewc, in points.",
)


def measure(seeds):
  stream = digits("permuted")
  rows = len(stream.train[0])
  others, best, found = [100, 101], {}, {}
  for name, scale in (("ewc", 1.0), ("kfac_ewc", 1.0 / rows)):
    tried = {s: np.mean(np.nan_to_num(percent(train(stream, name, others, strength=s * scale)))) for s in GRID}
    best[name] = max(tried, key=lambda s: tried[s])
    found[name] = train(stream, name, seeds, strength=best[name] * scale)
  return Measured(
    {"accuracy of kfac_ewc - ewc": percent(found["kfac_ewc"]) - percent(found["ewc"])},
    {
      **{f"{n} accuracy": percent(r) for n, r in found.items()},
      **{f"{n} forgetting": forgetting(r) for n, r in found.items()},
      **{f"{n} strength": np.full(len(percent(found[n])), s) for n, s in best.items()},
    },
  )
