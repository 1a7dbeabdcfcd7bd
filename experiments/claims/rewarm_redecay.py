"""Re-warming the learning rate lets a decayed network learn new tasks; with replay it pays."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, learned, percent, train
from experiments.claims._schedules import with_replay

STEPS = 225  # of a task
CLAIM = Claim(
  methods=("rewarm_redecay",),
  paper="Ibrahim et al. 2024",
  sentence="Re-warming and re-decaying the learning rate on each new dataset, with replay, adapts better than going "
  "on at the rate to which the first dataset's schedule decayed.",
  protocol="Permuted digits, 5 tasks, MLP 64-100-100-10, SGD with peak 0.05, batch 32, 5 epochs, replay from 200 "
  "rows in both arms; rewarm_redecay (1% warm-up, cosine to a tenth, the defaults) against the same warm-up "
  "and cosine in the first task and then that tenth for ever; accuracy on each task right after learning "
  "it, and final average accuracy, in points.",
)


def measure(seeds):
  stream = digits("permuted")
  decayed = with_replay("infinite", constant=0.1, warmup_steps=2, cooldown_steps=STEPS - 2)
  plain, mine = train(stream, decayed, seeds), train(stream, with_replay("rewarm_redecay"), seeds)
  return Measured(
    {
      "learned by rewarm_redecay - decayed": learned(mine) - learned(plain),
      "accuracy of rewarm_redecay - decayed": percent(mine) - percent(plain),
    },
    {
      "decayed learned": learned(plain),
      "rewarm_redecay learned": learned(mine),
      "decayed accuracy": percent(plain),
      "rewarm_redecay accuracy": percent(mine),
    },
  )
