"""What the plasticity claims share: memorising one random labelling after the other, each arm run once a process."""

from __future__ import annotations

import functools

import numpy as np

from experiments.claims import Measured
from experiments.claims._runs import digits, mlp, train

PROTOCOL = (
  "160 digits whose labels are drawn anew for each of {tasks} tasks, MLP 64-{width}-{width}-10, Adam 0.001, batch 16, "
  "60 epochs (600 steps) a task. Measured: training accuracy at the end of each task, averaged over the first and over "
  "the last ten: it must fall in plain training, by at most 10 points with the method, and end above the others."
)


@functools.cache
def accuracy(method: str, tasks: int, seeds: int, width: int) -> np.ndarray:
  """[S, T] training accuracy on each task when its training ends, in percent; NaN where the run diverged."""
  stream = digits("label_random", tasks, rows=160)
  model = mlp(stream, hidden=(width, width))
  result = train(stream, method, seeds, model=model, optimizer="adam", learning_rate=0.001, batch_size=16, epochs=60)
  ends = 100 * np.diagonal(result.learning_rows, axis1=1, axis2=2)
  return np.where(np.asarray(result.alive)[:, None], ends, np.nan)


def compare(method: str, others: tuple[str, ...], tasks: int, seeds: int, width: int) -> Measured:
  """That plain training does worse on the last tasks than on the first, that the method does not (within ten points),
  and that on the last tasks it does better than the others."""
  first = lambda name: accuracy(name, tasks, seeds, width)[:, :10].mean(1)
  last = lambda name: accuracy(name, tasks, seeds, width)[:, -10:].mean(1)
  effects = {"finetune: first ten tasks - last ten": first("finetune") - last("finetune")}
  effects[f"{method}: last ten tasks - first ten, + 10"] = last(method) - first(method) + 10
  effects |= {f"last ten tasks: {method} - {other}": last(method) - last(other) for other in others}
  figures: dict = {}
  for name in (*others, method):
    figures |= {f"{name}: first ten tasks": first(name), f"{name}: last ten tasks": last(name)}
  return Measured(effects, figures)
