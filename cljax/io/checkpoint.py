"""Checkpoints on disk by orbax; the only module that imports it.

Each checkpoint holds two items: ``state`` (arrays) and ``meta`` (one JSON text: configuration, position, versions, and
the SHA-256 of the state's leaves). ``meta`` is read and compared first; then the state is read and its digest compared,
because orbax loads flipped bytes and other dtypes silently. Nothing is pickled.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
import math
import os
import platform
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cljax._version import __version__
from cljax.core import tree
from cljax.core.types import CljaxError, UsageError
from cljax.io import formats, identity
from cljax.io.files import loads


class Restored(NamedTuple):
  """A checkpoint that was read back: the state tree, its meta, and one line for each thing worth telling; ``more``:
  other trees of the state's structure that were saved beside it."""

  state: Any
  meta: dict
  notes: tuple[str, ...]
  more: dict = {}


class DamagedError(CljaxError):
  """A checkpoint whose bytes or layout are not what was saved."""


def versions() -> dict[str, str]:
  """Versions and hardware that bit-equality depends on."""
  import flax
  import jaxlib
  import optax

  device = jax.local_devices()[0]
  return {
    "cljax": __version__,
    "python": platform.python_version(),
    "jax": jax.__version__,
    "jaxlib": jaxlib.__version__,
    "flax": flax.__version__,
    "optax": optax.__version__,
    "numpy": np.__version__,
    "device": device.device_kind,
    "platform": device.platform,
    "devices": str(jax.device_count()),
    "machine": platform.machine(),
  }


@functools.cache
def _ocp():
  from orbax.checkpoint import v1 as ocp

  # Told of every item without arrays: it is as it should be.
  logging.getLogger("absl").addFilter(lambda record: "Skipping merge of OCDBT" not in str(record.msg))
  return ocp


def _plain(state):
  """Typed keys as their raw data: what is stored, and what the digest covers."""
  is_key = lambda a: jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key)
  return jax.tree.map(lambda a: jax.random.key_data(a) if is_key(a) else a, state)


def _leaves(state) -> dict[str, Any]:
  """The state as a flat dict by path: empty nodes (optax.EmptyState, ()) and arrays without elements need no place."""
  pairs = zip(tree.paths(state), jax.tree.leaves(state), strict=True)
  return {path.replace("/", "|"): leaf for path, leaf in pairs if math.prod(leaf.shape)}


def _absolute(directory):
  """The directory as orbax wants it: absolute where it is a local path; others (``gs://...``) as they are."""
  from etils import epath

  text = os.fspath(directory)
  return epath.Path(text if "://" in text else os.path.abspath(text))


def numbers(directory) -> list[int]:
  """Numbers of the committed checkpoints, oldest first."""
  path = _absolute(directory)
  if not path.exists():
    return []
  return sorted(int(p.name) for p in path.iterdir() if p.name.isdigit() and (p / _COMMITTED).exists())


_DOOMED = ".deleted"  # a folder is renamed to this before it is deleted: no reader takes what is left for a checkpoint
_COMMITTED = "commit_success.txt"


def others(directory) -> list[str]:
  """Names of what lies in a directory of checkpoints and is none: saves that were cut short, deletions too."""
  path = _absolute(directory)
  if not path.exists():
    return []
  committed = {str(n) for n in numbers(directory)}
  return sorted(p.name for p in path.iterdir() if p.name not in committed)


def doomed(name: str) -> str:
  """What :func:`discard` calls a folder while it deletes it."""
  return name.removesuffix(_DOOMED) + _DOOMED


def cut_short(name: str) -> bool:
  """Whether this is what orbax or :func:`discard` calls the folder of a save or deletion that did not end."""
  return name.isdigit() or name.endswith(_DOOMED) or ".orbax-checkpoint-tmp" in name


def named(name: str) -> int | str:
  """What an entry was before its deletion began: the number of a checkpoint, or a name."""
  name = name.removesuffix(_DOOMED)
  return int(name) if name.isdigit() else name


def discard(directory, name: str) -> None:
  """Deletes an entry of a directory of checkpoints; cut short at any moment, what is left is among its
  :func:`others`. Nothing where there is none. Of several processes the first does it."""
  if jax.process_index():
    return
  path = _absolute(directory) / name
  if not path.is_dir():
    path.unlink(missing_ok=True)
    return
  if "://" in os.fspath(path):  # object stores copy and delete to rename: it is no checkpoint without this file
    (path / _COMMITTED).unlink(missing_ok=True)
  elif name != doomed(name):
    if (path.parent / doomed(name)).exists():
      (path.parent / doomed(name)).rmtree()
    path = path.replace(path.parent / doomed(name))
  path.rmtree()


class Writer:
  """Saves numbered checkpoints into a directory and drops those it may drop."""

  def __init__(self, directory):
    self.directory = _absolute(directory)
    self._checkpointer = None
    self._pending = None

  def _open(self):
    if self._checkpointer is None:
      try:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._checkpointer = _ocp().training.Checkpointer(self.directory)
      except OSError as error:
        raise UsageError(f"workdir: cannot write checkpoints to {self.directory}: {error.strerror or error}") from error
    return self._checkpointer

  def save(self, number: int, state, meta: dict, wait: bool = True, more: Mapping[str, Any] | None = None) -> None:
    """Writes and commits checkpoint ``number``; a reader sees all of it or nothing. ``more {name: tree}`` is stored
    beside the state, which can be read without it.

    Without ``wait`` another thread writes what was copied here; the next call of a method waits for it, and raises what
    it met.
    """
    flat = _leaves(_plain(state))
    others = {name: _leaves(_plain(each)) for name, each in (more or {}).items()}
    told = {name: {"digest": tree.digest(each), "leaves": _describe(each)} for name, each in others.items()}
    # What was only copied keeps the versions that it was made under.
    meta = {**formats.noted(), "versions": versions(), **meta, "digest": tree.digest(flat), "leaves": _describe(flat)}
    meta |= {"more": told} if told else {}
    self.wait()
    items = {"state": flat, **others, "meta": _packed(json.dumps(meta))}
    self._pending = self._open().save_checkpointables_async(number, items, overwrite=True)
    if wait:
      self.wait()

  def wait(self) -> None:
    """Until all that was saved is committed."""
    pending, self._pending = self._pending, None
    if pending is not None:
      pending.result()

  def drop(self, number: int) -> None:
    """Deletes checkpoint ``number``, where there is one."""
    self.discard(str(number))

  def discard(self, name: str) -> None:
    """Deletes what lies under ``name`` in the directory, a checkpoint or what is left of one."""
    self.wait()
    discard(self.directory, name)
    if self._checkpointer is not None:
      self._checkpointer.reload()

  def close(self) -> None:
    try:
      self.wait()
    finally:
      if self._checkpointer is not None:
        self._checkpointer.close()
        self._checkpointer = None


def _packed(text: str) -> dict[str, str]:
  """The accuracies of a run of hundreds of tasks are megabytes of repetitive text in each of hundreds of checkpoints;
  of others the text stays legible."""
  if len(text) < 1 << 16:
    return {"json": text}
  return {"deflated": base64.b64encode(zlib.compress(text.encode())).decode()}


def _unpacked(item: dict[str, str]) -> str:
  return item["json"] if "json" in item else zlib.decompress(base64.b64decode(item["deflated"])).decode()


def _describe(flat) -> dict[str, str]:
  return {path: f"{np.dtype(a.dtype).name}{list(a.shape)}" for path, a in flat.items()}


def leaves_of(like) -> dict[str, str]:
  """The arrays of an abstract state, as the meta of a checkpoint tells of them."""
  return _describe(_leaves(jax.eval_shape(_plain, like)))


def _abstract(told: str) -> jax.ShapeDtypeStruct:
  """The array that :func:`_describe` tells of."""
  dtype, _, shape = told.partition("[")
  return jax.ShapeDtypeStruct(tuple(json.loads(f"[{shape}")), np.dtype(dtype))


COUNTED = "presented|"  # what the leaves begin with that no learner needs to go on
_META = {"versions": dict, "leaves": dict, "digest": str}


def read_meta(directory, number: int) -> dict:
  """The meta of one checkpoint; DamagedError where it cannot be read, CljaxError where its format is a newer one."""
  try:
    out = _ocp().load_checkpointables(_path(directory, number), {"meta": None})
    meta = loads(_unpacked(out["meta"]))
    for key, kind in (_META if "empty" in meta else {**_META, "config": dict, "position": dict}).items():
      if not isinstance(meta[key], kind):
        raise ValueError(f"its {key} is {type(meta[key]).__name__}")
  except Exception as error:
    raise DamagedError(f"checkpoint {number}: meta cannot be read ({_first_line(error)})") from error
  return formats.read(_path(directory, number), meta)


def read_state(directory, number: int, meta: dict, like=None, item: str = "state"):
  """The state of one checkpoint, or what was saved beside it as ``item``, digest verified. ``like`` gives structure and
  shardings, of all but what was counted of presentations, for which it may have no place; None: a flat dict of
  arrays."""
  meta = meta if item == "state" else meta["more"][item]
  flat_like = {path: _abstract(told) for path, told in meta["leaves"].items()}
  if like is not None:
    plain = jax.eval_shape(_plain, like)
    flat_like = _leaves(plain)
    beside = {p: told for p, told in meta["leaves"].items() if p.startswith(COUNTED) and p not in flat_like}
    want, have = _describe(flat_like), {p: told for p, told in meta["leaves"].items() if p not in beside}
    for path in sorted(set(want) | set(have)):
      if want.get(path) != have.get(path):
        raise DamagedError(
          f"checkpoint {number}: leaf {path} is {have.get(path, 'absent')}; this run expects {want.get(path, 'none')}"
        )
    flat_like |= {path: _abstract(told) for path, told in beside.items()}
  try:
    ocp = _ocp()
    shard = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = {p: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=shard) for p, a in flat_like.items()}
    flat = ocp.load_checkpointables(_path(directory, number), {item: target})[item]
  except Exception as error:
    raise DamagedError(f"checkpoint {number}: state cannot be read ({_first_line(error)})") from error
  if tree.digest(flat) != meta["digest"]:
    raise DamagedError(f"checkpoint {number}: its arrays are not what was saved (SHA-256 differs)")
  if like is None:
    return flat
  rebuilt = []
  for path, leaf in zip((p.replace("/", "|") for p in tree.paths(like)), jax.tree.leaves(like), strict=True):
    is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    if not math.prod(leaf.shape):
      rebuilt.append(jax.numpy.zeros(leaf.shape, leaf.dtype))
    else:
      rebuilt.append(jax.random.wrap_key_data(flat[path]) if is_key else flat[path])
  return jax.tree.unflatten(jax.tree.structure(like), rebuilt)


def save_tree(directory, content, *, state_dtype=None, report=print) -> int:
  """Saves nested dicts of arrays as a checkpoint of its own, such as ``regularizers.export_state(opt_state)``.

  ``state_dtype`` (``jnp.bfloat16`` halves float32) is the type that floating leaves are stored in; what is read back
  is cast by whoever takes it. ``report`` is told the bytes before anything is written; they are returned. Overwrites.
  Raises UsageError for a tree without leaves or a folder that cannot be written.
  """
  arrays = jax.tree.map(jax.numpy.asarray, content)
  if state_dtype is not None:
    floating = lambda a: jax.numpy.issubdtype(a.dtype, jax.numpy.floating)
    arrays = jax.tree.map(lambda a: a.astype(state_dtype) if floating(a) else a, arrays)
  count = len(jax.tree.leaves(arrays))
  if not count:
    raise UsageError("content: has no arrays; expected nested dicts of arrays, such as regularizers.export_state(...)")
  size = tree.nbytes(arrays)
  report(f"saving {count} arrays, {size:,} bytes, to {directory}")
  empty = {
    path: [list(leaf.shape), np.dtype(leaf.dtype).name]
    for path, leaf in zip(tree.paths(arrays), jax.tree.leaves(arrays), strict=True)
    if not math.prod(leaf.shape)
  }
  writer = Writer(directory)
  try:
    writer.save(0, arrays, {"empty": empty})
  finally:
    writer.close()
  return size


def load_tree(directory) -> dict:
  """What :func:`save_tree` wrote, as nested dicts, its SHA-256 verified.

  Raises UsageError where there is none, DamagedError where its bytes are not what was saved.
  """
  if 0 not in numbers(directory):
    raise UsageError(f"directory: {directory} holds no tree that save_tree wrote")
  meta = read_meta(directory, 0)
  flat = {path.replace("|", "/"): leaf for path, leaf in read_state(directory, 0, meta).items()}
  flat |= {path: jax.numpy.zeros(shape, dtype) for path, (shape, dtype) in meta["empty"].items()}
  out: dict = {}
  for path, leaf in flat.items():
    *parents, last = path.split("/")
    node = out
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = leaf
  return out


def restore(directory, like_of, config: dict, trains_on: Callable[[dict], bool] = lambda position: True):
  """The newest sound checkpoint of this configuration, or None where there is none.

  ``like_of()`` gives the abstract state, asked for only when there is something to read. A damaged checkpoint is noted
  and the one before it used; another configuration raises UsageError with the keys that differ; another format, where
  by ``trains_on(position)`` something is left to be learned, or whose state is another one, raises CljaxError.
  """
  notes: list[str] = []
  like = None
  for number in reversed(numbers(directory)):
    meta: dict = {}
    try:
      meta = read_meta(directory, number)
      now, saved_with = versions(), {"cljax": "0.1.0", **meta["versions"]}
      changed = [f"{k} {saved_with.get(k)} -> {now[k]}" for k in now if saved_with.get(k) != now[k]]
      differing = differences(meta["config"], config)
      if changed:  # then the same code may trace to other operations
        differing = [d for d in differing if not identity.of_other_code(d)]
      if differing:
        said = "; ".join(map(identity.told, differing))
        raise UsageError(f"workdir: holds a run of another configuration; differing keys: {said}")
      if formats.of(meta) != formats.FORMAT and trains_on(meta["position"]):
        why = "what is left of its run would be trained by other rules"
        raise CljaxError(_of_another_format(directory, number, meta, why))
      like = like_of() if like is None else like
      state = read_state(directory, number, meta, like)
      more = {name: read_state(directory, number, meta, like, name) for name in meta.get("more", ())}
    except DamagedError as error:
      if meta and formats.of(meta) != formats.FORMAT and "this run expects" in str(error):
        raise CljaxError(_of_another_format(directory, number, meta, f"its state is another one ({error})")) from error
      notes.append(f"{error}; trying the one before it")
      continue
    if changed:
      notes.append(f"resuming on other hardware or versions, so bits may differ: {', '.join(changed)}")
    return Restored(state, meta, tuple(notes), more)
  if notes:
    raise CljaxError("no sound checkpoint is left: " + "; ".join(notes))
  return None


def _of_another_format(directory, number: int, meta: dict, why: str) -> str:
  return (
    f"workdir: {_path(directory, number)} is of format {formats.of(meta)}, written by {formats.writer(meta)}, and "
    f"{why}; end it with that version, or begin anew in another workdir (its results and parameters can be read)"
  )


def differences(saved: dict, given: dict) -> list[str]:
  """Keys whose values differ between two nested configurations, as ``key: saved -> given``."""
  a, b = _flat(saved), _flat(given)
  text = lambda v: json.dumps(v, default=str)
  return [
    f"{k}: {text(a[k]) if k in a else 'absent'} -> {text(b[k]) if k in b else 'absent'}"
    for k in sorted(set(a) | set(b))
    if text(a.get(k)) != text(b.get(k))
  ]


def _flat(config: dict, prefix: str = "") -> dict[str, Any]:
  out: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, dict):
      out.update(_flat(value, f"{prefix}{key}."))
    else:
      out[prefix + str(key)] = list(value) if isinstance(value, tuple) else value
  return out


def _path(directory, number: int):
  return _absolute(directory) / str(number)


def _first_line(error: Exception) -> str:
  text = str(error).strip().splitlines()
  return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
