"""What the claims on mean-field learners share: one stream, network and optimizer."""

from __future__ import annotations

from experiments.claims._runs import mnist, train

RECIPE = "Permuted MNIST, 5 tasks of 10,000 rows, MLP 784-100-100-10, Adam 0.001, batch 256 (the paper's), 20 epochs"


def arms(names, seeds) -> list:
  """One run for each method name, by the recipe and with default options."""
  stream = mnist("permuted", rows=10_000)
  options = {"optimizer": "adam", "learning_rate": 0.001, "batch_size": 256, "epochs": 20}
  return [train(stream, name, seeds, **options) for name in names]
