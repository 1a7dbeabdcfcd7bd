"""The raw log of a run: of each test row what its scores are made of, after every event.

``WORKDIR/eval_log/layout`` says what the entries are (an entry is a test row as a task shows it), ``eval_log/000000``,
``000001``, ... what the evaluation before the first event, after the first, ... said of them. Each file is written
whole or not at all: a line of JSON with its format, and the arrays that the line names, with their SHA-256. Bits are
packed, member after member. An entry that a request reached has no label, group or row any more, and zeros everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cljax.core.types import CljaxError, UsageError
from cljax.io import files, formats

FOLDER, LAYOUT = "eval_log", "layout"
PREDICTED = "predicted"
FINISH: dict[str, Callable] = {"": lambda ratio: ratio, "exp": np.exp, "sqrt": np.sqrt}


class Record(NamedTuple):
  """What one evaluation said of the first ``width`` entries, those of the tasks that there were: of a score of bits
  ``[S, ceil(width / 8)]``, of others ``[S, 2, width]``; ``predicted [S, width]``."""

  width: int
  arrays: Mapping[str, np.ndarray]


class RowLog(NamedTuple):
  """What a run's evaluations said of each entry. ``S`` members, ``R`` evaluations (row 0 before the first event), ``N``
  entries, task after task.

  ``task, label, group, row [N]``: the task that shows it; its class as that task labels it, or -1 where targets are no
  classes; its group; its place in ``stream.dataset.test``. ``present [N]``: not deleted; label, group and row of what
  was deleted are -1. ``scores {name: {"bits", "better", "finish"}}``, the main one first. ``records``: of each
  evaluation its arrays, as they are on disk; None where it is missing.
  """

  seeds: tuple[int, ...]
  events: tuple[tuple[str, int], ...]  # ("learn", task) or ("forget", -1)
  sizes: tuple[int, ...]  # entries of each task
  classes: int  # 0: targets are no classes
  scores: Mapping[str, Mapping[str, Any]]
  label: np.ndarray
  group: np.ndarray
  row: np.ndarray
  present: np.ndarray
  records: tuple[Record | None, ...]

  @property
  def main(self) -> str:
    return next(iter(self.scores))

  @property
  def task(self) -> np.ndarray:
    return np.repeat(np.arange(len(self.sizes)), self.sizes)

  @property
  def has_predictions(self) -> bool:
    return any(r is not None and PREDICTED in r.arrays for r in self.records)

  def learned(self, at: int = -1) -> list[int]:
    """The tasks that were learned by evaluation ``at``, in the order first met."""
    upto = at if at >= 0 else len(self.records) + at
    return list(dict.fromkeys(t for kind, t in self.events[:upto] if kind == "learn"))

  def there(self) -> np.ndarray:
    """``[R, N] bool``: what each evaluation speaks of: not of tasks that came later, nor of what was deleted."""
    widths = [0 if r is None else r.width for r in self.records]
    return (np.arange(len(self.label)) < np.asarray(widths)[:, None]) & self.present

  def numerator(self, member: int, score: str = "") -> np.ndarray:
    """``[R, N]`` float32, 0 where nothing is there: 1 or 0 of a score of bits."""
    return self._terms(member, score or self.main, 0)

  def denominator(self, member: int, score: str = "") -> np.ndarray:
    """``[R, N]`` float32, 0 where nothing is there."""
    return self._terms(member, score or self.main, 1)

  def right(self, member: int) -> np.ndarray:
    """``[R, N] bool`` of the main score; UsageError where a row is not right or wrong."""
    if not self.scores[self.main]["bits"]:
      raise UsageError(f"log: rows of {self.main!r} are not right or wrong; its numerators and denominators are there")
    return self._terms(member, self.main, 0) > 0

  def predicted(self, member: int) -> np.ndarray:
    """``[R, N]`` classes, -1 where nothing is there; UsageError where the log has no predictions."""
    if not self.has_predictions:
      raise UsageError("log: holds no predictions; run with eval.log=predictions")
    there, out = self.there(), np.full((len(self.records), len(self.label)), -1, np.int32)
    for r, record in enumerate(self.records):
      if record is not None and PREDICTED in record.arrays:
        part = record.arrays[PREDICTED][member].astype(np.int32)
        out[r, : record.width] = np.where(there[r, : record.width], part, -1)
    return out

  def finish(self, ratio, score: str = ""):
    """A ratio of sums as the score is written; of a score of one's own that changes it, the ratio itself."""
    return FINISH.get(self.scores[score or self.main]["finish"], FINISH[""])(ratio)

  def pick(self, members: Sequence[int]) -> RowLog:
    """The log of some members, in this order."""
    take = lambda r: r and Record(r.width, {name: a[list(members)] for name, a in r.arrays.items()})
    return self._replace(seeds=tuple(self.seeds[i] for i in members), records=tuple(map(take, self.records)))

  def _terms(self, member: int, score: str, which: int) -> np.ndarray:
    there = self.there()
    out = np.zeros(there.shape, np.float32)
    for r, record in enumerate(self.records):
      if record is None:
        continue
      width, one = record.width, record.arrays[score][member]
      if self.scores[score]["bits"]:
        one = np.unpackbits(one, count=width) if which == 0 else 1
      else:
        one = one[which]
      out[r, :width] = np.where(there[r, :width], one, 0)
    return out


def joined(logs: Sequence[RowLog]) -> RowLog:
  """The members of several logs of one configuration as one, by seed; CljaxError where their entries differ."""
  first = logs[0]
  for other in logs[1:]:
    if (other.sizes, other.events, list(other.scores)) != (first.sizes, first.events, list(first.scores)):
      raise CljaxError("log: its populations were evaluated on other rows, or after other events")
  if any(len(log.records) != len(first.records) for log in logs):
    raise CljaxError("log: its populations have not come equally far")
  present = np.logical_and.reduce([log.present for log in logs])

  def stack(r: int) -> Record | None:
    found = [log.records[r] for log in logs]
    there = [one for one in found if one is not None]
    if len(there) < len(found) or len({one.width for one in there}) > 1:
      return None
    names = [n for n in there[0].arrays if all(n in one.arrays for one in there)]
    return Record(there[0].width, {n: np.concatenate([one.arrays[n] for one in there]) for n in names})

  whole = first._replace(
    seeds=tuple(s for log in logs for s in log.seeds),
    present=present,
    records=tuple(map(stack, range(len(first.records)))),
  )
  return whole.pick(sorted(range(len(whole.seeds)), key=lambda i: whole.seeds[i]))


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
  """A file's bytes: the same for the same content."""
  arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
  body = b"".join(a.tobytes() for a in arrays.values())
  told = {name: [a.dtype.str, list(a.shape)] for name, a in arrays.items()}
  head = {**formats.noted(), **header, "arrays": told, "sha256": hashlib.sha256(body).hexdigest()}
  return files.dumps(head).encode() + b"\n" + body


def unpack(path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """``(header, arrays)`` of a file; CljaxError where it is damaged or of a newer format."""
  path = epath.Path(path)
  head, _, body = path.read_bytes().partition(b"\n")
  try:
    header = formats.read(path, files.loads(head))
    if hashlib.sha256(body).hexdigest() != header["sha256"]:
      raise ValueError("its bytes are not what was written (SHA-256 differs)")
    out, at = {}, 0
    for name, (dtype, shape) in header["arrays"].items():
      count = int(np.prod(shape, dtype=np.int64))
      out[name] = np.frombuffer(body, np.dtype(dtype), count, at).reshape(shape)
      at += out[name].nbytes
  except CljaxError:
    raise
  except (ValueError, LookupError, TypeError) as error:
    raise CljaxError(f"log: {path} is damaged: {' '.join(str(error).split())}") from error
  return header, out


def name_of(number: int) -> str:
  return f"{number:06d}"


def numbers(folder) -> list[int]:
  """The evaluations that a folder holds files of."""
  folder = epath.Path(folder)
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.exists() else []


def write_layout(folder, log: RowLog) -> None:
  header = {
    "seeds": list(log.seeds), "events": [list(e) for e in log.events], "sizes": list(log.sizes),
    "classes": log.classes, "scores": dict(log.scores),
  }  # fmt: skip
  arrays = {k: _narrow(getattr(log, k)) for k in ("label", "group", "row")} | {"present": np.packbits(log.present)}
  files.write_bytes(epath.Path(folder) / LAYOUT, pack(header, arrays))


def _narrow(a: np.ndarray) -> np.ndarray:
  """In the smallest type that holds it and -1."""
  most = max(int(a.max(initial=0)), -1 - int(a.min(initial=0)))
  return a.astype(np.min_scalar_type(-1 - most))


def read_layout(folder) -> RowLog:
  """The layout alone: a log without records."""
  header, arrays = unpack(epath.Path(folder) / LAYOUT)
  try:
    count = len(arrays["label"])
    return RowLog(
      tuple(header["seeds"]), tuple((k, t) for k, t in header["events"]), tuple(header["sizes"]), header["classes"],
      header["scores"], arrays["label"].astype(np.int64), arrays["group"].astype(np.int64),
      arrays["row"].astype(np.int64),
      np.unpackbits(arrays["present"], count=count) > 0, (),
    )  # fmt: skip
  except (LookupError, TypeError, ValueError) as error:
    raise CljaxError(f"log: {epath.Path(folder) / LAYOUT} is damaged: it lacks {error}") from error


def write_record(folder, number: int, record: Record) -> None:
  header = {"evaluation": number, "width": record.width}
  files.write_bytes(epath.Path(folder) / name_of(number), pack(header, record.arrays))


def read_record(folder, number: int) -> Record:
  header, arrays = unpack(epath.Path(folder) / name_of(number))
  try:
    return Record(int(header["width"]), arrays)
  except (LookupError, TypeError, ValueError) as error:
    raise CljaxError(f"log: {epath.Path(folder) / name_of(number)} is damaged: it lacks {error}") from error


def read_folder(folder) -> RowLog:
  """The log in a folder of this module's files. Raises CljaxError where one is damaged."""
  log, found = read_layout(folder), numbers(folder)
  read = {n: read_record(folder, n) for n in found}
  return log._replace(records=tuple(read.get(n) for n in range(max(found, default=-1) + 1)))


def read(workdir) -> RowLog | None:
  """The raw log of a run in ``workdir``, of all its members; None where it keeps none.

  Of a sweep's row (``SWEEP/runs/NAME``), that of its members in the populations that they were trained in, by seed.
  Raises CljaxError where a file is damaged.
  """
  path = epath.Path(workdir)
  if (path / FOLDER / LAYOUT).exists():
    return read_folder(path / FOLDER)
  groups = path.parent.parent / "groups"
  if path.parent.name != "runs" or not groups.exists() or (path / "checkpoints").exists():
    return None
  found: list[RowLog] = []
  taken: set[int] = set()
  units = [p for p in groups.iterdir() if (p / "unit.json").exists()]
  for unit in sorted(units, key=lambda p: (p / "unit.json").stat().mtime, reverse=True):
    try:
      members = files.loads((unit / "unit.json").read_bytes())["members"]
      mine = [i for i, m in enumerate(members) if m["run"] == path.name and m["seed"] not in taken]
    except (LookupError, TypeError, ValueError) as error:
      raise CljaxError(f"log: {unit / 'unit.json'} is damaged") from error
    taken |= {members[i]["seed"] for i in mine}
    if mine and (unit / FOLDER / LAYOUT).exists():
      found.append(read_folder(unit / FOLDER).pick(mine))
    elif mine:
      return None  # of some seeds only, it would pass for that of all
  return joined(found) if found else None


def write(folder, log: RowLog) -> None:
  """Writes a whole log, over what is there."""
  write_layout(folder, log)
  for number, record in enumerate(log.records):
    if record is not None:
      write_record(folder, number, record)
