"""Units that sleep for long spells and wake with their old weights regularise."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent, train

CLAIM = Claim(
  methods=("lifecycle",),
  paper="Yang 2025",
  sentence="Putting hidden units to sleep for many epochs and waking them with their stored weights generalises "
  "better.",
  protocol="One task, all 10 digits, a tenth of the training rows (144); MLP 64-100-100-10, SGD 0.05, batch 32, 60 "
  "epochs; test accuracy of lifecycle (probability 0.1 an epoch, 5 epochs asleep, the defaults) minus that "
  "of finetune, in points.",
  seeds=10,
)


def measure(seeds):
  stream = digits("class", 1, task_fractions=(0.1,))
  plain, mine = (train(stream, name, seeds, epochs=60) for name in ("finetune", "lifecycle"))
  return Measured(
    {"accuracy of lifecycle - finetune": percent(mine) - percent(plain)},
    {"finetune accuracy": percent(plain), "lifecycle accuracy": percent(mine)},
  )
