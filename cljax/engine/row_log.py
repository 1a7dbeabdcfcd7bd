"""The raw log of a run while it is made: which form it has, and what becomes of an evaluation's answers.

An evaluation is written before the checkpoint that follows it, so a run that goes on from a checkpoint has all that
came before it, and what a killed run wrote beyond it is written again, to the same bytes. Where a Forget event reaches
test rows their entries go from every file before the ledger says that the request is done.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from cljax.core.types import CljaxError, Forget, Learn
from cljax.engine import mesh as meshes
from cljax.engine.device_rows import few_first
from cljax.engine.setup import CompiledRun
from cljax.io import row_log
from cljax.io.row_log import Record, RowLog
from cljax.streams.fates import reached_tests


def finish_of(score) -> str:
  """What a score makes of its ratio, by name: '' for nothing, and for what has no name here."""
  at = np.asarray([0.25, 2.25])
  try:
    found = np.asarray(score.finish(at), np.float64)
  except Exception:
    return "own"
  return next((n for n, f in row_log.FINISH.items() if found.shape == at.shape and np.allclose(found, f(at))), "own")


class Recording:
  """The log of a run: ``add`` is told what an evaluation gave, ``told`` gives the whole. Of several processes the first
  writes. ``known``: the log of the run that this one goes on with."""

  def __init__(self, setup: CompiledRun, workdir=None, known: RowLog | None = None):
    self._setup, self._known = setup, known
    self._memory = {n: r for n, r in enumerate(known.records) if r is not None} if known else {}
    self._folder = epath.Path(workdir) / row_log.FOLDER if workdir else None
    self._on = setup.kept is not None and meshes.is_main_process(setup.members.mesh)
    self._layout: RowLog | None = None
    self._take: np.ndarray | None = None

  def begin(self, count: int) -> None:
    """The run goes on with the first ``count`` evaluations behind it."""
    if not meshes.is_main_process(self._setup.members.mesh):
      return
    if not (self._on and count):  # a run that begins finds nothing of its own
      discard(self._folder)
      self._layout = None
    if not self._on:
      return
    if self._folder is not None:
      for number in row_log.numbers(self._folder):
        if number >= count:
          (self._folder / row_log.name_of(number)).unlink(missing_ok=True)
    self._memory = {n: r for n, r in self._memory.items() if n < count}
    if self._folder is not None and self._memory:
      self._prepared(max(self._memory))
      for number, record in self._memory.items():
        row_log.write_record(self._folder, number, record)

  def add(self, number: int, rows: Mapping[str, Any]) -> None:
    """What evaluation ``number`` gave: the ``rows`` of :func:`cljax.engine.evaluating.made`, with a member axis."""
    if not self._on:
      return
    layout, events = self._prepared(number), self._setup.stream.events
    assert self._setup.kept is not None
    size, block = len(self._setup.population), self._setup.blocks.weight.shape[1]
    arrays = {}
    for name, value in rows.items():
      given, take = np.asarray(value)[:size], self._place()
      if name != row_log.PREDICTED and self._setup.kept.scores[name]:
        arrays[name] = np.packbits(_flat(np.unpackbits(given, axis=-1, count=block))[:, take], axis=-1)
      elif name == row_log.PREDICTED:
        arrays[name] = _flat(given)[:, take]
      else:
        arrays[name] = _flat(np.moveaxis(given, 2, 1), 2)[..., take]
    self._keep(number, _cleared(Record(len(layout.label), arrays), layout))
    if number and isinstance(events[number - 1], Forget):
      for earlier in self._numbers():
        self._scrub(earlier, layout)

  def told(self) -> RowLog | None:
    """The log as it is; None where there is none."""
    if not self._on or not self._numbers():
      return None
    if self._folder is not None:
      with contextlib.suppress(CljaxError, OSError):  # who reads the log is told; what was learned is whole
        return row_log.read_folder(self._folder)
      return None
    layout = self._layout or self._prepared(max(self._memory, default=0))
    return layout._replace(records=tuple(self._memory.get(n) for n in range(max(self._memory, default=-1) + 1)))

  def _prepared(self, number: int) -> RowLog:
    """The layout by evaluation ``number``, written where it is another than before."""
    upto, events = number, self._setup.stream.events
    if self._layout is not None and not (number and isinstance(events[number - 1], Forget)):
      return self._layout
    made = self._made(upto)
    before = self._layout or self._known
    if before is None and self._folder is not None and (self._folder / row_log.LAYOUT).exists():
      with contextlib.suppress(CljaxError):  # what cannot be read is written anew
        before = row_log.read_layout(self._folder)
    # What went stays away, also where the run has gone back to before it went.
    if before is not None and made.sizes[: len(before.sizes)] == before.sizes:
      present = made.present.copy()
      present[: len(before.present)] &= before.present
      made = _without(made, present)
    self._layout = made
    if self._folder is not None:
      row_log.write_layout(self._folder, made)
    return made

  def _made(self, upto: int) -> RowLog:
    setup = self._setup
    stream, test, kept = setup.stream, setup.stream.dataset.test, setup.kept
    assert kept is not None
    rows = [np.asarray(t, np.int64) for t in stream.test]
    place, task = np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    classes = setup.parts.objective.classes
    label = stream.labels[task, np.asarray(test.y)[place]] if classes else np.full(len(place), -1)
    scores = setup.parts.objective.scores
    told = {n: {"bits": bits, "better": scores[n].better, "finish": finish_of(scores[n])} for n, bits in
            kept.scores.items()}  # fmt: skip
    log = RowLog(
      tuple(m.seed for m in setup.population),
      tuple(("learn", e.task) if isinstance(e, Learn) else ("forget", -1) for e in stream.events),
      tuple(map(len, rows)), stream.num_classes if classes else 0, told, np.asarray(label, np.int64),
      np.asarray(test.group)[place].astype(np.int64), place, np.ones(len(place), bool), (),
    )  # fmt: skip
    return _without(log, ~np.concatenate(reached_tests(stream, upto)))

  def _place(self) -> np.ndarray:
    """``[N]``: where each entry stands among the places of all blocks."""
    if self._take is None:
      stream, blocks, limit = self._setup.stream, self._setup.blocks, self._setup.options.eval_limit
      weight = np.asarray(blocks.weight)[: len(blocks.slot)]
      weight = weight * (np.asarray(blocks.slot) < stream.num_tasks)[:, None]
      at, first, out = np.flatnonzero(weight), 0, []
      for rows in stream.test:
        order = np.arange(len(rows))
        order = few_first(order, stream.dataset.test.y[rows], limit) if limit else order
        mine = np.empty(len(rows), np.int64)
        mine[order] = at[first : first + len(rows)]
        out.append(mine)
        first += len(rows)
      self._take = np.concatenate(out)
    return self._take

  def _numbers(self) -> list[int]:
    return sorted(self._memory) if self._folder is None else row_log.numbers(self._folder)

  def _keep(self, number: int, record: Record) -> None:
    if self._folder is None:
      self._memory[number] = record
    else:
      row_log.write_record(self._folder, number, record)

  def _scrub(self, number: int, layout: RowLog) -> None:
    try:
      record = self._memory[number] if self._folder is None else row_log.read_record(self._folder, number)
    except CljaxError:  # it may hold anything
      assert self._folder is not None
      (self._folder / row_log.name_of(number)).unlink()
      return
    cleared = _cleared(record, layout)
    if any((a != record.arrays[n]).any() for n, a in cleared.arrays.items()):
      self._keep(number, cleared)


def _flat(a: np.ndarray, axes: int = 1) -> np.ndarray:
  """``[..., blocks, block]`` as ``[..., blocks * block]``, behind the first ``axes``."""
  return a.reshape(*a.shape[:axes], -1)


def _without(log: RowLog, present: np.ndarray) -> RowLog:
  gone = lambda a: np.where(present, a, np.asarray(-1, a.dtype))
  return log._replace(present=present, label=gone(log.label), group=gone(log.group), row=gone(log.row))


def _cleared(record: Record, layout: RowLog) -> Record:
  """The record with zeros where the entries are gone."""
  present = layout.present[: record.width]
  if present.all():
    return record
  bits, out = np.packbits(present), {}
  for name, a in record.arrays.items():
    packed = name in layout.scores and layout.scores[name]["bits"]
    out[name] = a & bits if packed else np.where(present, a, np.zeros((), a.dtype))
  return Record(record.width, out)


def discard(folder) -> None:
  """Removes a log; nothing where there is none."""
  if folder is not None and folder.exists():
    folder.rmtree() if hasattr(folder, "rmtree") else shutil.rmtree(folder)
