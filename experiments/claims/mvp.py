"""Masks and balanced prompts do better than other prompts where tasks have no clear borders."""

from __future__ import annotations

import functools

import numpy as np

from cljax import data, streams
from experiments.claims import Claim, Measured
from experiments.claims._pretrained import vit
from experiments.claims._runs import forgetting, learned, percent, train

CLAIM = Claim(
  methods=("mvp", "l2p", "dualprompt"),
  paper="Moon et al. 2023",
  sentence="In a stream of stochastic blurry borders, prompts that are chosen evenly, with a mask of logits for each "
  "row and rows weighed by their gradients, end at a better accuracy than L2P and DualPrompt.",
  protocol="ViT 8x8, patches of 2, 32 wide, 4 blocks, which has learned digits 6 to 9; then digits 0 to 5 in three "
  "tasks of a Si-Blurry stream (one draw; 50 % of the classes disjoint, 10 % of the others' rows anywhere), batches of "
  "10, 3 epochs (the authors' three steps a batch), Adam 0.005. mvp: pool of 3 (the authors' one a task), length 5; "
  "l2p: pool of 10, length 5, 4 chosen; dualprompt: length 5, one a task; else defaults. Final average accuracy of mvp "
  "minus that of each, in points.",
  seeds=5,
)
OPTIONS = {"mvp": {"pool": 3, "length": 5}, "l2p": {"length": 5}, "dualprompt": {}}


@functools.cache
def blurry():
  """Digits 0 to 5."""
  whole = data.load("digits")
  at = {n: np.flatnonzero(getattr(whole, n).y < 6) for n in ("train", "test")}

  def kept(name):
    split, rows = getattr(whole, name), at[name]
    return split._replace(
      x=split.x[rows], y=split.y[rows], id=np.arange(len(rows), dtype=np.int32), group=split.group[rows]
    )

  few = whole._replace(train=kept("train"), test=kept("test"), num_classes=6, class_names=whole.class_names[:6])
  drawn = streams.build(few, "si_blurry", tasks=3, disjoint=50, blurry=10, validation=0.0)
  return streams.from_tasks(whole, *([at[n][rows] for rows in getattr(drawn, n)] for n in ("train", "test")))


def measure(seeds):
  how = {"epochs": 3, "batch_size": 10, "optimizer": "adam", "learning_rate": 5e-3, "model": vit()}
  runs = {n: train(blurry(), n, seeds, **how, **OPTIONS[n]) for n in CLAIM.methods}
  figures = {f"{n} accuracy": percent(run) for n, run in runs.items()}
  figures |= {f"{n} forgetting": forgetting(run) for n, run in runs.items()}
  figures |= {f"{n} learned": learned(run) for n, run in runs.items()}
  others = ("l2p", "dualprompt")
  return Measured({f"accuracy of mvp - {n}": percent(runs["mvp"]) - percent(runs[n]) for n in others}, figures)
