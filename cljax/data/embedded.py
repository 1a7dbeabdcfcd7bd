"""Loading of the embedded datasets: the cache first, else the TFDS builder, prepared once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cljax.data import builders, digits, glyph_render, glyphs, limits, store, types

_COPIES = 3  # of the pictures, while they are rendered, written and read back


def _read(
  name: str, data_dir: Path, options: dict[str, Any] | None, fields: tuple[str, ...]
) -> tuple[Any, list[tuple]]:
  """The prepared builder and the named fields of its train and test rows; files that cannot be read are made again."""
  builder = builders.prepare(name, data_dir, options)
  try:
    return builder, [builders.rows(builder, s, fields) for s in ("train", "test")]
  except (RuntimeError, OSError):
    shutil.rmtree(builder.data_path)
  builder = builders.prepare(name, data_dir, options)
  return builder, [builders.rows(builder, s, fields) for s in ("train", "test")]


def load_digits(data_dir: Path) -> types.Dataset:
  """``digits``; a warm cache needs neither scikit-learn nor TFDS."""

  def make() -> types.Dataset:
    _, (train, test) = _read("digits", data_dir, None, ("image", "label"))
    return types.dataset(
      "digits", types.split(*train), types.split(*test), [str(c) for c in range(10)], scale=digits.SCALE
    )

  return store.cached(data_dir / "cache" / "digits.npz", {}, make)


def load_glyphs(data_dir: Path, given: Mapping[str, Any]) -> types.Dataset:
  """``glyphs`` with the given options (see ``cljax.data.glyphs``); groups are styles."""
  options = glyphs.check(given)

  def make() -> types.Dataset:
    chosen = glyphs.classes(options)  # refuses what the fonts cannot give before TFDS wraps the message
    rows = len(chosen) * (options["samples_per_class"] + options["test_samples_per_class"])
    what = f"samples_per_class: {rows} pictures of {len(chosen)} classes"
    limits.check_memory(what, _COPIES * rows * glyph_render.SIZE**2, "ask for fewer")
    builder, (train, test) = _read("glyphs", data_dir, options, ("image", "label", "style"))
    names = builder.info.features["label"].names
    parts = types.split(*train), types.split(*test)
    return types.dataset("glyphs", *parts, names, group_names=options["styles"], options=options)

  return store.cached(data_dir / "cache" / f"glyphs-{builders.key(options)}.npz", options, make)
