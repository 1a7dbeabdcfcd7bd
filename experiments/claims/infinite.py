"""A schedule that never re-warms forgets less than one that does at each task."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train
from experiments.claims._schedules import with_replay

CLAIM = Claim(
  methods=("infinite",),
  paper="Singh et al. 2025",
  sentence="An infinite learning-rate schedule ends above repeated cosine decay, with less forgetting.",
  protocol="Permuted digits, 5 tasks, MLP 64-100-100-10, SGD with peak 0.05, batch 32, 5 epochs, replay from 200 "
  "rows in both arms; infinite (to half the peak and flat, the defaults) against rewarm_redecay (the "
  "defaults): final average accuracy, and forgetting, in points.",
)


def measure(seeds):
  stream = digits("permuted")
  cosine, mine = (train(stream, with_replay(name), seeds) for name in ("rewarm_redecay", "infinite"))
  return Measured(
    {
      "accuracy of infinite - rewarm_redecay": percent(mine) - percent(cosine),
      "forgetting of rewarm_redecay - infinite": forgetting(cosine) - forgetting(mine),
    },
    {
      "rewarm_redecay accuracy": percent(cosine),
      "infinite accuracy": percent(mine),
      "rewarm_redecay learned": learned(cosine),
      "infinite learned": learned(mine),
    },
  )
