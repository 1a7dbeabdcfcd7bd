"""A frozen classifier of all classes ends better than the same one tuned task by task."""

from __future__ import annotations

import functools

import jax
import numpy as np

from cljax import data, models, streams
from experiments.claims import Claim
from experiments.claims._pretrained import TASKS, _with
from experiments.claims._runs import train
from experiments.claims._tuned import compared

CLAIM = Claim(
  methods=("continual_clip", "finetune"),
  paper="Thengane et al. 2022",
  sentence="A pre-trained network that can name all classes, frozen, ends a class-incremental stream at a better "
  "accuracy than the same network trained task by task without memory.",
  protocol="No text: what a prompt tells is here a classifier that the network has learned. ViT 8x8, patches of 2, 32 "
  "wide, 4 blocks, which has learned digits 0 to 5 on every fourth training row (Adam 0.001, 20 epochs), classifier "
  "included; then the other rows in three tasks of two classes, 8 epochs in batches of 32, Adam 0.001. Final average "
  "accuracy of continual_clip minus that of finetune, in points.",
  seeds=5,
)


@functools.cache
def _halves():
  """``(upstream, downstream)`` streams: of all classes at once on every fourth row, of two at a time on the others."""
  whole = data.load("digits")
  fourth = np.arange(len(whole.train.y)) % 4 == 0
  every = sorted(c for task in TASKS for c in task)
  of = lambda split, tasks, rows: [np.isin(split.y, classes) & rows for classes in tasks]
  test = lambda tasks: of(whole.test, tasks, np.ones(len(whole.test.y), bool))
  up = streams.from_tasks(whole, of(whole.train, [every], fourth), test([every]))
  return up, streams.from_tasks(whole, of(whole.train, TASKS, ~fourth), test(TASKS))


@functools.cache
def _network():
  up, down = _halves()
  model = models.vit((8, 8, 1), down.num_classes, patch=2, width=32, depth=4, heads=4)
  learned = train(up, "finetune", 1, model=model, optimizer="adam", learning_rate=1e-3, epochs=20).learner.params
  return _with(model, {k: jax.tree.map(lambda a: np.asarray(a)[0], v) for k, v in learned.items()})


def measure(seeds):
  how = {"epochs": 8, "optimizer": "adam", "learning_rate": 1e-3, "model": _network()}
  runs = {n: train(_halves()[1], n, seeds, **how) for n in ("continual_clip", "finetune")}
  return compared("continual_clip", "finetune", runs)
