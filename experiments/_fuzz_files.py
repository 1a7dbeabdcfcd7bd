"""Hostile files: data sets in every format that is read, and the files of a workdir, whole ones with bytes changed."""

from __future__ import annotations

import copy
import functools
import io
import json
import pathlib
import shutil
import struct
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

import cljax
from cljax import data
from cljax.cli import _config, _progress, _registered, _workdir, report, sweep, train
from cljax.cli.sweeps import _ahead, _plan, _units
from cljax.data import builders
from cljax.engine import restore
from cljax.evaluation import results
from cljax.io import checkpoint, ledger
from cljax.io import owner as _owner

TEXTS = (b"null", b"[]", b"{}", b"[1]", b'"x"', b"1e999", b"-1", b"NaN", b"true", b"\xff\xfe", b"", b"\x00" * 40,
         b"[" * 3000, b'{"a":' * 3000, b"[" * 200_000, b"9" * 5000)  # fmt: skip


STRANGE: tuple = (
  None,
  0,
  -1,
  1.5,
  2**63,
  10**30,
  "",
  "x",
  "..",
  [],
  {},
  [[]],
  [None],
  {"a": 1},
  True,
  float("nan"),
  [1, "x"],
)


def damaged(rng, content: bytes) -> bytes:
  """Bytes flipped, cut, doubled, zeroed, put in, or a number in a header made large."""
  for _ in range(int(rng.integers(1, 4))):
    content = _changed(rng, content)
  return content


def _changed(rng, content: bytes) -> bytes:
  at = int(rng.integers(0, max(1, len(content)))) if rng.integers(0, 2) else int(rng.integers(0, 40))
  n, how = int(rng.choice([1, 2, 4, 16, 300])), int(rng.integers(0, 9))
  before, after, junk = content[:at], content[at:], rng.integers(0, 256, n).astype(np.uint8).tobytes()
  large = struct.pack(rng.choice([">I", "<I", "<Q"]), 2**32 - 1 - n)
  flipped = bytes([after[0] ^ (1 << int(rng.integers(0, 8)))]) if after else b""
  text = TEXTS[int(rng.integers(0, len(TEXTS)))]
  return [
    before + flipped + after[1:], before, before + junk + after, before + junk + after[n:],
    before + b"\0" * n + after[n:], before + after[n:], content + before, before + large + after[4:], text,
  ][how]  # fmt: skip


def damaged_json(rng, content: bytes) -> bytes:
  """As :func:`damaged`, or one value of a JSON file, or of a line of one, replaced or dropped: still JSON."""
  try:
    lines = content.splitlines() if b"\n{" in content else [content]
    which = int(rng.integers(0, len(lines)))
    found = json.loads(lines[which])
  except (ValueError, RecursionError):
    return damaged(rng, content)
  if not rng.integers(0, 3):
    return damaged(rng, content)
  holder: Any = {"": found}
  node: Any = holder
  place: Any = ""
  while isinstance(node[place], dict | list) and node[place] and rng.integers(0, 4):
    node = node[place]
    places = list(node) if isinstance(node, dict) else range(len(node))
    place = places[int(rng.integers(0, len(places)))]
  if isinstance(node, dict) and node is not holder and not rng.integers(0, 3):
    del node[place]
  else:
    node[place] = copy.deepcopy(STRANGE[int(rng.integers(0, len(STRANGE)))])
  lines[which] = json.dumps(holder[""]).encode()
  return b"\n".join(lines) + b"\n"


def _idx(a: np.ndarray) -> bytes:
  return b"\0\0\x08" + bytes([a.ndim]) + np.asarray(a.shape, ">u4").tobytes() + a.astype(np.uint8).tobytes()


def _png(rng, size=(5, 5)) -> bytes:
  out = io.BytesIO()
  Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).save(
    out, rng.choice(["PNG", "JPEG", "BMP", "GIF"])
  )
  return out.getvalue()


def _npz(**arrays) -> bytes:
  out = io.BytesIO()
  np.savez(out, **arrays)
  return out.getvalue()


@functools.cache
def _tfds() -> pathlib.Path:
  root = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-tfds-"))
  builders.prepare("digits", root)
  return root


def data_files(rng, folder: pathlib.Path):
  """One data set with one of its files damaged, loaded."""
  kind = str(rng.choice(["mnist", "cifar10", "npz", "embeddings", "folder", "tfds", "store"]))
  files: dict[str, bytes] = {}
  name = kind
  if kind == "mnist":
    for stem, n in (("train", 6), ("t10k", 4)):
      files[f"{stem}-images-idx3-ubyte"] = _idx(rng.integers(0, 255, (n, 4, 4)))
      files[f"{stem}-labels-idx1-ubyte"] = _idx(np.arange(n) % 3)
  elif kind == "cifar10":
    top = "cifar-10-batches-bin"
    row = lambda y: bytes([y]) + rng.integers(0, 255, 3072).astype(np.uint8).tobytes()
    for part in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
      files[f"{top}/{part}.bin"] = b"".join(row(y) for y in (0, 9))
    files[f"{top}/batches.meta.txt"] = b"\n".join(b"c%d" % i for i in range(10))
  elif kind in ("npz", "embeddings"):
    dtype = rng.choice(["f4", "f8", "u1", "i8", "U3", "M8[D]", "?", "c8"]) if not rng.integers(0, 3) else "f4"
    shape = {"npz": (12, 3, 3), "embeddings": (12, 5)}[kind]
    x = (100 * rng.normal(size=shape)).astype("i8").astype(dtype)
    y = np.arange(12) % int(rng.choice([1, 2, 3, 12]))
    files["a.npz"] = _npz(x=x, y=y.astype(rng.choice(["i4", "i8", "f4", "u1", "U2"])))
    name = f"{kind}:{folder}/a.npz"
  elif kind == "folder":
    layout = rng.choice(["{c}/{i}.png", "train/{c}/{i}.png"])
    for c in ("0", "10", "cat"):
      for i in range(2):
        files[layout.format(c=c, i=i)] = _png(rng)
        if "train" in layout:
          files[layout.format(c=c, i=i).replace("train", str(rng.choice(["test", "val"])))] = _png(rng)
    name = f"folder:{folder}"
  elif kind == "tfds":
    name = "tfds:cljax_digits"
    files = {str(p.relative_to(_tfds())): p.read_bytes() for p in _tfds().rglob("*") if p.is_file()}
  else:
    name = "digits"
    data.load("digits", data_dir=str(folder))
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.npz")}
  at = sorted(files)[int(rng.integers(0, len(files)))]
  change = damaged_json if at.endswith("json") else damaged
  files[at] = change(rng, files[at])
  if not rng.integers(0, 12):
    del files[at]
  for path, content in files.items():
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)
  options = {"size": int(rng.choice([1, 4, 0, -1, 10**6]))} if kind == "folder" and rng.integers(0, 2) else {}
  return [kind, at, options], lambda: data.load(name, data_dir=str(folder), **options)


CONFIG = """
def get_config():
  return {"data": {"name": "digits"}, "stream": {"kind": "class", "tasks": 2, "rows": 60, "forget": "2:class=1"},
          "model": {"name": "mlp", "hidden": (4,)}, "forget": {"name": "retrain"}}
"""


@functools.cache
def workdirs() -> pathlib.Path:
  """A finished run of launch.train and one of launch.sweep, to be damaged copies of."""
  root = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-runs-"))
  (root / "config.py").write_text(CONFIG)
  common = [f"--config={root}/config.py", "--compilation_cache="]
  if train.main(["train", *common, f"--workdir={root}/train"]):
    raise RuntimeError("the run to be damaged did not finish")
  if sweep.main(["sweep", *common, "--methods=finetune", f"--workdir={root}/sweep"]):
    raise RuntimeError("the sweep to be damaged did not finish")
  return root


def workdir_files(rng, folder: pathlib.Path):
  """A workdir with one file damaged, read by all that read workdirs, as far as nothing is trained."""
  whole = str(rng.choice(["train", "sweep"]))
  source = workdirs() / whole
  found = sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file() and p.suffix != ".png")
  plain = [p for p in found if "/d/" not in p and "ocdbt" not in p]
  at = str(rng.choice(plain if rng.integers(0, 8) else found))
  shutil.copytree(source, folder, dirs_exist_ok=True)
  content = (folder / at).read_bytes()
  new = (damaged_json if content[:1] in (b"{", b"[") else damaged)(rng, content)
  (folder / at).write_bytes(new)
  if not rng.integers(0, 20):
    (folder / at).unlink()
  place = epath.Path(folder)

  def call():
    checks: list[Callable] = [lambda: report.build([place], "finetune", "validation"), lambda: _ledgers(folder)]
    if whole == "train":
      checks += [lambda: _train(place), lambda: restore.config_of(folder), lambda: _checkpoints(folder / "checkpoints")]
    else:
      checks.append(lambda: _sweep(place))
    for check in checks:
      try:
        check()
      except cljax.CljaxError as error:
        one_line(error)

  return [whole, at, new[:200]], call


def one_line(error: Exception) -> None:
  """What a user would see must be a line; raises AssertionError."""
  if not str(error).strip():
    raise AssertionError(f"{type(error).__name__} without a word")


def _train(place: epath.Path) -> None:
  identity = json.loads((workdirs() / "train" / "config.json").read_text())
  held = _workdir.claim(place, "config.json", identity, False, (), _config.essence)
  result = results.read(place / "result.json")
  if result is not None:
    results.summary(result)
  log = _progress.Log(place / "metrics.jsonl")
  log({"kind": "resumed", "event": 1, "step": 0, "total": 3})
  log.close()
  _registered.recall(place, [held])


def _sweep(place: epath.Path) -> None:
  file = _config.read_file(f"{workdirs()}/config.py")
  runs = _plan.plan(file, [], [{"method.name": "finetune"}])
  base = _workdir.read_json(workdirs() / "sweep" / "sweep.json") or {}
  _workdir.claim(place, "sweep.json", base, False, (), lambda held: {k: v for k, v in held.items() if k != "seeds"})
  todo = _plan.units(runs, [0, 1], place, lambda folder: _plan.has_begun(folder, lambda _: False))
  _units.rebuild_rows(place)
  for unit in [*_plan.on_disk(place), *todo]:
    _plan.finished(place, unit)
    try:
      _ahead.ready(unit, {}, prepare=False)
    except cljax.CljaxError as error:
      one_line(error)
    if (place / "groups" / unit.name).exists():
      _owner.take(place / "groups" / unit.name)
  finished, found = sweep.collect(runs, place)
  if found:
    results.table(found, [r.label for r in finished])
  _registered.recall(place, [u.content["identity"] for u in _plan.on_disk(place)])


def _checkpoints(directory: pathlib.Path) -> None:
  for number in checkpoint.numbers(directory):
    meta = checkpoint.read_meta(directory, number)
    checkpoint.differences(meta["config"], {})
    checkpoint.read_state(directory, number, meta)


def _ledgers(folder: pathlib.Path) -> None:
  for path in folder.rglob(ledger.LEDGER):
    ledger.is_deleted(path.parent, 3)
    ledger.update(path.parent, 2, seen=True)
