"""Sweeps methods and hyper-parameters.

``python -m launch.sweep --config=FILE --grid='method.strength=[1,10,100]' --seeds=5 --workdir=DIR``

Configurations that differ only in float hyper-parameters become one population: one compilation, one run.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from launch import _environment

_environment.prepare(__name__)

from absl import flags as absl_flags  # noqa: E402
from etils import epath  # noqa: E402

from cljax import Member, UsageError, results, writers  # noqa: E402
from launch import _build, _cli, _config, _grid, _plots, _workdir  # noqa: E402
from launch._progress import Log, Progress  # noqa: E402

LEFT = ("sweep.json", "rows.jsonl", "comparison.png", "runs", "groups")


class Run(NamedTuple):
  """One configuration of a sweep: its place on disk, its label in tables, and what varies inside its program."""

  label: str
  folder: str
  point: Mapping[str, Any]
  built: _build.Built
  traced: dict[str, float]


def plan(file: _config.File, overrides: Sequence[_config.Override], grid: Sequence[_grid.Point]) -> list[Run]:
  """Resolves every point before anything runs, so that a mistake in the last one costs nothing."""
  cache: dict = {}
  varied = [k for k in dict.fromkeys(k for p in grid for k in p) if len({repr(p.get(k)) for p in grid}) > 1]
  given = {o.key for o in overrides}
  if "train.on_divergence" not in given and "on_divergence" not in file.sections.get("train", {}):
    # One bad value must not end the others that share its program.
    overrides = [_config.Override("train.on_divergence", "freeze"), *overrides]
  runs: list[Run] = []
  for point in grid:
    clash = sorted(given & set(point))
    if clash:
      raise UsageError(f"grid: {clash[0]} is also given as --config.{clash[0]}; give it once")
    config = _config.resolve(file, [*overrides, *(_config.Override(k, v) for k, v in point.items())])
    built = _build.build(config, cache)
    method = config["method"]["name"]
    folder = f"{method}-{fingerprint(built.identity)}"
    if any(r.folder == folder for r in runs):
      raise UsageError(f"grid: the point {point} stands twice")
    runs.append(
      Run(_grid.label(point, method, config["forget"]["name"], varied), folder, point, built, _build.traced(config))
    )
  return runs


def fingerprint(value) -> str:
  return hashlib.sha256(writers.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def static_part(run: Run) -> str:
  """What must agree for runs to share a program: the configuration less the values of its traced floats."""
  identity = {s: {k: v for k, v in fields.items()} for s, fields in run.built.identity.items()}
  for key in run.traced:
    section, field = key.split(".", 1)
    identity[section][field] = "traced"
  return writers.dumps(identity, sort_keys=True)


def groups(runs: Sequence[Run]) -> list[list[Run]]:
  """Runs that share a program, in the order of the first of each."""
  out: dict[str, list[Run]] = {}
  for run in runs:
    out.setdefault(static_part(run), []).append(run)
  return list(out.values())


def group_folder(group: Sequence[Run], seeds: Sequence[int]) -> str:
  method = group[0].built.arguments["method"]
  return f"{method}-{fingerprint([[r.folder for r in group], list(seeds)])}"


def run_group(group: Sequence[Run], seeds: Sequence[int], workdir: epath.Path, stop: _cli.Stop, label: str) -> None:
  """Runs one population, or resumes it, and writes a ``result.json`` for each of its configurations."""
  folder = workdir / "groups" / group_folder(group, seeds)
  population = [Member(s, r.traced) for r in group for s in seeds]
  built = group[0].built
  progress = Progress(label, len(built.stream.events))
  log = Log(folder / "metrics.jsonl")

  def report(message: dict) -> None:
    log(message)
    progress(message)

  try:
    outcome = _build.execute(built, population, folder, report, stop)
  finally:
    log.close()
    progress.clear()
  for i, run in enumerate(group):
    result = results.describe(
      outcome,
      config=run.built.identity,
      method=run.built.arguments["method"],
      stream=run.built.stream.name,
      kind=run.built.identity["stream"]["kind"],
      seeds=seeds,
      members=range(i * len(seeds), (i + 1) * len(seeds)),
      environment=_environment.describe(),
    )
    results.write(workdir / "runs" / run.folder / "result.json", result)


def collect(runs: Sequence[Run], workdir: epath.Path) -> tuple[list[Run], list[dict[str, Any]]]:
  """The runs that have finished, and their results."""
  found = [(r, results.read(workdir / "runs" / r.folder / "result.json")) for r in runs]
  done = [(r, result) for r, result in found if result is not None]
  return [r for r, _ in done], [result for _, result in done]


def write_rows(workdir: epath.Path, runs: Sequence[Run], found: Sequence[dict[str, Any]]) -> None:
  """Rewrites ``rows.jsonl`` whole: one row a (configuration, seed); rows of earlier grids in this workdir stay."""
  path = workdir / "rows.jsonl"
  now = {r.folder for r in runs}
  kept = [row for row in writers.read_lines(path) if row.get("run") not in now]
  fresh = [
    row for r, result in zip(runs, found, strict=True) for row in results.rows(result, run=r.folder, point=r.point)
  ]
  writers.write_text(path, "".join(writers.dumps(row) + "\n" for row in kept + fresh))


def _sweep(argv: Sequence[str], stop: _cli.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  flags = _cli.common_flags()
  absl_flags.DEFINE_multi_string("grid", [], "KEY=[VALUE,...]; several make a product.", flag_values=flags)
  absl_flags.DEFINE_list("methods", [], "Short for --grid='method.name=[...]'.", flag_values=flags)
  overrides = _cli.parse(argv, flags, __doc__ or "")
  seeds = _config.parse_seeds(flags.seeds)
  file = _config.read_file(flags.config)
  runs = plan(file, overrides, _grid.points(flags.grid, flags.methods, file.module))
  workdir = epath.Path(flags.workdir).expanduser()
  passing = ("checkpoint.", "data.data_dir")  # where data lies and how often is saved makes no other sweep
  kept = {o.key: o.value for o in overrides if not o.key.startswith(passing)}
  base = {"config": flags.config, "overrides": kept, "seeds": seeds}
  base["data"] = runs[0].built.identity["data"]["digest"]
  _workdir.claim(workdir, "sweep.json", base, flags.overwrite, LEFT)
  _environment.quiet()
  _environment.use_compilation_cache(flags.compilation_cache)
  todo = groups(runs)
  for n, group in enumerate(todo):
    if not (workdir / "groups" / group_folder(group, seeds)).exists():
      # A grid that grew: what has finished is kept, only the new points run.
      group = [r for r in group if not (workdir / "runs" / r.folder / "result.json").exists()]
    if len(collect(group, workdir)[0]) < len(group):
      run_group(group, seeds, workdir, stop, f"[{n + 1}/{len(todo)}] {group[0].built.arguments['method']}")
      write_rows(workdir, *collect(runs, workdir))
  finished, found = collect(runs, workdir)
  write_rows(workdir, finished, found)
  for run, result in zip(finished, found, strict=True):
    _draw(workdir / "runs" / run.folder / "accuracy_matrix.png", lambda path, r=result: _plots.accuracy_matrix(r, path))
  labels = [r.label for r in finished]
  _plots.comparison(found, labels, workdir / "comparison.png")
  print(results.table(found, labels))
  return 0


def _draw(path: epath.Path, draw) -> None:
  if not path.exists():
    draw(path)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _cli.guarded(_sweep, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
