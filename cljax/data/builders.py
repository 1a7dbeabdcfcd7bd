"""The embedded datasets as TFDS builders: written as ArrayRecord and read back without TensorFlow.

The builder classes exist only once TFDS is imported, so they are made on first use (:func:`classes`). After that
``tfds.builder("cljax_digits")`` knows them too.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "1.0.0"


@functools.cache
def classes() -> dict[str, Any]:
  """``{'digits': builder class}``; imports TFDS."""
  import tensorflow_datasets as tfds

  from cljax.data import digits

  def info(builder, description, shape, names):
    features = {
      # Not Image: TFDS encodes arrays as PNG through TensorFlow only. zlib is as small and four times as fast.
      "image": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="zlib"),
      "label": tfds.features.ClassLabel(names=names),
      "id": np.int32,
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

  return {"digits": CljaxDigits}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences TFDS's bars and banners where stderr is no terminal; puts its setting back."""
  from tensorflow_datasets.core.utils import tqdm_utils

  if sys.stderr.isatty():
    yield
    return
  before = tqdm_utils._active
  tqdm_utils.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(sys.stderr):
      yield
  finally:
    tqdm_utils._active = before


def prepare(name: str, data_dir: Path, **kwargs) -> Any:
  """The prepared builder of an embedded dataset under ``data_dir`` (ArrayRecord)."""
  builder = classes()[name](data_dir=str(data_dir), file_format="array_record", **kwargs)
  with quiet():
    builder.download_and_prepare()
  return builder


def rows(builder, split_name: str, fields: tuple[str, ...]) -> tuple[np.ndarray, ...]:
  """The named features of every row of a split, in the order of ``id`` (TFDS shuffles what it writes)."""
  source = builder.as_data_source(split=split_name)
  examples = sorted(source.__getitems__(range(len(source))), key=lambda e: int(e["id"]))
  return tuple(np.stack([e[f] for e in examples]) for f in fields)
