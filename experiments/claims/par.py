"""Tasks that are near share an expert: fewer experts than tasks, hardly less accurate than one for each."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

MARGIN = 2.0
CLAIM = Claim(
  methods=("par",),
  paper="Wang et al. 2023",
  sentence="Sharing the experts of near tasks, with old heads held, takes fewer experts than tasks and is more "
  "accurate than plain training, at a small loss against an expert for each task.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.5 (at lower rates plain training "
  "does not forget here), batch 32, 6 epochs, threshold 0.5 (the released one), tasks compared by the features of the "
  "network as it began. Final average accuracy of par minus that of finetune, and minus that of par with threshold=0 "
  "plus 2, in points; 5 minus the number of experts.",
  seeds=5,
)


def measure(seeds):
  stream = digits("task")
  given = {"epochs": 6, "learning_rate": 0.5}
  runs = {name: train(stream, name, seeds, **given) for name in ("par", "finetune")}
  runs["par, an expert each"] = train(stream, "par", seeds, threshold=0.0, **given)
  mine = percent(runs["par"])
  count = lambda run: np.array([len(set(e.tolist())) for e in np.asarray(run.learner.model_state.kept)], float)
  return Measured(
    {
      "accuracy of par - finetune": mine - percent(runs["finetune"]),
      "accuracy of par - an expert each + 2": mine - percent(runs["par, an expert each"]) + MARGIN,
      "tasks - experts": stream.num_tasks - count(runs["par"]),
    },
    {
      **{f"{name} accuracy": percent(run) for name, run in runs.items()},
      "par forgetting": forgetting(runs["par"]),
      "experts": count(runs["par"]),
    },
  )
