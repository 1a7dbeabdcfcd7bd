"""Contrast, targets for all classes and a small part that moves learn classes of few rows without forgetting."""

import numpy as np

from cljax import data, streams
from experiments.claims import Claim, Measured
from experiments.claims._runs import final, percent, train

BASE, SESSIONS, SHOTS = (0, 1, 2, 3, 4, 5), ((6, 7), (8, 9)), 5

CLAIM = Claim(
  methods=("fscil_tricks", "finetune", "simplecil"),
  paper="Roy et al. 2024",
  sentence="With five rows of each class of later tasks, the bag of tricks ends at a better accuracy than plain "
  "training, and than nearest class means on features of the first task.",
  protocol="Digits: six classes, then two tasks of two classes with 5 rows each; MLP 64-100-100-10, batch 32, 20 "
  "epochs, SGD 0.05; defaults, but for views, which are cut to 0.6 of the area at least and not mirrored, as digits "
  "are not. Final accuracy of fscil_tricks, mean over the three tasks, minus that of finetune, and minus that of "
  "simplecil with first_task=train, in points.",
  seeds=5,
)
WITHOUT: dict[str, dict] = {
  "contrast": {"contrast": 0.0, "warmup": 0.0},
  "simplex": {"targets": "learned"},
  "warm-up": {"warmup": 0.0},
  "pseudo-classes": {"pseudo": False},
  "small rate": {"later_rate": 1.0},
  "subnet": {"subnet": 1.0},
  "small rate and subnet": {"later_rate": 1.0, "subnet": 1.0},
}


def shots():
  """The stream: all rows of the first classes, the first few of each later one; all test rows."""
  whole = data.load("digits")
  y = whole.train.y
  few = lambda c: np.isin(np.arange(len(y)), np.flatnonzero(y == c)[:SHOTS])
  train_rows = [np.isin(y, BASE), *(np.logical_or.reduce([few(c) for c in s]) for s in SESSIONS)]
  return streams.from_tasks(whole, train_rows, [np.isin(whole.test.y, s) for s in (BASE, *SESSIONS)])


def measure(seeds):
  stream, given = shots(), {"epochs": 20}
  mine: dict = {"least_area": 0.6, "flip": False}
  runs = {
    "fscil_tricks": train(stream, "fscil_tricks", seeds, **given, **mine),
    "finetune": train(stream, "finetune", seeds, **given),
    "simplecil": train(stream, "simplecil", seeds, **given, first_task="train"),
    **{f"without {n}": train(stream, "fscil_tricks", seeds, **given, **{**mine, **o}) for n, o in WITHOUT.items()},
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} accuracy on the first task": final(run, 0) for name, run in runs.items()}
  others = ("finetune", "simplecil")
  return Measured(
    {f"accuracy of fscil_tricks - {n}": percent(runs["fscil_tricks"]) - percent(runs[n]) for n in others}, figures
  )
