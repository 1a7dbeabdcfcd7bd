"""Loading of the embedded datasets: the cache first, else the TFDS builder, prepared once."""

from __future__ import annotations

from pathlib import Path

from cljax.data import digits, store, types


def load_digits(data_dir: Path) -> types.Dataset:
  """``digits``; a warm cache needs neither scikit-learn nor TFDS."""

  def make() -> types.Dataset:
    from cljax.data import builders

    builder = builders.prepare("digits", data_dir)
    train, test = (types.split(*builders.rows(builder, s, ("image", "label"))) for s in ("train", "test"))
    return types.dataset("digits", train, test, [str(c) for c in range(10)], scale=digits.SCALE)

  return store.cached(data_dir / "cache" / "digits.npz", {}, make)
