"""Elephant activations forget less."""

from typing import Any

import flax.linen as nn

from experiments.claims import Claim, Measured
from experiments.claims._runs import forgetting, mlp, mnist, percent, train

CLAIM = Claim(
  methods=("elephant",),
  paper="Lan and Mahmood 2023",
  sentence="A network with elephant activations, sparse in outputs and gradients, learns classes in one pass with less "
  "forgetting than one of rectifiers.",
  protocol="Split MNIST, class-incremental, 5 tasks of 2 classes, all rows in one pass (the paper's data), MLP with "
  "one hidden layer of 500, SGD 0.05, batch 10; final average accuracy of elephant (defaults: each unit "
  "learns its width and height) minus that of the rectifier network, and minus that of the rectifier "
  "network with the same LayerNorm. Beside it, widths and heights that are fixed, and that are pulled to "
  "where they start with strength 0.01. On digits it was inconclusive (3.0 [-0.8, 6.8], 3.3 [-2.3, 8.9]).",
)


def measure(seeds):
  stream = mnist("class")
  relu = mlp(stream, hidden=(500,))
  models = {"relu": relu, "layer_norm": relu.with_activation(lambda x: nn.relu(nn.LayerNorm()(x)))}
  options = {"epochs": 1, "batch_size": 10}
  runs = {name: train(stream, "finetune", seeds, model=model, **options) for name, model in models.items()}
  arms: dict[str, dict[str, Any]] = {"elephant": {}, "fixed": {"learned": False}, "pulled": {"shape_strength": 0.01}}
  runs |= {name: train(stream, "elephant", seeds, model=relu, **options, **given) for name, given in arms.items()}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  return Measured(
    {f"accuracy of elephant - {n}": percent(runs["elephant"]) - percent(runs[n]) for n in models}, figures
  )
