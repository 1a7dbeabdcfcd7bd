"""What the plasticity claims share: memorising one random labelling after the other, each arm run once a process."""

from __future__ import annotations

import functools

import numpy as np

from experiments.claims import Measured
from experiments.claims._runs import digits, train

PROTOCOL = (
  "160 digits whose labels are drawn anew for each of {tasks} tasks, MLP 64-100-100-10, Adam 0.001, batch 16, 60 "
  "epochs a task: 600 steps in which the first task is nearly memorised. Measured: training accuracy at the end of "
  "each task, averaged over the last ten."
)


@functools.cache
def accuracy(method: str, tasks: int, seeds: int) -> np.ndarray:
  """[S, T] training accuracy on each task when its training ends, in percent; NaN where the run diverged."""
  stream = digits("label_random", tasks, rows=160)
  result = train(stream, method, seeds, optimizer="adam", learning_rate=0.001, batch_size=16, epochs=60)
  ends = 100 * np.diagonal(result.learning_rows, axis1=1, axis2=2)
  return np.where(np.asarray(result.alive)[:, None], ends, np.nan)


def compare(method: str, others: tuple[str, ...], tasks: int, seeds: int) -> Measured:
  """The last tasks of a method against those of others, and that plain training does worse there than at first."""
  first = lambda name: accuracy(name, tasks, seeds)[:, :10].mean(1)
  last = lambda name: accuracy(name, tasks, seeds)[:, -10:].mean(1)
  effects = {"finetune: first ten tasks - last ten": first("finetune") - last("finetune")}
  effects |= {f"last ten tasks: {method} - {other}": last(method) - last(other) for other in others}
  figures = {}
  for name in (*others, method):
    figures |= {f"{name}: first ten tasks": first(name), f"{name}: last ten tasks": last(name)}
  return Measured(effects, figures)
