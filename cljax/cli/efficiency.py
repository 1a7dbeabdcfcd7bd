"""Sets accuracy relative to joint, memory and updates of runs side by side, and the criteria beside forgetting.

``python -m launch.efficiency DIR [DIR...] [--reference=joint] [--compute=updates] [--out=DIR]``

DIR is the workdir of launch.train or launch.sweep; one run among them is of the reference's method. Seeds of the same
configuration are joined, and each stream has a table. Without --out, efficiency.json and efficiency.md go into the
first DIR. Nothing is trained: memory is counted from arrays, operations by XLA from the step.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags as absl_flags
from etils import epath

from cljax import Member, UsageError
from cljax.cli import _build, _config, _environment, _registered, _shared
from cljax.cli.report import split
from cljax.cli.reporting import _data
from cljax.evaluation import efficiency, scores
from cljax.evaluation.cost import cost
from cljax.io import files, sealing
from cljax.io.tables import aligned, markdown

HEAD = ("run", "seeds", "ACC %", "relative %", "model MB", "kept MB", "updates", "GFLOP", "seconds", "NetScore dB")
CRITERIA = {
  "accuracy": "A", "remembering": "REM", "positive_backward_transfer": "BWT+", "forward_transfer": "FWT",
  "model_size_efficiency": "MS", "sample_storage_efficiency": "SSS", "computational_efficiency": "CE",
  "cl_score": "CL score", "cl_stability": "CL stability",
}  # fmt: skip
NOTES = (
  "mean ± standard error over seeds. Relative: accuracy over the mean accuracy of {reference}. Kept: what a member "
  "keeps between tasks beside its parameters. Updates, GFLOP and seconds are of one seed; a loop inside a step counts "
  "as one turn of it, and work at task boundaries is not counted. NetScore: 20 log10(relative^2 / (memory^.5 "
  "compute^.5)), of percent, millions of numbers (model and kept) and {compute}.",
  "Second table: the criteria of Diaz-Rodriguez et al. (2018), shares of 1; of runs whose tasks all come once. CL "
  "score is their mean over criteria and seeds, CL stability 1 less the mean of their standard deviations over seeds.",
)
UNITS = {"updates": "thousands of updates", "operations": "giga multiply-adds of training", "seconds": "seconds"}


def spent(run: _data.Run, folders: Sequence[epath.Path], data_dir: str, cache: dict) -> efficiency.Spent:
  """What a run had and what it cost. Raises UsageError where it is not of accuracies, or can not be rebuilt."""
  if run.score != scores.ACCURACY:
    raise UsageError(f"{run.label}: was scored by {run.score!r}; efficiency is of accuracies")
  sealing.check_open(dict(run.config), "its cost can not be counted")
  for folder in folders:
    _registered.recall(folder, [run.config])
  config = _config.from_identity(run.config, {"data": {"data_dir": data_dir}})
  config["evaluators"] = {"names": ()}  # which cost no update
  prepared = _build.prepare(_build.build(config, cache, run.config.get("answers", ())), [Member(run.seeds[0])])
  alive = np.asarray(run.alive)
  matrix = None if run.matrix is None else efficiency.in_order(run.matrix[alive], run.events)
  accuracy = np.where(alive, np.asarray(run.values["acc"], np.float64), np.nan)
  return efficiency.Spent(accuracy, matrix, run.state_bytes, prepared.setup.total_steps, run.seconds, cost(prepared))


def tables(
  grouped: dict[str, list[_data.Run]], folders, reference: str, compute: str, data_dir: str, notes: list[str]
) -> dict[str, dict[str, Any]]:
  """``{stream: {label: {"seeds", "row", "criteria"}}}`` of the streams that have a run of the reference's method."""
  found: dict[str, dict[str, Any]] = {}
  cache: dict = {}
  for name, runs in grouped.items():
    held = {}
    for run in runs:
      try:
        held[run.label] = run, spent(run, folders, data_dir, cache)
      except UsageError as error:
        notes.append(f"{name}: {run.label} is left out: {error}")
    given = [s for label, (run, s) in held.items() if reference in (run.title, label)]
    if len(given) != 1:
      notes.append(f"{name}: {len(given) or 'no'} runs of {reference!r}; expected one, by --reference=LABEL")
      continue
    found[name] = {
      label: {
        "seeds": list(run.seeds), "row": efficiency.row(s, given[0], compute)._asdict(), "criteria": efficiency.more(s),
      }
      for label, (run, s) in held.items()
    }  # fmt: skip
  if not found:
    raise UsageError(f"reference: nothing to compare with {reference!r} ({'; '.join(notes)})")
  return found


def _cell(values, scale: float = 1.0, digits: int = 1) -> str:
  v = scale * np.atleast_1d(np.asarray(values, np.float64))
  v = v[np.isfinite(v)]
  if not len(v):
    return "-"
  error = f" ± {v.std(ddof=1) / np.sqrt(len(v)):.{digits}f}" if len(v) > 1 else ""
  return f"{v.mean():.{digits}f}{error}"


def lines(table: dict[str, Any]) -> list[list[list[str]]]:
  """The two tables of a stream as cells, heads first; the best NetScore first."""
  order = sorted(table, key=lambda label: -_mean(table[label]["row"]["netscore"]))
  first, second = [list(HEAD)], [["run", *CRITERIA.values()]]
  for label in order:
    r, own = table[label]["row"], table[label]["criteria"]
    first.append([
      label, str(len(table[label]["seeds"])), _cell(r["accuracy"], 100), _cell(r["relative"], 100),
      _cell(r["model_bytes"], 1e-6, 3), _cell(r["kept_bytes"], 1e-6, 3), f"{r['updates']:,}",
      _cell(r["operations"], 1e-9, 3), _cell(r["seconds"], 1, 2), _cell(r["netscore"], 1, 2),
    ])  # fmt: skip
    second.append([label, *(_cell(own[k], 1, 3) if k in own else "-" for k in CRITERIA)])
  return [first, second]


def _mean(values) -> float:
  """Over those that are numbers; the least of all where none is."""
  v = np.asarray(values, np.float64)
  return float(v[np.isfinite(v)].mean()) if np.isfinite(v).any() else -np.inf


def _efficiency(argv: Sequence[str], stop: _shared.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  del stop
  values = absl_flags.FlagValues()
  absl_flags.DEFINE_string("reference", "joint", "Method, or label, that accuracy is relative to.", flag_values=values)
  absl_flags.DEFINE_enum("compute", "updates", efficiency.COMPUTE, "What NetScore counts.", flag_values=values)
  absl_flags.DEFINE_string("data_dir", "", "Where the data lies, if not in the default place.", flag_values=values)
  absl_flags.DEFINE_string("out", "", "Folder for the tables; default: the first DIR.", flag_values=values)
  given, flags = split(argv)
  _shared.parse(flags, values, __doc__ or "")
  if not given:
    raise UsageError("DIR: not given; expected workdirs, as in: python -m launch.efficiency runs/er runs/joint")
  folders = [epath.Path(f).expanduser() for f in dict.fromkeys(given)]
  runs, notes = [], []
  for folder in folders:
    found, problems = _data.read(folder)
    runs += found
    notes += problems
  grouped = _data.blocks(_data.merge(runs, notes))
  _environment.quiet()
  made = tables(grouped, folders, values.reference, values.compute, values.data_dir, notes)
  told = [n.format(reference=values.reference, compute=UNITS[values.compute]) for n in NOTES]
  cells = {name: lines(table) for name, table in made.items()}
  page = ["# Efficiency", *(f"- {n}" for n in told)]
  md = lambda cells: "\n".join(markdown(cells[0], cells[1:]))
  page += [f"\n## {name}\n\n{md(first)}\n\n{md(second)}" for name, (first, second) in cells.items()]
  out = epath.Path(values.out).expanduser() if values.out else folders[0]
  numbers = {"reference": values.reference, "compute": values.compute, "streams": made}
  try:
    files.write_text(out / "efficiency.json", files.dumps(numbers, indent=1) + "\n")
    files.write_text(out / "efficiency.md", "\n".join(page) + "\n")
  except (PermissionError, NotADirectoryError, FileExistsError) as error:
    raise UsageError(f"out: cannot write to {out}: {error.strerror}; expected a writable folder") from error
  for note in notes:
    print(f"note: {note}", file=sys.stderr)
  text = lambda cells: "\n".join(aligned(cells, ruled=True))
  print("\n\n".join(f"{name}\n\n{text(first)}\n\n{text(second)}" for name, (first, second) in cells.items()))
  print("\n" + "\n".join(told))
  print(f"{out / 'efficiency.json'} and efficiency.md written")
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_efficiency, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
