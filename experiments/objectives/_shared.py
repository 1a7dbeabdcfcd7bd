"""What the experiments of objectives share: which methods an objective has all for, and their two sweeps."""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

EDITS = ("retrain", "graddiff", "ssd")


def allowed(objective: str, names: Sequence[str], traced: Sequence[str] = (), **options) -> tuple[list[str], list[str]]:
  """The methods of ``names`` that the objective of these options has all for, and a line for each of the others;
  ``traced``: those that a trace on a tiny stream is to say of."""
  from cljax import methods, objectives

  made = objectives.chosen(objective, options)(None, None, {})
  missing = {m: [n for n in methods.lookup(m).access.needs if not getattr(made, n)] for m in names}
  lines = {m: f"{m}: left out, needs {', '.join(lacks)}" for m, lacks in missing.items() if lacks}
  for m in (m for m in traced if m in names and m not in lines):
    said = _traced(m, objective)
    lines |= {m: f"{m}: left out, {said}"} if said != "yes" else {}
  return [m for m in names if m not in lines], list(lines.values())


@functools.cache
def _traced(method: str, objective: str) -> str:
  from experiments.method_objectives import found

  return found(method, objective)


def each(h, names: Sequence[str]):
  """A point of a sweep for each method."""
  return h.sweep("method.name", list(names))


def run(
  file: str,
  objective: str,
  left_out: Sequence[str],
  request: str,
  workdir: str,
  seeds: str,
  more: Sequence[str] = (),
  write: Callable[[pathlib.Path], Any] | None = None,
  **options,
) -> int:
  """Writes the rows, then sweeps and reports twice: the methods, in ``sweep/``, and, in ``forget/``, finetune on the
  stream with a request, answered by each edit that the objective has all for. Returns the exit code.

  ``left_out``: a line for each method that is not run; ``more``: flags of ``launch.sweep``, for both; ``options``: of
  the objective, where they have to be given.
  """
  from cljax.cli import report, sweep

  if write is not None:
    write(pathlib.Path(workdir))
  edits, lines = allowed(objective, EDITS, **options)
  for line in (*left_out, *lines):
    print(line, file=sys.stderr)
  where = [] if write is None else [f"--config.data.data_dir={workdir}"]
  shared = [f"--config={file}", *where, f"--seeds={seeds}", *more]
  asked = ["--config.method.name=finetune", f"--config.stream.forget={request}", f"--grid=forget.name={edits!r}"]
  for name, given in (("sweep", []), ("forget", asked)):
    folder = f"{workdir}/{name}"
    # Where a grid is given the file's own is not read.
    own = [g for g in shared if not (name == "forget" and g.startswith(("--grid", "--methods")))]
    code = sweep.main(["sweep", f"--workdir={folder}", *own, *given]) or report.main(["report", folder])
    if code:
      return code
  return 0
