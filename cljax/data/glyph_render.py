"""Rendering of ``glyphs``: one character of one font, centred, and random distortions of it.

This file is also run by itself as the worker process (see :func:`render`), so it imports nothing of cljax: a worker
starts in a third of a second, needs no ``__main__`` guard in the caller's script, and no process that runs JAX forks.

Every sample is a pure function of (seed, codepoint, style, split, index): the number of workers, the other classes and
styles and the number of samples change nothing. Bits hold for one version of matplotlib (its FreeType and fonts).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cljax.core.extras import needed

SIZE = 28  # side of a sample, pixels
FINE = 3  # the undistorted character is drawn this many times larger
OVER = 2  # samples are taken at this many times the output resolution, then averaged
EM = 22  # font size in output pixels
FIT = 24  # larger characters shrink to this side, output pixels
INLINE = 3000  # below this many samples, starting workers costs more than it saves

# Distortion ranges: uniform in [-a, a].
ROTATE = 0.20  # radians
SHEAR = 0.20
LOG_SCALE = 0.14  # both axes together
LOG_ASPECT = 0.10  # one axis against the other
SHIFT = 2.0  # output pixels
ELASTIC = 0.9  # standard deviation of each knot's displacement, output pixels
KNOTS = 5  # knots a side of the displacement field
_DRAWS = 6 + 2 * KNOTS * KNOTS


class Job(NamedTuple):
  """``number`` samples of one character in one style, for one split (0 train, 1 test)."""

  file: str  # the font
  style: str
  codepoint: int
  split: int
  number: int


@functools.lru_cache(maxsize=32)
def font(file: str):
  """The font, sized so that one em is ``EM * FINE`` pixels."""
  with needed("data.name=glyphs"):
    from matplotlib import ft2font

  face = ft2font.FT2Font(file)
  face.set_size(EM * FINE, 72)
  return face


def has(file: str, codepoint: int) -> bool:
  """Whether the font maps the codepoint to a glyph other than ``.notdef``."""
  return font(file).get_char_index(codepoint) != 0


def base(file: str, codepoint: int) -> np.ndarray:
  """The undistorted character, ``[SIZE * FINE] * 2`` float32 in 0..1, its ink centred; all zero for a blank one."""
  with needed("data.name=glyphs"):
    from matplotlib import ft2font

  face = font(file)
  # matplotlib before 3.10 has plain constants
  flags = ft2font.LoadFlags.NO_HINTING if hasattr(ft2font, "LoadFlags") else getattr(ft2font, "LOAD_NO_HINTING")  # noqa: B009
  face.clear()
  face.set_text(chr(codepoint), 0.0, flags=flags)
  face.draw_glyphs_to_bitmap(antialiased=True)
  ink = np.asarray(face.get_image(), np.float32) / 255
  rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
  side = SIZE * FINE
  if not len(rows):
    return np.zeros((side, side), np.float32)
  ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  h, w = ink.shape
  shrink = max(h, w) / (FIT * FINE)
  if shrink <= 1:
    out = np.zeros((side, side), np.float32)
    i, j = (side - h) // 2, (side - w) // 2
    out[i : i + h, j : j + w] = ink
    return out
  at = (np.arange(side, dtype=np.float32) + 0.5 - side / 2) * np.float32(shrink)
  grid = np.meshgrid(at + h / 2 - 0.5, at + w / 2 - 0.5, indexing="ij")
  return _bilinear(ink, grid[0][None], grid[1][None])[0]


def _bilinear(image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
  """Reads ``image`` at real-valued rows and columns (same shape); zero outside."""
  h, w = image.shape
  padded = np.zeros((h + 2, w + 2), np.float32)
  padded[1:-1, 1:-1] = image
  row = np.clip(row + 1, 0, h + 0.999)
  column = np.clip(column + 1, 0, w + 0.999)
  i, j = row.astype(np.int32), column.astype(np.int32)
  a, b = (row - i).astype(np.float32), (column - j).astype(np.float32)
  flat, k = padded.ravel(), i * (w + 2) + j
  top = flat.take(k) * (1 - b) + flat.take(k + 1) * b
  bottom = flat.take(k + w + 2) * (1 - b) + flat.take(k + w + 3) * b
  return top * (1 - a) + bottom * a


@functools.cache
def _knots() -> np.ndarray:
  """``[SIZE * OVER, KNOTS]``: Gaussian bumps, normalised, that spread the knots' displacements over the pixels."""
  pixel = (np.arange(SIZE * OVER) + 0.5) / (SIZE * OVER) * (KNOTS - 1)
  bump = np.exp(-0.5 * ((pixel[:, None] - np.arange(KNOTS)) / 0.6) ** 2)
  return (bump / np.sqrt((bump**2).sum(1, keepdims=True))).astype(np.float32)


def distort(image: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """``[n, SIZE, SIZE]`` uint8 from ``image [SIZE * FINE] * 2`` and ``draws [n, _DRAWS]``, uniform in [-1, 1).

  Each output pixel reads the image at ``A @ pixel + shift + elastic(pixel)``.
  """
  n, side = len(draws), SIZE * OVER
  turn, shear = draws[:, 0] * ROTATE, draws[:, 1] * SHEAR
  scale, aspect = draws[:, 2] * LOG_SCALE, draws[:, 3] * LOG_ASPECT
  cos, sin = np.cos(turn), np.sin(turn)
  high, wide = np.exp(scale + aspect), np.exp(scale - aspect)
  # rows of A: rotation times shear times scale
  a = np.stack([cos * high, (cos * shear - sin) * wide, sin * high, (sin * shear + cos) * wide], 1).astype(np.float32)
  at = ((np.arange(side, dtype=np.float32) + 0.5) / OVER - SIZE / 2)[None]
  # sqrt(3): the standard deviation of a uniform draw in [-1, 1) is 1/sqrt(3)
  knots = (draws[:, 6:] * (ELASTIC * 3**0.5)).reshape(n, 2, KNOTS, KNOTS).astype(np.float32)
  bump = _knots()
  # einsum without optimize sums in a fixed order: no BLAS, so the thread count cannot change a bit
  field = np.einsum("nakl,il->naki", knots, bump, optimize=False)
  field = np.einsum("naki,jk->naji", field, bump, optimize=False)
  shift = (draws[:, 4:6] * SHIFT).astype(np.float32)
  where = [
    (a[:, 2 * d, None] * at)[:, :, None]
    + (a[:, 2 * d + 1, None] * at)[:, None, :]
    + field[:, d]
    + shift[:, d, None, None]
    for d in (0, 1)
  ]
  row, column = ((p + SIZE / 2) * FINE - 0.5 for p in where)
  fine = _bilinear(image, row, column).reshape(n, SIZE, OVER, SIZE, OVER).mean((2, 4))
  return np.clip(np.rint(fine * 255), 0, 255).astype(np.uint8)


def samples(job: Job, seed: int) -> np.ndarray:
  """``[number, SIZE, SIZE]`` uint8. More samples extend fewer: sample ``i`` does not depend on ``number``."""
  # the style enters by its name, so that the list of chosen styles does not matter
  entropy = [seed, job.codepoint, int.from_bytes(job.style.encode(), "little"), job.split]
  draws = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy))).random((job.number, _DRAWS)) * 2 - 1
  image = base(job.file, job.codepoint)
  chunks = [distort(image, draws[i : i + 64]) for i in range(0, job.number, 64)]
  return np.concatenate(chunks) if chunks else np.zeros((0, SIZE, SIZE), np.uint8)


def _worker() -> None:
  """Reads ``{"seed", "jobs"}`` as JSON from stdin; writes the raw bytes of each job's samples to stdout, in order."""
  order = json.load(sys.stdin)
  for job in order["jobs"]:
    sys.stdout.buffer.write(samples(Job(*job), order["seed"]).tobytes())
    sys.stdout.buffer.flush()


def _from_worker(jobs: Sequence[Job], seed: int) -> Iterator[np.ndarray]:
  environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
  # -P: without it this folder would come first on the path, and its types.py would hide the standard library's
  command = [sys.executable, "-P", os.path.abspath(__file__)]
  process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
  assert process.stdin is not None
  assert process.stdout is not None
  try:
    process.stdin.write(json.dumps({"seed": seed, "jobs": jobs}).encode())
    process.stdin.close()
    for job in jobs:
      size = job.number * SIZE * SIZE
      data = process.stdout.read(size)
      if len(data) != size:
        raise RuntimeError(f"a rendering process ended early with exit status {process.wait()}")
      yield np.frombuffer(data, np.uint8).reshape(job.number, SIZE, SIZE)
  finally:
    process.kill()
    process.stdout.close()
    process.wait()


def render(
  jobs: Sequence[Job], seed: int, *, workers: int | None = None, done: Callable[[int], object] = lambda n: None
) -> list[np.ndarray]:
  """The samples of every job, in the order of ``jobs``.

  ``workers`` processes share the jobs (default: one a core, none for small orders; 0 renders in this process).
  ``done(count)`` is called after each job.
  """
  if workers is None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = 0 if sum(j.number for j in jobs) < INLINE or cores == 1 else cores
  out: list[np.ndarray | None] = [None] * len(jobs)
  failures: list[BaseException] = []

  def collect(first: int, step: int) -> None:
    mine = range(first, len(jobs), step)
    stream = _from_worker([jobs[i] for i in mine], seed) if workers else (samples(jobs[i], seed) for i in mine)
    try:
      for i, x in zip(mine, stream, strict=True):
        out[i] = x
        done(len(x))
    except BaseException as e:
      failures.append(e)

  if workers:
    threads = [threading.Thread(target=collect, args=(w, workers), daemon=True) for w in range(workers)]
    for t in threads:
      t.start()
    for t in threads:
      t.join()
  else:
    collect(0, 1)
  if failures:
    raise failures[0]
  return [x for x in out if x is not None]


if __name__ == "__main__":
  _worker()
