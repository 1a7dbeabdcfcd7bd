"""Claims of methods on a pre-trained network: one that has learned other classes of the digits."""

from __future__ import annotations

import functools

import jax
import numpy as np

import cljax
from cljax import data, models, streams
from experiments.claims._runs import mlp, train

UPSTREAM, TASKS = (6, 7, 8, 9), ((0, 1), (2, 3), (4, 5))


def rows(tasks):
  """A stream whose tasks are these classes."""
  whole = data.load("digits")
  of = lambda split: [np.isin(split.y, classes) for classes in tasks]
  return streams.from_tasks(whole, of(whole.train), of(whole.test))


@functools.cache
def downstream():
  """Digits 0 to 5 in three tasks of two classes."""
  return rows(TASKS)


def _with(model, found):
  """The model that begins with ``found``; what is not there as at first."""

  def init(key):
    params, state = model.init(key)
    return {**params, **found}, state

  return model._replace(init=init)


@functools.cache
def vit():
  """A ViT (patches of 2, 32 wide, 4 blocks of 4 heads) that has learned digits 6 to 9 (Adam 1e-3, 20 epochs); a head as
  at first. It takes prompts."""
  stream = rows([UPSTREAM])
  model = models.vit((8, 8, 1), downstream().num_classes, patch=2, width=32, depth=4, heads=4)
  learned = train(stream, "finetune", 1, model=model, optimizer="adam", learning_rate=1e-3, epochs=20)
  whole = learned.learner.params
  return _with(model, {k: jax.tree.map(lambda a: np.asarray(a)[0], v) for k, v in whole.items() if k != "head"})


@functools.cache
def pretrained():
  """The MLP 64-100-100-10 whose hidden layers have learned digits 6 to 9 (SGD 0.05, 20 epochs); a head as at first."""
  model = mlp(downstream())
  learned = cljax.run(
    rows([UPSTREAM]),
    model,
    "finetune",
    optimizer="sgd",
    optimizer_options={"learning_rate": 0.05},
    training=cljax.Recipe(batch_size=32, epochs=20),
  )
  found = {k: jax.tree.map(lambda a: np.asarray(a)[0], v) for k, v in learned.learner.params.items() if k != "head"}
  return _with(model, found)
