"""TFDS image sets that are prepared on disk as ArrayRecord, read without TensorFlow."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cljax.core.extras import needed
from cljax.core.types import UsageError
from cljax.data import images, limits, store, types

DEFAULTS: dict[str, Any] = {"train_split": "train", "test_split": "test", "size": None}
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+?))?(:(?P<version>\d+\.\d+\.\d+))?")


def _versions(folder: Path) -> dict[tuple[int, ...], Path]:
  """``{(1, 0, 0): folder/1.0.0}`` of the prepared versions."""
  found = (p.parent for p in folder.glob("*/dataset_info.json"))
  return {tuple(map(int, p.name.split("."))): p for p in found if re.fullmatch(r"\d+\.\d+\.\d+", p.name)}


def prepared(root: Path, name: str) -> bool:
  """Whether a TFDS set of this name is prepared under ``root``, in any format."""
  match = _NAME.fullmatch(name)
  if match is None:
    return False
  folder = root / match["name"]
  return any(folder.glob("*/dataset_info.json")) or any(folder.glob("*/*/dataset_info.json"))


def locate(root: Path, name: str) -> Path:
  """The folder of a prepared set ``NAME[/CONFIG][:VERSION]``: the newest version; a lone config is taken."""
  match = _NAME.fullmatch(name)
  if match is None:
    raise UsageError(f"name: got 'tfds:{name}'; allowed: tfds:NAME[/CONFIG][:VERSION]")
  folder = root / match["name"]
  if match["config"]:
    folder /= match["config"]
  elif not _versions(folder):
    configs = sorted(p.name for p in folder.glob("*") if p.is_dir() and _versions(p))
    if len(configs) > 1:
      raise UsageError(f"name: tfds:{name} has several configs; allowed: {', '.join(f'{name}/{c}' for c in configs)}")
    folder = folder / configs[0] if configs else folder
  found = _versions(folder)
  wanted = tuple(map(int, match["version"].split("."))) if match["version"] else max(found, default=None)
  if wanted not in found:
    command = f"tfds build {shlex.quote(name)} --data_dir={shlex.quote(str(root))} --file_format=array_record"
    other = f"; or load {match['name']!r} and {store.how_to_get(match['name'], root)}" * (
      match["name"] in store.PREPARED
    )
    raise UsageError(f"name: tfds:{name} is not prepared in {root}; run (needs TensorFlow installed): {command}{other}")
  return found[wanted]


def read_info(folder: Path) -> dict[str, Any]:
  """``dataset_info.json`` of a prepared set."""
  path = folder / "dataset_info.json"
  try:
    info = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as e:
    raise UsageError(f"data_dir: {path} cannot be read ({types.first_line(e)})") from None
  if not isinstance(info, dict):
    raise UsageError(f"data_dir: {path} holds no JSON object")
  return info


def _check_format(folder: Path) -> None:
  info = read_info(folder)
  formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
  if "array_record" in formats:
    return
  if "tfrecord" in formats:
    command = f"python -m cljax.data.convert {shlex.quote(str(folder))}"
    raise UsageError(f"data_dir: {folder} is prepared as TFRecord; convert it with: {command}")
  raise UsageError(f"data_dir: {folder} is prepared as {formats[0]}; allowed: array_record, or tfrecord to convert")


def _features(builder) -> tuple[str, str]:
  """Names of the picture and label features: the supervised keys if there are, else the only ones of their type."""
  import tensorflow_datasets as tfds

  features = builder.info.features
  keys = builder.info.supervised_keys
  if isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(k, str) and k in features for k in keys):
    return keys
  picture = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
  label = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
  if len(picture) != 1 or len(label) != 1:
    raise UsageError(
      f"name: tfds:{builder.info.name} has pictures {picture} and labels {label}; allowed: sets with one of each"
    )
  return picture[0], label[0]


def load(root: Path, name: str, given: Mapping[str, Any]) -> types.Dataset:
  """Loads a prepared set into memory: its pictures are stored encoded, so no part of it can be mapped.

  ``train_split`` and ``test_split`` are TFDS split names or slices.
  """
  options = {**DEFAULTS, **given}
  size = images.check_size(options["size"])
  options["size"] = size
  folder = locate(root, name)
  _check_format(folder)

  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(str(folder))
  except Exception as e:  # damaged metadata makes TFDS raise whatever it comes upon
    raise UsageError(f"data_dir: {folder} cannot be read as a TFDS set ({types.first_line(e)})") from None
  picture, label = _features(builder)
  if not isinstance(builder.info.features[label], tfds.features.ClassLabel):
    raise UsageError(f"name: tfds:{name} has labels {builder.info.features[label]!r}; allowed: sets with a ClassLabel")
  train, test = (_read(builder, k, options[k], picture, label, size) for k in ("train_split", "test_split"))
  names = builder.info.features[label].names
  return types.dataset(f"tfds:{builder.info.full_name}", train, test, names, options=options)


def _read(builder, key: str, wanted: str, picture: str, label: str, size) -> types.Split:
  with needed("data.name=tfds"):
    from tqdm import tqdm

  try:
    source = builder.as_data_source(split=wanted)
    if not len(source):
      raise ValueError("no rows")
  except (ValueError, KeyError, AttributeError, TypeError):
    raise UsageError(f"{key}: got {wanted!r}; allowed: {', '.join(builder.info.splits)}, or a slice of one") from None
  out: np.ndarray | None = None
  y: list[int] = []
  for i in tqdm(range(0, len(source), 256), desc=f"reading {wanted}", disable=not sys.stderr.isatty()):
    try:
      examples = source.__getitems__(range(i, min(i + 256, len(source))))
    except Exception as e:  # of records that are not what their features say, TFDS raises whatever it comes upon
      raise UsageError(f"data_dir: {builder.data_path} cannot be read ({types.first_line(e)})") from None
    for example in examples:
      missing = [f for f in (picture, label) if f not in example]
      if missing:
        raise UsageError(f"data_dir: {builder.data_path} cannot be read (its records have no {missing[0]!r})")
      x = np.asarray(example[picture])
      if x.dtype != np.uint8 or x.ndim not in (2, 3):
        raise UsageError(f"name: feature {picture!r} is {x.dtype} {x.shape}; allowed: uint8 pictures [H, W, C]")
      x = x[..., None] if x.ndim == 2 else x
      x = x if size is None else images.resize(x, size)
      if out is None:
        limits.check_memory(
          f"{key}: {len(source)} pictures of {x.shape}", len(source) * x.nbytes, "give a smaller size="
        )
        out = np.empty((len(source), *x.shape), np.uint8)
      if x.shape != out.shape[1:]:
        raise UsageError(f"size: got None, and pictures are {out.shape[1:]} and {x.shape}; allowed: a size for all")
      out[len(y)] = x
      y.append(int(example[label]))
  return types.split(out, y)
