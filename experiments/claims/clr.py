"""Filters behind a frozen network's convolutions make it fit new tasks better than new classifiers alone do."""

import functools

import jax
import numpy as np

from cljax import models
from cljax.models import tuning
from experiments.claims import Claim, Measured
from experiments.claims._pretrained import TASKS, UPSTREAM, rows
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("clr",),
  paper="Ge et al. 2023",
  sentence="A filter of each task behind every channel of a frozen network learns each task better than a classifier "
  "of each task on the frozen network alone, and nothing is forgotten.",
  protocol="Task-incremental digits 0 to 5 in 3 tasks of 2 classes, CNN of widths 8, 16 and 16 that has learned digits "
  "6 to 9 (Adam 0.001, batch 32, 20 epochs); then Adam 0.001, batch 32, 10 epochs. Mean accuracy right after learning "
  "of clr minus that of a classifier of each task on the same frozen network, in points; forgetting is 0 exactly.",
)


@functools.cache
def pretrained():
  """The network with the convolutions that learned digits 6 to 9; a head as at first."""
  stream = rows([UPSTREAM])
  model = models.cnn((8, 8, 1), stream.num_classes, widths=(8, 16, 16))
  given = {"optimizer": "adam", "learning_rate": 1e-3, "epochs": 20}
  found = train(stream, "finetune", 1, model=model, **given).learner.params
  found = {k: jax.tree.map(lambda a: np.asarray(a)[0], v) for k, v in found.items() if k != "head"}

  def init(key):
    params, state = model.init(key)
    return {**params, **found}, state

  return model._replace(init=init)


def measure(seeds):
  stream = rows(TASKS)._replace(active="task", task_id_given=True)
  given = {"epochs": 10, "learning_rate": 0.001, "optimizer": "adam"}
  # Only the task's classes are in the softmax, so that a shared classifier is one of each task.
  classifier = tuning.beside(pretrained(), lambda key, leaves: {}, lambda own, leaves: {**leaves, **own}, tuning.HEAD)
  runs = {
    "clr": train(stream, "clr", seeds, model=pretrained(), **given),
    "classifier": train(stream, "finetune", seeds, model=classifier, **given),
  }
  assert np.all(forgetting(runs["clr"]) == 0), "a task's accuracy changed after it was learned"
  figures = {f"{name} right after learning": learned(run) for name, run in runs.items()}
  figures |= {f"{name} accuracy": percent(run) for name, run in runs.items()}
  return Measured({"learned by clr - by classifiers": learned(runs["clr"]) - learned(runs["classifier"])}, figures)
