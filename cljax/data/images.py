"""Decoding of picture files with Pillow, on all cores."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cljax.types import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_GRAY = ("1", "L", "LA", "La")


def check_size(size) -> tuple[int, int] | None:
  """``(height, width)`` from an option ``size``: None (as stored), one number, or two."""
  if size is None:
    return None
  pair = (size, size) if isinstance(size, int | np.integer) else tuple(size) if isinstance(size, list | tuple) else ()
  if len(pair) != 2 or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 1 for n in pair):
    raise UsageError(f"size: got {size!r}; allowed: None, a side in pixels, or (height, width)")
  return int(pair[0]), int(pair[1])


def resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """``[H, W, C]`` uint8 resized to ``size`` (bilinear, antialiased), plane by plane."""
  from PIL import Image

  if x.shape[:2] == size:
    return x
  planes = [Image.fromarray(x[..., c]).resize(size[::-1], Image.Resampling.BILINEAR) for c in range(x.shape[2])]
  return np.stack([np.asarray(p) for p in planes], -1)


def decode(name: str, data: bytes, colour: bool, size: tuple[int, int] | None = None) -> np.ndarray:
  """One picture as ``[H, W, 3]`` (``colour``) or ``[H, W, 1]`` uint8; alpha is dropped."""
  from PIL import Image

  try:
    with Image.open(io.BytesIO(data)) as picture:
      if picture.mode.startswith(("I", "F")):
        raise ValueError(f"mode {picture.mode}: more than 8 bits a channel")
      x = np.asarray(picture.convert("RGB" if colour else "L"))
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
    raise UsageError(f"{name}: cannot be read as a picture ({e})") from None
  x = x if colour else x[..., None]
  return x if size is None else resize(x, size)


def is_colour(data: bytes) -> bool:
  """Whether a picture has colour channels; reads the header only."""
  from PIL import Image

  try:
    with Image.open(io.BytesIO(data)) as picture:
      return picture.mode not in _GRAY
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
    return False  # decode names the file and the reason


def decode_all(
  names: Sequence[str], read: Callable[[str], bytes], *, colour: bool | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
  """``[N, H, W, C]`` uint8 of the named pictures; ``colour=None`` gives 3 channels if any of them has colour.

  Raises :class:`UsageError` for a file that is no picture, and for sizes that differ where ``size`` is None.
  """
  from tqdm import tqdm

  lock = threading.Lock()  # archives have one file position

  def locked_read(name: str) -> bytes:
    with lock:
      return read(name)

  pool = ThreadPoolExecutor(os.cpu_count())
  try:
    if colour is None:
      colour = any(pool.map(lambda n: is_colour(locked_read(n)), names))
    every = pool.map(lambda n: decode(n, locked_read(n), colour, size), names)
    bar = tqdm(every, total=len(names), desc="decoding", unit="image", disable=not sys.stderr.isatty())
    out: np.ndarray | None = None
    for i, x in enumerate(bar):
      if out is None:
        out = np.empty((len(names), *x.shape), np.uint8)
      if x.shape != out.shape[1:]:
        (h, w), (h1, w1) = out.shape[1:3], x.shape[:2]
        raise UsageError(f"size: got None, and {names[0]} is {h}x{w} but {names[i]} {h1}x{w1}; allowed: a size for all")
      out[i] = x
  finally:
    pool.shutdown(cancel_futures=True)
  assert out is not None
  return out
