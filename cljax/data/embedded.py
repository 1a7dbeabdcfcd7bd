"""Loading of the embedded datasets: the cache first, else the TFDS builder, prepared once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cljax.data import builders, digits, glyphs, store, types


def load_digits(data_dir: Path) -> types.Dataset:
  """``digits``; a warm cache needs neither scikit-learn nor TFDS."""

  def make() -> types.Dataset:
    builder = builders.prepare("digits", data_dir)
    train, test = (types.split(*builders.rows(builder, s, ("image", "label"))) for s in ("train", "test"))
    return types.dataset("digits", train, test, [str(c) for c in range(10)], scale=digits.SCALE)

  return store.cached(data_dir / "cache" / "digits.npz", {}, make)


def load_glyphs(data_dir: Path, given: Mapping[str, Any]) -> types.Dataset:
  """``glyphs`` with the given options (see ``cljax.data.glyphs``); groups are styles."""
  options = glyphs.check(given)

  def make() -> types.Dataset:
    glyphs.classes(options)  # refuses what the fonts cannot give before TFDS wraps the message
    builder = builders.prepare("glyphs", data_dir, options)
    train, test = (types.split(*builders.rows(builder, s, ("image", "label", "style"))) for s in ("train", "test"))
    names = builder.info.features["label"].names
    return types.dataset("glyphs", train, test, names, group_names=options["styles"], options=options)

  return store.cached(data_dir / "cache" / f"glyphs-{builders.key(options)}.npz", options, make)
