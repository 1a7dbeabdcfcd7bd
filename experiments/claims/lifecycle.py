"""Units that sleep for long spells and wake with their old weights regularise."""

import cljax
from cljax import methods
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent, train

CLAIM = Claim(
  methods=("lifecycle",),
  paper="Yang 2025",
  sentence="Putting hidden units to sleep for many epochs and waking them with their stored weights generalises "
  "better; the stored weights are what it takes: random ones would undo it.",
  protocol="One task, all 10 digits, a tenth of the training rows (144); MLP 64-100-100-10, SGD 0.05, batch 32, 60 "
  "epochs; test accuracy of lifecycle (probability 0.1 an epoch, 5 epochs asleep, the defaults) minus that of "
  "finetune, and minus that of lifecycle with units that wake with freshly drawn weights, in points.",
  seeds=10,
)


def random_revival(model, spec):
  """The control: what sleeping units wake with is drawn afresh."""
  base = methods.make("lifecycle", model, spec)

  def after_step(key, learner, info):
    learner = base.after_step(key, learner, info)
    return learner._replace(method_state=learner.method_state._replace(stored=model.init(key)[0]))

  return cljax.Method(init=base.init, prepare=base.prepare, after_step=after_step)


def measure(seeds):
  stream = digits("class", 1, task_fractions=(0.1,))
  plain, mine, drawn = (train(stream, m, seeds, epochs=60) for m in ("finetune", "lifecycle", random_revival))
  return Measured(
    {
      "accuracy of lifecycle - finetune": percent(mine) - percent(plain),
      "accuracy of lifecycle - random revival": percent(mine) - percent(drawn),
    },
    {
      "finetune accuracy": percent(plain),
      "lifecycle accuracy": percent(mine),
      "random revival accuracy": percent(drawn),
    },
  )
