"""Leaves of a network from the tensors of a folder: which make each, how, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from cljax.models.pretrained.folder import Folder


class Leaf(NamedTuple):
  """A leaf of the network: the tensors it is made of, and how."""

  names: tuple[str, ...]
  make: Callable[..., Any]
  maybe: bool = False  # 0 where the layout has no such tensors


def turned(w):
  return w.T


def joined(*parts):
  return np.concatenate([p.T for p in parts], axis=-1)


def vectors(*parts):
  return np.concatenate(parts, axis=-1)


def patches(w):
  """``[D, C, p, p]`` of a convolution as ``[p p C, D]``."""
  return w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])


def tokens(*parts):
  return np.concatenate([p[0] for p in parts])


def layer(path: str, names, kernel: str = "kernel", make: Callable = turned, maybe: bool = False) -> dict[str, Leaf]:
  """The two leaves of a layer: of tensors called ``weight``, and of those called ``bias``."""
  names = (names,) if isinstance(names, str) else names
  return {
    f"{path}/{kernel}": Leaf(tuple(f"{n}.weight" for n in names), make),
    f"{path}/bias": Leaf(tuple(f"{n}.bias" for n in names), vectors, maybe),
  }


def norm(path: str, name: str) -> dict[str, Leaf]:
  """The two leaves of a norm."""
  return layer(path, name, "scale", vectors)


def filled(
  folder: Folder, leaves: dict[str, Leaf], shapes: dict, kind: str, sizes: str, unused: re.Pattern,
  more: Iterable[str] = (),
) -> dict:  # fmt: skip
  """The parameters as the network has them, float32; ``shapes`` are those it should have. UsageError that names the
  tensors which are missing, unknown to a ``kind`` and neither ``more`` nor ``unused``, or of another shape than
  ``sizes`` say."""
  tensors = folder.tensors
  missing = [n for leaf in leaves.values() if not leaf.maybe for n in leaf.names if n not in tensors]
  if missing:
    raise folder.refuse(f"missing tensors: {_some(missing)}", "*.safetensors")
  used = {n for leaf in leaves.values() for n in leaf.names} | set(more)
  unknown = [n for n in tensors if n not in used and not unused.fullmatch(n)]
  if unknown:
    raise folder.refuse(f"tensors that {kind} has not: {_some(unknown)}", "*.safetensors")
  wanted, found = traverse_util.flatten_dict(shapes, sep="/"), {}
  for path, leaf in leaves.items():
    absent = leaf.maybe and not all(n in tensors for n in leaf.names)
    shape = tuple(wanted[path].shape)
    try:
      made = np.zeros(shape, np.float32) if absent else leaf.make(*(tensors[n] for n in leaf.names))
    except (ValueError, IndexError):  # shapes that do not join
      made = np.zeros(0, np.float32)
    if made.shape != shape:
      given = ", ".join(f"{n} {list(tensors[n].shape)}" for n in leaf.names)
      raise folder.refuse(f"{given}: not of the sizes in {sizes}", "*.safetensors")
    found[path] = np.ascontiguousarray(made, np.float32)
  return traverse_util.unflatten_dict(found, sep="/")


def _some(names) -> str:
  names = sorted(names)
  return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
