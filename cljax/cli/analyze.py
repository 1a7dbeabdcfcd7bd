"""Looks at a finished or interrupted run: what was forgotten, when, by which layers, and for what.

``python -m launch.analyze DIR``, where DIR is the workdir of launch.train or launch.sweep

Writes DIR/analysis/: analysis.txt in plain words (also printed), analysis.json with all numbers, and pictures; of a
sweep, one such folder for each configuration. ``--log_only`` prints what the raw log says of single test rows, which
takes neither checkpoints nor data; ``--metrics=FILE`` adds metrics of one's own to it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags as absl_flags
from etils import epath

from cljax import UsageError
from cljax.cli import _environment, _registered, _shared, _workdir
from cljax.cli.reporting import _analysis, _analysis_plots, _analysis_text, _row_log
from cljax.engine import restore
from cljax.io import checkpoint, files, formats


class Target(NamedTuple):
  """A configuration to look at: where its checkpoints lie, which members of the population are its, where to write."""

  source: epath.Path
  members: list[int]
  title: str
  out: epath.Path


def targets(workdir: epath.Path) -> list[Target]:
  """The one run of a train workdir, or every configuration of a sweep that has begun."""
  groups = workdir / "groups"
  if checkpoint.numbers(workdir / "checkpoints"):
    sources = [workdir]
  else:
    inner = [p for folder in (groups, workdir / "runs") if folder.exists() for p in sorted(folder.iterdir())]
    sources = [p for p in inner if checkpoint.numbers(p / "checkpoints")]
  if not sources:
    raise UsageError(
      f"workdir: {workdir} holds no checkpoints; expected that of a launch.train or launch.sweep that began"
    )
  metas = [restore.meta_of(source) for source in sources]
  configs, writers = [meta["config"] for meta in metas], [formats.writer(meta) for meta in metas]
  _registered.recall(workdir, configs)
  out: list[Target] = []
  for source, config, writer in zip(sources, configs, writers, strict=True):
    if not isinstance(config.get("method"), dict):
      raise UsageError(
        f"workdir: {source} holds a run of cljax.run, not of a launcher; see cljax.engine.restore.history"
      )
    own = _own_rows(workdir, source)  # which are looked at in their own folders
    others = [(c, w == writer) for c, w in zip(configs, writers, strict=True)]
    for title, members in _configurations(config, others):
      title += "" if len({*writers}) == 1 else f" of {writer}"
      members = [i for i in members if i not in own]
      if not members:
        continue
      folder = workdir / "analysis" / ("" if sources == [workdir] else _folder(title, out))
      out.append(Target(source, members, title, folder))
  return out


def _own_rows(workdir: epath.Path, source: epath.Path) -> set[int]:
  """The members of a population whose rows are runs of their own."""
  unit = _workdir.read_json(source / "unit.json") or {}
  return {i for i, m in enumerate(unit.get("members", [])) if (workdir / "runs" / m["run"] / "checkpoints").exists()}


def _configurations(config: dict, others: Sequence[tuple[dict, bool]]) -> list[tuple[str, list[int]]]:
  """``(title, members)`` of each configuration in one population, named by what sets it apart from the others; from
  those that another version wrote, by keys that both have."""
  name = config["method"]["name"] + (f" + {config['forget']['name']}" if config["forget"]["name"] else "")
  points: dict[tuple, list[int]] = {}
  for i, (_, hyper) in enumerate(config["members"]):
    points.setdefault(tuple(sorted(hyper.items())), []).append(i)
  inside = {k for point in points for k, _ in point}
  apart = {k for point in points for k, v in point if len({dict(p).get(k) for p in points}) > 1}
  for other, same_version in others:
    if other["method"]["name"] == config["method"]["name"] and other["forget"]["name"] == config["forget"]["name"]:
      told = (line.partition(": ") for line in checkpoint.differences(config, other))
      keys = {key for key, _, values in told if same_version or "absent" not in values.split(" -> ")}
      apart |= {k for k in keys if k.partition(".")[0] not in ("members", "answers") and k not in inside}
  out = []
  for point, members in points.items():
    values = {**{k: config[k.partition(".")[0]].get(k.partition(".")[2]) for k in apart}, **dict(point)}
    label = " ".join(f"{k.partition('.')[2]}={_short(values[k])}" for k in sorted(apart))
    out.append((f"{name} {label}".strip(), members))
  return out


def _short(value) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")


def _folder(title: str, made: Sequence[Target]) -> str:
  """A folder name for a title, with a number where it is taken."""
  plain = _workdir.in_path("-".join(title.replace("+", " ").split()))
  taken = {t.out.name for t in made}
  return next(n for n in (plain, *(f"{plain}-{i}" for i in range(2, len(made) + 3))) if n not in taken)


def write(target: Target, analysis: dict[str, Any]) -> str:
  """Writes the text, the numbers and the pictures; returns the text with the names of the files."""
  try:
    target.out.mkdir(parents=True, exist_ok=True)
    pictures = _analysis_plots.draw(analysis, target.out, f"{target.title} on {analysis['stream']}")
    text = _analysis_text.describe(analysis, target.title)
    text += f"\nPictures and numbers in {target.out}: {', '.join([*pictures, 'analysis.json'])}\n"
    files.write_text(target.out / "analysis.json", files.dumps(analysis, indent=1) + "\n")
    files.write_text(target.out / "analysis.txt", text)
  except PermissionError as error:
    raise UsageError(f"workdir: cannot write to {target.out}: {error.strerror}") from error
  return text


def run(argv: Sequence[str], stop: _shared.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  flags = absl_flags.FlagValues()
  absl_flags.DEFINE_string("workdir", "", "The workdir of a run; may also be given without a name.", flag_values=flags)
  absl_flags.DEFINE_string("data_dir", "", "Where the data lies, if not in the default place.", flag_values=flags)
  absl_flags.DEFINE_bool("log_only", False, "Only what the raw log says: nothing is restored.", flag_values=flags)
  absl_flags.DEFINE_string(
    "metrics",
    "",
    "A Python file that adds to cljax.metrics.ROW_METRICS.",
    flag_values=flags,
  )
  absl_flags.DEFINE_integer("rows", 256, "Test rows of each task to look at, at most.", 1, flag_values=flags)
  absl_flags.DEFINE_string(
    "compilation_cache", _environment.CACHE, "Folder of compiled programs; empty for none.", flag_values=flags
  )
  argv = list(argv)
  if len(argv) > 1 and not argv[1].startswith("-"):
    argv[1] = f"--workdir={argv[1]}"
  _shared.parse(argv, flags, __doc__ or "")
  workdir = epath.Path(flags.workdir).expanduser()
  if not workdir.is_dir():
    raise UsageError(f"workdir: no folder {workdir}; expected that of a launch.train or launch.sweep run")
  _environment.quiet()
  _row_log.register(flags.metrics)
  if flags.log_only:
    return _of_log(workdir)
  found = targets(workdir)
  _environment.use_compilation_cache(flags.compilation_cache)
  opened: dict[str, restore.History] = {}
  for n, target in enumerate(found):
    if stop():
      raise KeyboardInterrupt
    key = str(target.source)
    if key not in opened:
      opened = {key: restore.history(target.source, data_dir=flags.data_dir or None, first_stream=True)}
    analysis = _analysis.analyse(opened[key], target.members, flags.rows)
    analysis["test_rows"], analysis["no_test_rows"] = _row_log.of_run(target.source, target.members)
    text = write(target, analysis)
    print(("\n" if n else "") + text)
  return 0


def _of_log(workdir: epath.Path) -> int:
  """Prints what the raw logs of a run, of a sweep's row or of a whole sweep say, and writes it as JSON."""
  inner = workdir / "runs"
  rows = sorted(p for p in inner.iterdir() if p.is_dir()) if inner.is_dir() else []
  for n, folder in enumerate(rows or [workdir]):
    found, why = _row_log.of_run(folder)
    print(("\n" if n else "") + "\n".join([folder.name, *(f"  {line}" for line in _row_log.lines(found, why))]))
    if found is not None:
      files.write_text(folder / "analysis" / "test_rows.json", files.dumps(found, indent=1) + "\n")
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(run, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
