"""Keeping new classes and old ones apart keeps few-shot learning from confusing them."""

import numpy as np

from cljax import data, streams
from experiments.claims import Claim, Measured
from experiments.claims._runs import percent, train

CLAIM = Claim(
  methods=("smile", "er"),
  paper="Majee et al. 2024",
  sentence="With the mutual information of new and base classes fewer rows of either are taken for the other than "
  "without it, and accuracy is above that of plain replay.",
  protocol="Digits, 6 base classes with all rows, then 2 classes with 5 rows each, twice; MLP 64-100-100-10, SGD 0.05, "
  "batch 16, 30 epochs a task, 30 rows stored, class-balanced; smile by its defaults (facility location), with "
  "mutual=0 (the classes' total information alone), and er. Final accuracy of smile minus that of er, and the share of "
  "test rows taken for a class of the other kind (base: 0 to 5) of smile with mutual=0 and of er minus that of smile, "
  "in points.",
)
BASE, SHOTS = 6, 5


def few_shots():
  """The digits, of whose classes from BASE on SHOTS training rows each are left, drawn once."""
  whole = data.load("digits")
  rng, y = np.random.default_rng(0), np.asarray(whole.train.y)
  few = [rng.choice(np.flatnonzero(y == c), SHOTS, replace=False) for c in range(BASE, 10)]
  kept = np.sort(np.concatenate([np.flatnonzero(y < BASE), *few]))
  shown = lambda split: np.asarray(split.x, np.float32) * (whole.scale or 1.0)
  test = {"x_test": shown(whole.test), "y_test": np.asarray(whole.test.y)}
  rows = {"x_train": shown(whole.train)[kept], "y_train": y[kept], **test}
  cut = data.from_arrays("few digits", rows)
  return streams.build(cut, "class", tasks=3, classes_per_task=[6, 2, 2], validation=0.0)


def confused(run, stream):
  """[S] percent of the test rows that are taken for a class of the other kind."""
  x, y = np.asarray(stream.dataset.test.x), np.asarray(stream.dataset.test.y)
  answers = np.stack([np.argmax(run.predict(x, i), -1) for i in range(len(run.alive))])
  return 100 * np.mean((answers < BASE) != (y < BASE)[None], axis=1)


def measure(seeds):
  stream = few_shots()
  given = {"batch_size": 16, "epochs": 30, "capacity": 30}
  runs = {
    "er": train(stream, "er", seeds, **given, policy="class_balanced"),
    "mutual=0": train(stream, "smile", seeds, **given, mutual=0.0),
    "smile": train(stream, "smile", seeds, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  wrong = {name: confused(run, stream) for name, run in runs.items()}
  figures |= {f"{name} confused": share for name, share in wrong.items()}
  return Measured(
    {
      "confused by mutual=0 - smile": wrong["mutual=0"] - wrong["smile"],
      "confused by er - smile": wrong["er"] - wrong["smile"],
      "accuracy of smile - er": percent(runs["smile"]) - percent(runs["er"]),
    },
    figures,
  )
