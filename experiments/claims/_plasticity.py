"""Plasticity claims: how well the late tasks of a long stream of random labels are learned."""

from __future__ import annotations

import numpy as np

from experiments.claims._runs import digits, train

PROTOCOL = (
  "300 digits with new random labels in each of 30 tasks, MLP 64-100-100-10, Adam 0.001, batch 32, 20 epochs; accuracy "
  "on the labels just learned by heart, mean over the last 10 tasks"
)


def late(name, seeds, **options) -> np.ndarray:
  """[S] accuracy right after learning, mean over the last 10 tasks, in percent; NaN where the run diverged."""
  stream = digits("label_random", 30, rows=300)
  run = train(stream, name, seeds, epochs=20, learning_rate=0.001, optimizer="adam", **options)
  rows = np.diagonal(run.learning_rows, axis1=1, axis2=2)[:, -10:]
  return np.where(run.alive, 100 * rows.mean(-1), np.nan)
