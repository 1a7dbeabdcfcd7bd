"""What the claims on mean-field learners share: a small network, since each step draws all weights, and Adam."""

from __future__ import annotations

from experiments.claims._runs import digits, mlp, train

RECIPE = (
  "Permuted digits, 5 tasks, MLP 64-50-10, Adam 0.001, batch 32, 20 epochs"  # the paper trains with Adam, for long
)


def arms(names, seeds) -> list:
  """One run for each method name, by the recipe and with default options."""
  stream = digits("permuted")
  model = mlp(stream, (50,))
  options = {"optimizer": "adam", "learning_rate": 0.001, "epochs": 20, "model": model}
  return [train(stream, name, seeds, **options) for name in names]
