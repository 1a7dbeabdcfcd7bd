"""``digits``: 1,797 handwritten digits, 8x8, values 0..16, from the UCI set that scikit-learn ships (BSD licence)."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from cljax.core.extras import needed
from cljax.data import types

NUM_CLASSES = 10
SCALE = 1 / 16
_SEED = 0
_TEST_FRACTION = 0.2


def raw() -> tuple[np.ndarray, np.ndarray]:
  """``x [1797, 8, 8, 1]`` uint8 and ``y [1797]`` int32 in scikit-learn's order.

  The file is read from scikit-learn's folder without importing it (the import takes seconds); where a version keeps it
  elsewhere, scikit-learn's own loader is called.
  """
  spec = importlib.util.find_spec("sklearn")
  file = Path((spec and spec.origin) or "").parent / "datasets" / "data" / "digits.csv.gz"
  if file.is_file():
    with gzip.open(file, "rt") as f:
      table = np.loadtxt(f, delimiter=",")
  else:
    with needed("data.name=digits"):
      from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    table = np.concatenate([x, y[:, None]], 1)
  return table[:, :-1].astype(np.uint8).reshape(-1, 8, 8, 1), table[:, -1].astype(np.int32)


def arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """``{'train': (x, y), 'test': (x, y)}``: the fixed split, 1,438 and 359 rows, both in scikit-learn's order."""
  x, y = raw()
  test = types.held_out(y, _TEST_FRACTION, _SEED)
  return {"train": (x[~test], y[~test]), "test": (x[test], y[test])}
