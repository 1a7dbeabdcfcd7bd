"""Decoding of picture files with Pillow, on all cores."""

from __future__ import annotations

import io
import lzma
import os
import struct
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cljax import _old_names
from cljax.core.extras import needed
from cljax.core.types import UsageError
from cljax.data import limits
from cljax.data.types import first_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff")
# Pictures that Pillow may or may not read; refused by name, since a class would lose rows without a word.
OTHER_SUFFIXES = (
  ".heic",
  ".heif",
  ".avif",
  ".svg",
  ".jp2",
  ".j2k",
  ".jxl",
  ".tga",
  ".ico",
  ".dng",
  ".cr2",
  ".nef",
  ".arw",
)
# What a damaged archive makes zip, gzip and tar raise, beside OSError.
DAMAGED = (EOFError, KeyError, NotImplementedError, RuntimeError, struct.error, zlib.error, lzma.LZMAError,
           tarfile.TarError, zipfile.BadZipFile, OverflowError)  # fmt: skip
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
  with needed("a data set of pictures"):
    from PIL import Image

  if x.shape[:2] == size:
    return x
  planes = [Image.fromarray(x[..., c]).resize(size[::-1], Image.Resampling.BILINEAR) for c in range(x.shape[2])]
  return np.stack([np.asarray(p) for p in planes], -1)


def decode(name: str, data: bytes, colour: bool, size: tuple[int, int] | None = None) -> np.ndarray:
  """One picture as ``[H, W, 3]`` (``colour``) or ``[H, W, 1]`` uint8, upright, transparent parts white."""
  with needed("a data set of pictures"):
    from PIL import Image, ImageOps

  try:
    with Image.open(io.BytesIO(data)) as picture:
      if picture.mode.startswith(("I", "F")):
        raise ValueError(f"mode {picture.mode}: more than 8 bits a channel")
      upright = ImageOps.exif_transpose(picture)
      if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
      x = np.asarray(upright.convert("RGB" if colour else "L"))
  except Exception as e:  # a damaged file makes decoders raise whatever they come upon
    said = "no picture that Pillow knows" if isinstance(e, Image.UnidentifiedImageError) else first_line(e)
    raise UsageError(f"{name}: cannot be read as a picture ({said})") from None
  x = x if colour else x[..., None]
  return x if size is None else resize(x, size)


def header(data: bytes) -> tuple[bool, tuple[int, int]]:
  """Whether a picture has colour channels, and ``(height, width)`` as stored; reads the header only."""
  with needed("a data set of pictures"):
    from PIL import Image

  try:
    with Image.open(io.BytesIO(data)) as picture:
      return picture.mode not in _GRAY, picture.size[::-1]
  except Exception:
    return False, (0, 0)  # decode names the file and the reason


def decode_all(
  names: Sequence[str],
  read: Callable[[str], bytes],
  *,
  colour: bool | None = None,
  size: tuple[int, int] | None = None,
  copies: int = 1,
) -> np.ndarray:
  """``[N, H, W, C]`` uint8 of the named pictures; ``colour=None`` gives 3 channels if any of them has colour.

  Raises :class:`UsageError` for a file that is no picture, for sizes that differ where ``size`` is None, and where
  there is no memory for so many ``copies`` of the array.
  """
  with needed("a data set of pictures"):
    from tqdm import tqdm

  lock = threading.Lock()  # archives have one file position

  def locked_read(name: str) -> bytes:
    try:
      with lock:
        return read(name)
    except (OSError, *DAMAGED) as e:
      raise UsageError(f"{name}: cannot be read ({first_line(e)})") from None

  pool = ThreadPoolExecutor(os.cpu_count())
  try:
    if colour is None:
      colour = any(pool.map(lambda n: header(locked_read(n))[0], names))
    height, width = size or header(locked_read(names[0]))[1]
    pixels = len(names) * height * width * (3 if colour else 1)
    what = f"data: {len(names)} pictures of {height}x{width}"
    limits.check_memory(what, copies * pixels, "give a smaller size=")
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


__getattr__ = _old_names.from_module(__name__)
