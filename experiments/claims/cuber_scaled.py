"""CUBER's scaled projection: a new task learns better in the spans of old ones that it may not rewrite."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("cuber",),
  paper="Lin et al. 2022",
  sentence="Where gradients disagree, scaling the weights inside an old task's span carries what it holds over to the "
  "new task, which orthogonal projection alone does not.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, 200 training rows, MLP 64-100-100-10, SGD 0.05, batch 32, 5 "
  "epochs, threshold 0.97, cuber else at its defaults; accuracy right after learning with scaled=True minus that "
  "without, in points. Forgetting beside it.",
)


def measure(seeds):
  stream = digits("task", rows=200)
  plain, mine = (train(stream, "cuber", seeds, threshold=0.97, scaled=scaled) for scaled in (False, True))
  return Measured(
    {"learned by cuber, scaled - not": learned(mine) - learned(plain)},
    {
      "accuracy, not scaled": percent(plain),
      "accuracy, scaled": percent(mine),
      "forgetting, not scaled": forgetting(plain),
      "forgetting, scaled": forgetting(mine),
      "learned, not scaled": learned(plain),
      "learned, scaled": learned(mine),
    },
  )
