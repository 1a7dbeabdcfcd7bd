"""What of a sweep has no result, and why."""

from __future__ import annotations

from etils import epath

from cljax import CljaxError
from cljax.cli import _workdir
from cljax.cli.sweeps import _plan
from cljax.io import owner as _owner


def lines(folder: epath.Path) -> list[str]:
  """A line for each population of a sweep that lacks results: which, and what became of its last attempt."""
  out = []
  for unit in _plan.on_disk(folder):
    try:
      done = {name: _plan.finished_seeds(folder, name) for name in unit.content["runs"]}
    except CljaxError:  # of a newer format, which is told where results are read
      continue
    missing = [m for m in unit.members if m[1] not in done[m[0]]]
    if not missing:
      continue
    place = folder / "groups" / unit.name
    attempts = _owner.history(place) if _workdir.is_local(folder) else []
    last: dict = next((o for o in reversed(attempts) if o.get("left")), {})
    why = f"; it failed: {last['error']}" if last.get("left") == "failed" and last.get("error") else ""
    trace = place / _plan.TRACEBACK
    where = f"; the traceback: {trace}" if why and trace.exists() else ""
    out.append(f"{unit.label}: {len(missing)} of {len(unit.members)} runs have no result{why}{where}")
  return out
