"""Knowledge adds up over hundreds of tasks, each of which is forgotten."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, train

EVENTS, TENTH = 200, 20
CLAIM = Claim(
  methods=("finetune",),
  paper="Lesort et al. 2023",
  sentence="Plain training on hundreds of recurring subsets of classes gains accuracy on all classes although each "
  "subset is forgotten; closing the softmax to the subset's classes and leaving momentum out both help.",
  protocol=f"SCoLe of digits: {EVENTS} events of 2 classes drawn anew, 1 epoch each, MLP 64-100-100-10, SGD 0.01, "
  "batch 32, the softmax over the event's two classes and no momentum; beside it a softmax over all classes, and "
  "momentum 0.9 at a tenth of the rate. Accuracy on the whole test set, mean over the last tenth of the events minus "
  "that over the first; accuracy on an event's classes right after it minus that ten events later, mean over events; "
  "and accuracy over the last tenth minus that of the other arms, in points.",
)


def whole(run) -> np.ndarray:
  """[S, E] accuracy on the whole test set after each event, in percent."""
  return 100 * run.accuracy[:, 1:, -1]


def forgotten(run, stream) -> np.ndarray:
  """[S] points lost on an event's classes within ten events in which they do not come back."""
  order = [e.task for e in stream.events]
  lost = []
  for i, task in enumerate(order[:-10]):
    classes = stream.classes_of_task[task]
    others = [stream.classes_of_task[t] for t in order[i + 1 : i + 11]]
    if not any((classes & other).any() for other in others):
      lost.append(100 * (run.accuracy[:, i + 1, task] - run.accuracy[:, i + 11, task]))
  return np.mean(lost, 0)


def measure(seeds):
  stream, open_ = digits("scole", EVENTS), digits("scole", EVENTS, active="all")
  runs = {
    "masked": train(stream, "finetune", seeds, epochs=1, learning_rate=0.01),
    "not masked": train(open_, "finetune", seeds, epochs=1, learning_rate=0.01),
    "momentum": train(stream, "finetune", seeds, epochs=1, learning_rate=0.001, optimizer="momentum"),
  }
  last = {name: whole(run)[:, -TENTH:].mean(1) for name, run in runs.items()}
  first = whole(runs["masked"])[:, :TENTH].mean(1)
  effects = {
    "all classes: last tenth - first": last["masked"] - first,
    "lost on an event's classes in ten events": forgotten(runs["masked"], stream),
    "last tenth: masked - not masked": last["masked"] - last["not masked"],
    "last tenth: no momentum - momentum": last["masked"] - last["momentum"],
  }
  figures = {f"{name}: last tenth": values for name, values in last.items()} | {"masked: first tenth": first}
  return Measured(effects, figures)
