"""Training in a stable regime, with dropout, small batches and a rate that falls over the tasks, forgets less."""

import cljax
from cljax import models
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, mlp, percent

CLAIM = Claim(
  methods=("stable_sgd", "finetune"),
  paper="Mirzadeh et al. 2020",
  sentence="Dropout, small batches and a learning rate that falls from task to task forget less and end at a better "
  "accuracy than plain training, and the falling rate has a part in it.",
  protocol="Permuted digits, 5 tasks, MLP 64-100-100-10, SGD 0.1 with momentum 0.8, 5 epochs. Stable: dropout 0.5, "
  "batch 10, the rate times 0.4 with each task (the paper's for 5 tasks). Plain: no dropout, batch 64, a constant "
  "rate. Final average accuracy of stable minus plain, in points; and what the stable regime forgets at a constant "
  "rate minus what it forgets at the falling one.",
)


def measure(seeds):
  stream = digits("permuted")
  dropped = models.mlp(stream.dataset.train.x.shape[1:], stream.num_classes, hidden=(100, 100), dropout=0.5)

  def train(method, model, batch_size, **hyper):
    return cljax.run(
      stream, model, method, hyper, optimizer="momentum", seeds=seeds,
      optimizer_options={"learning_rate": 0.1, "momentum": 0.8},
      training=cljax.Recipe(batch_size=batch_size, epochs=5), options=cljax.Options(on_divergence="freeze"),
    )  # fmt: skip

  runs = {
    "stable": train("stable_sgd", dropped, 10, decay=0.4),
    "constant": train("finetune", dropped, 10),
    "plain": train("finetune", mlp(stream), 64),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  effects = {
    "accuracy of stable - plain": percent(runs["stable"]) - percent(runs["plain"]),
    "forgetting of constant - stable": forgetting(runs["constant"]) - forgetting(runs["stable"]),
  }
  return Measured(effects, figures)
