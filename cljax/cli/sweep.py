"""Sweeps methods and hyper-parameters.

``python -m launch.sweep --config=FILE --grid='method.strength=[1,10,100]' --seeds=5 --workdir=DIR``

Configurations that differ only in float hyper-parameters become one population: one compilation, one run. Run it again
with more seeds or a larger grid, and only what is new runs. ``--dry_run`` shows the plan; ``--executor=local
--workers=4`` trains in worker processes, ``--executor=slurm --slurm.partition=NAME`` in jobs of a cluster.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

from absl import flags as absl_flags
from etils import epath

from cljax import UsageError
from cljax.cli import _config, _environment, _grid, _registered, _rows, _shared, _values, _workdir
from cljax.cli.reporting import _plots
from cljax.cli.sweeps import _executors, _plan, _slurm, _units
from cljax.cli.sweeps._plan import Run, Unit
from cljax.evaluation import results
from cljax.io import trackers

LEFT = ("sweep.json", "rows.jsonl", "comparison.png", "runs", "groups", "slurm", "code", "launch.json")
EXECUTORS = ("process", "local", "slurm")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{k}i": 1024 ** (i + 1) for i, k in enumerate("KMGT")}


def parse_bytes(text: str) -> int:
  """``'2e9'``, ``'500MB'`` or ``'4GiB'`` as a number of bytes. Raises UsageError."""
  found = re.fullmatch(r"\s*([0-9.]+(?:[eE]\+?[0-9]+)?)\s*([KMGT]i?)?B?\s*", text)
  try:
    count = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
  except (ValueError, OverflowError):
    count = 0
  if count < 1:
    raise UsageError(f"max_bytes: got {text!r}; expected a number of bytes such as 500MB, 4GiB or 2e9")
  return count


def _flags() -> absl_flags.FlagValues:
  flags = _shared.common_flags()
  absl_flags.DEFINE_multi_string("grid", [], "KEY=[VALUE,...]; several make a product.", flag_values=flags)
  absl_flags.DEFINE_list(
    "methods",
    [],
    "Short for --grid='method.name=[...]'; all, all:replay, all:no_rows: those that fit.",
    flag_values=flags,
  )
  absl_flags.DEFINE_bool("dry_run", False, "Print what would be trained, and its memory; train nothing.", flags)
  absl_flags.DEFINE_string(
    "max_bytes", "", "Cut populations so that their states fit, such as 4GiB.", flag_values=flags
  )
  absl_flags.DEFINE_enum(
    "executor", "process", EXECUTORS, "This process, local processes, or SLURM.", flag_values=flags
  )
  absl_flags.DEFINE_list("log_to", [], "Metrics also to: tensorboard, wandb.", flag_values=flags)
  absl_flags.DEFINE_integer("workers", 0, "Processes of --executor=local (0: one a core).", 0, flag_values=flags)
  return flags


def collect(runs: Sequence[Run], workdir: epath.Path) -> tuple[list[Run], list[dict]]:
  """The runs that have finished for some seed, and their results."""
  found = [(r, results.read(workdir / "runs" / r.folder / "result.json")) for r in runs]
  done = [(r, result) for r, result in found if result is not None]
  return [r for r, _ in done], [result for _, result in done]


def run(
  argv: Sequence[str], stop: _shared.Stop, points: Sequence[_grid.Point] = (), file: _config.File | None = None
) -> int:
  """The program, with errors as exceptions; returns the exit code. ``points`` stand in the place of ``--grid``,
  ``file`` in that of ``--config`` where it was read before: what it registers can be registered once."""
  flags = _flags()
  given = _shared.parse(argv, flags, __doc__ or "")
  overrides = [o for o in given if not o.key.startswith("slurm.")]
  options = [o for o in given if o.key.startswith("slurm.")]
  seeds = _values.parse_seeds(flags.seeds)
  most = parse_bytes(flags.max_bytes) if flags.max_bytes else 0
  workdir = epath.Path(flags.workdir).expanduser()
  _check(flags, options, workdir)
  os.environ[_environment.LOG_TO] = ",".join(trackers.check(flags.log_to))
  file = _config.read_file(flags.config, several=True) if file is None else file
  names, drawn = (flags.methods, set()) if hasattr(file.module, "preset_points") else _grid.named(flags.methods)
  points = points or _grid.points(flags.grid, names, file.module)
  runs = _plan.plan(file, overrides, points, _units.say, drawn)
  if any(not r.built.arguments["options"].checkpoint_keep_ids for r in runs):
    raise UsageError("checkpoint.keep_ids: got False, but a sweep names its configurations; launch.train keeps none")
  sizes: dict[str, _plan.Size] = {}

  def size(folder: str) -> _plan.Size:
    if folder not in sizes:
      sizes[folder] = _plan.size(next(r for r in runs if r.folder == folder))
    return sizes[folder]

  fit = (lambda group: _plan.capacity(group[0].label, size(group[0].folder), most)) if most else None
  begun = lambda folder: _plan.has_begun(folder, _slurm.submitted)
  _environment.quiet()
  if flags.dry_run:
    todo = _plan.units(runs, seeds, workdir, begun, fit)
    # The runs of a unit have states of one shape.
    known = {r.folder for r in runs}
    print(
      _plan.table(runs, seeds, workdir, todo, [size(next(f for f in u.content["runs"] if f in known)) for u in todo])
    )
    return 0
  _claim(workdir, flags, overrides, runs)
  _rows.check_grown(workdir, runs, seeds)
  _registered.remember(workdir, flags.config)
  _environment.use_compilation_cache(flags.compilation_cache)
  with _workdir.exclusive(workdir):
    _plan.check_older(workdir, runs, seeds)
    for line in _plan.drop_edited(workdir, runs):
      _units.say(line)
    todo = _plan.units(runs, seeds, workdir, begun, fit)
    _plan.settle(workdir, todo, begun)
    _units.rebuild_rows(workdir)
  failed = _train(flags, workdir, todo, options, stop)
  with _workdir.exclusive(workdir):
    _units.rebuild_rows(workdir)
  finished, found = collect(runs, workdir)
  if found:
    _show(workdir, finished, found)
  if failed:
    _units.say(
      f"error: {failed} of {len(todo)} populations did not finish; run the same command again to try them anew"
    )
  return 1 if failed else 0


def _check(flags, options: Sequence[_config.Override], workdir: epath.Path) -> None:
  if flags.workers and flags.executor != "local":
    raise UsageError(f"workers: got {flags.workers} with --executor={flags.executor}; expected --executor=local")
  if options and flags.executor != "slurm":
    raise UsageError(f"--{options[0].key}: got it with --executor={flags.executor}; expected --executor=slurm")
  if flags.executor != "process" and not _workdir.is_local(workdir):
    raise UsageError(
      f"workdir: {workdir} has no exclusive files; expected a folder of a file system for several processes"
    )


def _claim(workdir: epath.Path, flags, overrides: Sequence[_config.Override], runs: Sequence[Run]) -> None:
  # Where data lies and how often is saved makes no other sweep.
  passing = ("checkpoint.", "data.data_dir")
  kept = {o.key: o.value for o in overrides if not o.key.startswith(passing)}
  base = {"config": flags.config, "overrides": kept, "data": runs[0].built.identity["data"]["digest"]}
  told = (_workdir.read_json(workdir / "sweep.json") or {}).get("overrides", {})
  # What no run reads says nothing of it: a method that comes later may lack an option that was given.
  mute = [k for k in {*kept, *told} if k not in kept or k not in told if _unread(k, kept, told, runs, workdir)]
  heard = lambda held: {k: v for k, v in held.get("overrides", {}).items() if k not in mute}
  without = lambda held: {**{k: v for k, v in held.items() if k != "seeds"}, "overrides": heard(held)}
  _workdir.claim(workdir, "sweep.json", base, flags.overwrite, LEFT, without)


def _unread(key: str, given, told, runs: Sequence[Run], workdir: epath.Path) -> bool:
  """Whether an override that one of two launches lacks is, in the runs of that launch, not read or what they have."""
  section, _, field = key.partition(".")
  if section not in ("method", "forget"):
    return False
  if key in told:
    others, value = [r.built.identity for r in runs], told[key]
  else:
    others = [about["identity"] for u in _plan.on_disk(workdir) for about in u.content["runs"].values()]
    value = given[key]
  return all(field not in i[section] or str(i[section][field]) == str(value) for i in others)


def _train(flags, workdir: epath.Path, todo: Sequence[Unit], options, stop: Callable[[], bool]) -> int:
  """Runs the units by the executor that was asked for; returns how many did not finish and nobody holds."""
  held: dict[str, str] = {}
  if not todo:
    return 0
  if flags.executor == "local":
    workers = flags.workers or _environment.processors()
    _executors.local(workdir, todo, workers, flags.compilation_cache, stop)
  elif flags.executor == "slurm":
    _slurm.run(workdir, todo, flags.config, flags.compilation_cache, options, stop)
  else:
    _, held = _units.work(workdir, todo, stop, live=True)
  return _executors.outcome(workdir, todo, held)


def _show(workdir: epath.Path, finished: Sequence[Run], found: Sequence[dict]) -> None:
  """Prints the table, then draws the pictures: nobody waits for those."""
  labels = [r.label for r in finished]
  print(results.table(found, labels))
  print(_shared.where(workdir, "rows.jsonl, runs/, groups/", "report"), flush=True)
  for run, result in zip(finished, found, strict=True):
    path = workdir / "runs" / run.folder / _plots.picture(result)
    if not path.exists():
      _plots.matrix(result, path)
  _plots.comparison(found, labels, workdir / "comparison.png")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(run, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
