"""A row of a sweep as a run of its own: what is deleted from it, or appended to it, lies in its folder from then on.

A sweep trains its rows in populations, whose checkpoints hold members of several rows. Before anything happens to one
its members' newest state is written to ``runs/NAME/checkpoints``, with ``config.json`` and ``history.json`` as
``launch.train`` leaves them. Where it is deleted from, the population's checkpoints, which hold the model from before,
are removed then, after its other rows became runs of their own, too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from cljax import UsageError
from cljax.cli import _registered, _workdir
from cljax.cli.sweeps import _plan, _units
from cljax.engine import restore
from cljax.evaluation import results
from cljax.io import checkpoint, files, history, ledger, members, owner, row_log

LEFT = "populations.json"  # the populations that a row was in, and which of their checkpoints are gone
_MADE = ("config.json", history.FILE, "launch.json", row_log.FOLDER, "checkpoints")


class Row(NamedTuple):
  """A row of a sweep: its folder."""

  path: epath.Path

  @property
  def sweep(self) -> epath.Path:
    return self.path.parent.parent

  def units(self) -> list[_plan.Unit]:
    """The populations that have checkpoints with its members."""
    found = [u for u in _plan.on_disk(self.sweep) if self.path.name in {m for m, _ in u.members}]
    return [u for u in found if _left(self.sweep, u)]


def of(workdir: epath.Path) -> Row | None:
  """The row of a sweep that lies in the folder; None where it is none."""
  path = epath.Path(os.path.abspath(workdir)) if _workdir.is_local(workdir) else workdir
  there = path.parent.name == "runs" and (path.parent.parent / "groups").exists() and path.exists()
  return Row(path) if there else None


def is_own(path: epath.Path) -> bool:
  """Whether a row is a run of its own."""
  return (path / "checkpoints").exists()


def config(row: Row) -> dict[str, Any]:
  """The configuration of a row, with its seeds, as that of a run; UsageError where it has not ended."""
  held = restore.of_row(row.path)
  seeds, identity = [], {}
  for folder, which in held:
    content = _content(folder)
    seeds += [content["members"][i]["seed"] for i in which]
    identity = content["runs"][row.path.name]["identity"]
  ended = _plan.finished_seeds(row.sweep, row.path.name)
  if set(seeds) != set(ended):
    raise UsageError(f"workdir: {row.path} is a row that has not ended; run its launch.sweep again first")
  return {**identity, "seeds": sorted(seeds)}


def _content(folder) -> dict[str, Any]:
  return _workdir.read_json(epath.Path(folder) / "unit.json") or {}


@contextlib.contextmanager
def adopted(workdir: epath.Path) -> Iterator[Row | None]:
  """For the block, and after it, a row is a run of its own; a row again where the block raises before anything was
  appended to it. None for what is no row."""
  row = of(workdir)
  if row is None:
    yield None
    return
  with contextlib.ExitStack() as held:
    for folder in (row.path, *(row.sweep / "groups" / u.name for u in row.units())):
      held.enter_context(owner.holding(os.fspath(folder)))
    made = not is_own(row.path)
    if made:
      _adopt(row)
    stages = len(history.read(row.path))
    try:
      yield row
    except BaseException:
      begun = (row.path / LEFT).exists() or len(history.read(row.path)) > stages or ledger.read(row.path)
      if made and not begun:
        for name in reversed(_MADE):
          _workdir.discard(row.path / name)
      raise


def _adopt(row: Row) -> None:
  """Writes what makes a row a run; ``checkpoints`` comes last, and whole."""
  held, whole = restore.of_row(row.path), config(row)
  seeds = [(_content(folder)["members"][i]["seed"]) for folder, which in held for i in which]
  order = sorted(range(len(seeds)), key=lambda i: seeds[i])
  identity = {k: v for k, v in whole.items() if k != "seeds"}
  stated = {**identity, "members": [[seed, {}] for seed in sorted(seeds)]}
  temporary = row.path / "checkpoints.adopted"
  _workdir.discard(temporary)
  members.write(temporary, [(f"{folder}/checkpoints", which) for folder, which in held], order, stated)
  stages = history.read(held[0][0])
  history.write(row.path, [{**stage, "config": stated} for stage in stages[:1]])
  _note_file(row)
  _workdir.write_json(row.path / "config.json", whole)
  log = row_log.read(row.path)
  if log is not None:
    row_log.write(row.path / row_log.FOLDER, log)
  temporary.replace(row.path / "checkpoints")


def _note_file(row: Row) -> None:
  """Which configuration file the row comes from, as the sweep says it."""
  noted = (_workdir.read_json(row.sweep / _registered.FILE) or {}).get("config")
  copy = row.sweep / "code" / "config.py"
  place = (
    noted if noted and os.path.isfile(str(noted).partition(":")[0]) else os.fspath(copy) if copy.exists() else noted
  )
  if place:
    files.write_text(row.path / _registered.FILE, files.dumps({"config": place}) + "\n")


def release(row: Row) -> None:
  """Removes the checkpoints of the populations that a row was trained in; their other rows become runs of their own."""
  for unit in row.units():
    for name in dict.fromkeys(name for name, _ in unit.members):
      other = Row(row.path.parent / name)
      if not is_own(other.path):
        _adopt(other)
    gone = _left(row.sweep, unit)
    for path in {row.path.parent / name for name, _ in unit.members}:
      told = _workdir.read_json(path / LEFT) or {}
      files.write_text(path / LEFT, files.dumps({**told, unit.name: sorted({*told.get(unit.name, ()), *gone})}) + "\n")
    directory = row.sweep / "groups" / unit.name / "checkpoints"
    _workdir.discard(directory.parent / row_log.FOLDER)  # first: it is taken up again as long as there are checkpoints
    for name in [*map(str, checkpoint.numbers(directory)), *checkpoint.others(directory)]:
      checkpoint.discard(directory, name)


def _left(sweep: epath.Path, unit: _plan.Unit) -> list[str]:
  directory = sweep / "groups" / unit.name / "checkpoints"
  return sorted(
    {str(checkpoint.named(n)) for n in [*map(str, checkpoint.numbers(directory)), *checkpoint.others(directory)]}
  )


def tell(row: Row) -> None:
  """Gives the row's result the point of the sweep that it is, and the sweep its row."""
  path = row.path / "result.json"
  result = results.read(path)
  if result is None:
    return
  with _workdir.exclusive(row.sweep):
    if "point" not in result:
      about = [u.content["runs"].get(row.path.name) for u in _plan.on_disk(row.sweep)]
      results.write(path, {**result, "point": next((a["point"] for a in about if a), {})})
    _units.add_rows(row.sweep, [row.path.name])


def check_grown(workdir: epath.Path, runs: Sequence[_plan.Run], seeds: Sequence[int]) -> None:
  """Raises UsageError where a sweep asks for more seeds of a row that is a run of its own."""
  for run in runs:
    path, there = workdir / "runs" / run.folder, _plan.finished_seeds(workdir, run.folder)
    if is_own(path) and not there:
      raise UsageError(f"workdir: {path / 'result.json'} is gone or damaged, and the row is a run of its own; make it "
                       f"anew with launch.train --workdir={path} --extend")  # fmt: skip
    if is_own(path) and not set(seeds) <= set(there):
      raise UsageError(
        f"seeds: got {','.join(map(str, seeds))}, but {path} is a run of its own since it, or a row that it was "
        f"trained with, was deleted from; expected seeds of {','.join(map(str, there))}, or another workdir"
      )


def removed(workdir: epath.Path) -> list[str]:
  """The populations whose checkpoints are gone since the row is a run of its own, in words."""
  told: Mapping[str, Any] = _workdir.read_json(epath.Path(workdir) / LEFT) or {}
  return [f"checkpoints {', '.join(map(str, gone))} of the population {name}" for name, gone in told.items()]


def left(workdir: epath.Path) -> list[str]:
  """What of a row's sweep still knows the rows that were deleted from it, in words."""
  row = of(workdir)
  if row is None:
    return []
  out = [f"the checkpoints of the population {u.name}, of the model from before (run the command again)"
         for u in row.units()]  # fmt: skip
  others = [p.name for p in sorted(row.path.parent.iterdir()) if p != row.path and not (p / ledger.LEDGER).exists()]
  if others:
    shown = f"{', '.join(others[:3])}{f' and {len(others) - 3} more' if len(others) > 3 else ''}"
    out.append(f"the sweep's other rows, whose models learned them ({shown}): each is forgotten from by its own path")
  return out
