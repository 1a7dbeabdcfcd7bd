"""Writes a report on one or several sweeps: report.html (needs no network), report.png and report.tex.

``python -m launch.report DIR [DIR...] [--baseline=finetune] [--select=validation] [--metrics=FILE] [--out=DIR]``

DIR is the workdir of launch.sweep or launch.train. Several are merged: seeds of the same configuration are joined,
streams are ranked over, with Friedman's test and Nemenyi's critical difference (ranks.png). Without --out, the files go
into the first DIR.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags as absl_flags
from etils import epath

from cljax import UsageError
from cljax.cli import _shared
from cljax.cli.reporting import _data, _page, _ranks, _row_log, _table
from cljax.cli.sweeps import _unfinished
from cljax.io import files


def build(folders: Sequence[epath.Path], baseline: str, select: str) -> _page.Report:
  """Reads, merges, selects and compares; raises UsageError where there is nothing to report on."""
  protocol = _table.parse_select(select)
  runs, notes = [], []
  for folder in folders:
    found, problems = _data.read(folder)
    runs += found
    notes += problems
  grouped = _data.blocks(_data.merge(runs, notes))
  blocks = [_table.block(name, group, protocol, baseline) for name, group in grouped.items()]
  ranked = _table.ranking(blocks, baseline) if len(blocks) > 1 else []
  ranks = _table.tested_ranks(blocks, ranked) if ranked else None
  return _page.Report(blocks, ranked, protocol, baseline, [str(f) for f in folders], notes, ranks)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Folders, and the flags; a flag without ``=`` takes the next argument."""
  folders: list[str] = []
  flags = [argv[0]]
  for i, token in enumerate(argv[1:], 1):
    before = argv[i - 1] if i > 1 else ""
    value = before.startswith("-") and "=" not in before
    (flags if token.startswith("-") or value else folders).append(token)
  return folders, flags


def _report(argv: Sequence[str], stop: _shared.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  del stop
  values = absl_flags.FlagValues()
  absl_flags.DEFINE_string(
    "baseline", "finetune", "Method, or label of a configuration, to test against.", flag_values=values
  )
  absl_flags.DEFINE_string(
    "select", "validation", "validation, or first_tasks:K: by validation accuracy after the first K tasks only.",
    flag_values=values,
  )  # fmt: skip
  absl_flags.DEFINE_string(
    "metrics", "", "A Python file that adds metrics of single test rows to cljax.metrics.ROW_METRICS.",
    flag_values=values,
  )  # fmt: skip
  absl_flags.DEFINE_string("out", "", "Folder for the report; default: the first DIR.", flag_values=values)
  given, flags = split(argv)
  _shared.parse(flags, values, __doc__ or "")
  if not given:
    raise UsageError("DIR: not given; expected the workdir of a launch.sweep, as in: python -m launch.report DIR")
  _row_log.register(values.metrics)
  folders = [epath.Path(f).expanduser() for f in dict.fromkeys(given)]
  report = build(folders, values.baseline, values.select)
  labels = {n for b in report.blocks for x in b.lines for n in (x.run.title, x.run.label)}
  if values["baseline"].present and values.baseline not in labels:
    titles = sorted({x.run.title for b in report.blocks for x in b.lines})
    raise UsageError(f"baseline: there is no {values.baseline!r}; expected one of {', '.join(titles)}")
  out = epath.Path(values.out).expanduser() if values.out else folders[0]
  try:
    files.write_text(out / "report.html", _page.page(report))
    files.write_text(out / "report.tex", _page.tex(report))
    _page.picture(report, out / "report.png")
    if report.ranks is not None:
      _ranks.draw(report.ranks, out / _ranks.PICTURE, _ranks.title(report.ranks))
  except (PermissionError, NotADirectoryError, FileExistsError) as error:
    raise UsageError(f"out: cannot write to {out}: {error.strerror}; expected a writable folder") from error
  unfinished = [line for folder in folders for line in _unfinished.lines(folder)]
  for note in [*report.notes, *unfinished, *(f"{b.name}: {n}" for b in report.blocks for n in b.notes)]:
    print(f"note: {note}", file=sys.stderr)
  print("\n".join([_page.plain(report), "", *_page.headline(report)]))
  more = f", {_ranks.PICTURE}" if report.ranks is not None else ""
  print(f"{out / 'report.html'}, report.png{more} and report.tex written")
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_report, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
