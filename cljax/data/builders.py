"""The embedded datasets as TFDS builders: written as ArrayRecord and read back without TensorFlow.

The builder classes exist only once TFDS is imported, so they are made on first use (:func:`classes`). After that
``tfds.builder("cljax_digits")`` knows them too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "1.0.0"


@functools.cache
def classes() -> dict[str, Any]:
  """``{'digits': builder class, 'glyphs': builder class, 'glyphs_config': options to config}``; imports TFDS."""
  import tensorflow_datasets as tfds

  from cljax.data import digits, glyphs

  def info(builder, description, shape, names, **more):
    features = {
      # Not Image: TFDS encodes arrays as PNG through TensorFlow only. zlib is as small and four times as fast.
      "image": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="zlib"),
      "label": tfds.features.ClassLabel(names=names),
      "id": np.int32,
      **more,
    }
    return tfds.core.DatasetInfo(
      builder=builder,
      description=description,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=("image", "label"),
    )

  class CljaxDigits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits, 8x8, values 0..16, with a fixed stratified split."""

    VERSION = tfds.core.Version(VERSION)
    code_path = None  # nothing is downloaded; TFDS's own look-up needs a package that it does not install

    def _info(self):
      return info(self, digits.__doc__, (8, 8, 1), [str(c) for c in range(digits.NUM_CLASSES)])

    def _split_generators(self, dl_manager):
      del dl_manager
      return {name: self._generate_examples(x, y) for name, (x, y) in digits.arrays().items()}

    def _generate_examples(self, x, y):
      for i in range(len(y)):
        yield i, {"image": x[i], "label": int(y[i]), "id": i}

  @dataclasses.dataclass
  class GlyphsConfig(tfds.core.BuilderConfig):
    options: Any = None  # checked options; the name is derived from them

  def config(options):
    return GlyphsConfig(name=key(options), options=options)

  class CljaxGlyphs(tfds.core.GeneratorBasedBuilder):
    """Characters of many alphabets and styles, 28x28, rendered from the fonts that matplotlib ships."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [GlyphsConfig(name="default", options=glyphs.check({}))]
    code_path = None

    def _info(self):
      o = self.builder_config.options
      names = [chr(c.codepoint) for c in glyphs.classes(o)]
      style = tfds.features.ClassLabel(names=o["styles"])
      return info(self, f"{glyphs.__doc__}\nOptions: {json.dumps(o)}", (28, 28, 1), names, style=style)

    def _split_generators(self, dl_manager):
      del dl_manager
      parts = glyphs.arrays(self.builder_config.options, progress=sys.stderr.isatty())
      return {name: self._generate_examples(*part) for name, part in parts.items()}

    def _generate_examples(self, x, y, style):
      for i in range(len(y)):
        yield i, {"image": x[i], "label": int(y[i]), "id": i, "style": int(style[i])}

  return {"digits": CljaxDigits, "glyphs": CljaxGlyphs, "glyphs_config": config}


def key(options: dict[str, Any]) -> str:
  """A short name for a set of options: 16 hex digits of their sha256, with the builders' version."""
  return hashlib.sha256(json.dumps([VERSION, options], sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Drops TFDS's banners and its warning about custom configs, and its bars unless stderr is a terminal."""
  from tensorflow_datasets.core.utils import tqdm_utils

  before, log = tqdm_utils._active, logging.getLogger("absl")
  hide = lambda record: "custom data configuration" not in record.getMessage()
  tqdm_utils.display_progress_bar(before and sys.stderr.isatty())
  log.addFilter(hide)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    log.removeFilter(hide)
    tqdm_utils.display_progress_bar(before)


def prepare(name: str, data_dir: Path, options: dict[str, Any] | None = None) -> Any:
  """The prepared builder of an embedded dataset under ``data_dir`` (ArrayRecord). ``options`` are checked ones."""
  known = classes()
  with quiet():
    config = {} if options is None else {"config": known["glyphs_config"](options)}
    builder = known[name](data_dir=str(data_dir), file_format="array_record", **config)
    builder.download_and_prepare()
  return builder


def rows(builder, split_name: str, fields: tuple[str, ...]) -> tuple[np.ndarray, ...]:
  """The named features of every row of a split, in the order of ``id`` (TFDS shuffles what it writes)."""
  source = builder.as_data_source(split=split_name)
  examples = sorted(source.__getitems__(range(len(source))), key=lambda e: int(e["id"]))
  return tuple(np.stack([e[f] for e in examples]) for f in fields)
