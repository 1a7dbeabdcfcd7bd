"""What a folder with a published network holds: its configuration, its tensors, how its images were prepared."""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any, NamedTuple

import numpy as np

from cljax.core.types import UsageError

CONFIG, PREPARED = "config.json", "preprocessor_config.json"
GET = "huggingface-cli download OWNER/NAME --local-dir DIR"


class Folder(NamedTuple):
  """The folder's path, its configuration and its tensors."""

  path: str
  config: dict[str, Any]
  tensors: dict[str, np.ndarray]
  at: str = ""  # in front of the names of settings, where the configuration is a part of the file's

  def part(self, key: str) -> Folder:
    """The folder with that part of its configuration; UsageError where it is no object."""
    found = self.config.get(key)
    if found is not None and not isinstance(found, dict):
      raise self.refuse(f"{key}: got {found!r:.80}; expected an object")
    return self._replace(config=found or {}, at=f"{self.at}{key}.")

  def refuse(self, why: str, file: str = CONFIG) -> UsageError:
    """The error about a file of this folder."""
    return UsageError(f"model.folder: {os.path.join(self.path, file)}: {why}")

  def number(self, key: str, default: int | None = None) -> int:
    """A count of the configuration; UsageError where it is missing or none."""
    value = self.config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      said = "is missing" if key not in self.config else f"got {value!r:.80}"
      raise self.refuse(f"{self.at}{key}: {said}; expected an integer of at least 1")
    return value


def parsed(path: str, file: str) -> dict[str, Any]:
  """A JSON file of the folder; UsageError where it is not there or broken."""
  where = os.path.join(path, file)
  try:
    with open(where, encoding="utf-8") as f:
      found = json.load(f)
  except FileNotFoundError:
    raise UsageError(f"model.folder: {where}: no such file; a folder is what `{GET}` writes") from None
  except (OSError, ValueError) as e:
    raise UsageError(f"model.folder: {where}: cannot be read as JSON ({e})") from None
  if not isinstance(found, dict):
    raise UsageError(f"model.folder: {where}: holds {type(found).__name__}; expected an object")
  return found


def _library():
  try:
    import safetensors
  except ImportError:
    raise UsageError("model.folder: needs the package safetensors; pip install 'cljax[pretrained]'") from None
  return safetensors


def tensors_of(path: str, shapes_alone: bool = False) -> dict[str, Any]:
  """All tensors of the folder's ``*.safetensors``, or where it has none of its ``*.npz``, by name, in float32; with
  ``shapes_alone`` their shapes."""
  files = sorted(n for n in os.listdir(path) if n.endswith(".safetensors"))
  arrays = sorted(n for n in os.listdir(path) if n.endswith(".npz"))
  if arrays and not files:
    return _arrays([os.path.join(path, n) for n in arrays], shapes_alone)
  safetensors = _library()
  if not files:
    raise UsageError(f"model.folder: {os.path.join(path, '*.safetensors')}: no such file; `{GET}` writes it")
  found: dict[str, Any] = {}
  for file in files:
    where = os.path.join(path, file)
    try:
      with safetensors.safe_open(where, framework="flax") as f:
        for name in f.keys():  # noqa: SIM118  (no mapping)
          if name in found:
            raise UsageError(f"model.folder: {where}: {name!r} stands in another file of the folder too")
          read = tuple(f.get_slice(name).get_shape()) if shapes_alone else np.asarray(f.get_tensor(name), np.float32)
          found[name] = read
    except (safetensors.SafetensorError, OSError) as e:
      raise UsageError(f"model.folder: {where}: cannot be read as safetensors ({e})") from None
  return found


def _arrays(files: list[str], shapes_alone: bool) -> dict[str, Any]:
  """The arrays of ``*.npz`` by name."""
  found: dict[str, Any] = {}
  for where in files:
    try:
      with np.load(where, allow_pickle=False) as held:
        for name in held.files:
          if name in found:
            raise UsageError(f"model.folder: {where}: {name!r} stands in another file of the folder too")
          value = held[name]
          found[name] = value.shape if shapes_alone else np.asarray(value, np.float32)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
      raise UsageError(f"model.folder: {where}: cannot be read as arrays of NumPy ({e})") from None
  return found


def checked(path: str) -> str:
  """The path of a folder; UsageError where there is none."""
  if not isinstance(path, str | os.PathLike) or not str(path):
    raise UsageError(f"model.folder: got {path!r}; expected the folder of a network, with {CONFIG} and *.safetensors")
  path = os.path.expanduser(os.fspath(path))
  if not os.path.isdir(path):
    raise UsageError(f"model.folder: got {path!r}; no such folder; `{GET}` writes one")
  return path


def load(path: str) -> Folder:
  """The folder; UsageError that names the file where one is missing or broken."""
  path = checked(path)
  return Folder(path, parsed(path, CONFIG), tensors_of(path))


def size(path: str) -> int:
  """How many numbers a folder's tensors are, by their headers alone."""
  return sum(int(np.prod(shape)) for shape in tensors_of(checked(path), shapes_alone=True).values())


def normalisation(folder: Folder, channels: int) -> tuple[np.ndarray, np.ndarray]:
  """``(mean, std)`` of the channels that the network's images were normalised by, rows being in [0, 1]."""
  timm, file = "architecture" in folder.config, CONFIG
  if timm:
    said = folder.config.get("pretrained_cfg", folder.config)
    names = "mean", "std"
  else:
    file, names = PREPARED, ("image_mean", "image_std")
    if not os.path.exists(os.path.join(folder.path, PREPARED)):
      raise folder.refuse("no such file; model.normalise=none takes rows as they are", PREPARED)
    said = parsed(folder.path, PREPARED)
    if not said.get("do_normalize", True):
      return np.zeros(channels, np.float32), np.ones(channels, np.float32)
    factor = said.get("rescale_factor", 1 / 255)
    if not isinstance(factor, int | float) or abs(255 * factor - 1) > 1e-3:
      raise folder.refuse(f"rescale_factor: got {factor!r:.80}; rows lie in [0, 1], which is 1/255", PREPARED)
  found = []
  for name in names:
    value: Any = said.get(name) if isinstance(said, dict) else None
    numbers = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
    if not numbers or len(value) != channels or (name == names[1] and min(value) <= 0):
      raise folder.refuse(f"{name}: got {value!r:.80}; expected {channels} numbers, deviations above 0", file)
    found.append(np.asarray(value, np.float32))
  return found[0], found[1]
