"""EWC-DR ends above EWC where classes come in tasks, each at its best strength."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

GRID = (0.1, 1.0, 10.0, 100.0)
DR = {"decay": 1.0, "fisher": "reversed_batched", "merge": "average"}
CLAIM = Claim(
  methods=("online_ewc",),
  paper="Liu and Chang 2026",
  sentence="Importance from reversed logits stays where the old task is fitted, and so keeps more than EWC's.",
  protocol="Split digits, class-incremental, 5 tasks of 2 classes, only the task's classes in the softmax, MLP "
  "64-100-100-10, SGD 0.05, batch 32, 20 epochs; online_ewc with decay 1, its Fisher empirical or reversed (batches, "
  "averaged over tasks, decoupled pull, no clip), each at the strength of (0.1, 1, 10, 100) of the highest mean "
  "accuracy for two other seeds: final average accuracy of reversed minus empirical, in points.",
)


def measure(seeds):
  stream = digits("class", active="task")
  arms, found, best = {"ewc": {"decay": 1.0, "fisher": "empirical"}, "ewc_dr": DR}, {}, {}
  for name, given in arms.items():
    go = lambda seeds, strength, given=given: train(
      stream, "online_ewc", seeds, epochs=20, strength=strength, decoupled=True, **given
    )
    tried = {s: np.mean(np.nan_to_num(percent(go([100, 101], s)))) for s in GRID}
    best[name] = max(tried, key=lambda s: tried[s])
    found[name] = go(seeds, best[name])
  return Measured(
    {"accuracy of ewc_dr - ewc": percent(found["ewc_dr"]) - percent(found["ewc"])},
    {
      **{f"{n} accuracy": percent(r) for n, r in found.items()},
      **{f"{n} forgetting": forgetting(r) for n, r in found.items()},
      **{f"{n} right after learning": learned(r) for n, r in found.items()},
      **{f"{n} strength": np.full(len(percent(found[n])), s) for n, s in best.items()},
    },
  )
