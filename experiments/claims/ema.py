"""Predicting with averaged weights raises the worst-case accuracy of online replay."""

import cljax
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent, train
from experiments.claims._schedules import worst_case

CLAIM = Claim(
  methods=("ema",),
  paper="Soutif-Cormerais et al. 2023",
  sentence="Evaluating a moving average of the weights raises the worst-case accuracy of online replay (WC-ACC).",
  protocol="Class-incremental digits, 5 tasks, one pass in batches of 2 and as many replayed rows (144 steps a task: "
  "the average at the default 0.99 forgets half in 69), MLP 64-100-100-10, SGD 0.05; all tasks evaluated "
  "every second step; WC-ACC of ema minus that of er (capacity 200, the defaults), in points. Both arms "
  "train alike, to the bit.",
)


def measure(seeds):
  stream = digits("class")
  options = cljax.Options(eval_every=2, eval_limit=64, eval_block=64, on_divergence="freeze")
  run = lambda method: train(stream, method, seeds, epochs=1, batch_size=2, options=options)
  plain, mine = run("er"), run("ema")
  return Measured(
    {"WC-ACC of ema - er": worst_case(mine) - worst_case(plain)},
    {
      "er WC-ACC": worst_case(plain),
      "ema WC-ACC": worst_case(mine),
      "er accuracy": percent(plain),
      "ema accuracy": percent(mine),
    },
  )
