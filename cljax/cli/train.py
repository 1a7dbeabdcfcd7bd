"""Trains one method over one stream.

``python -m launch.train --config=FILE --config.method.name=ewc --config.method.strength=10 --seeds=5 --workdir=DIR``

``python -m launch.train --workdir=DIR --extend --config.stream.tasks=6`` goes on with a run that is there, by events
that are appended to its own; what is not given is as it was.

On several machines the same command in each, with ``--mesh=data:8`` and ``--coordinator=HOST:PORT --num_processes=2
--process_id=0`` (or 1), or under srun without these three.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
from absl import flags as absl_flags
from etils import epath

from cljax import CljaxError, DivergedError, Member, Stopped, UsageError
from cljax.cli import _build, _config, _environment, _extended, _registered, _rows, _shared, _values, _workdir
from cljax.cli._progress import Log, Progress
from cljax.cli.reporting import _plots
from cljax.engine import mesh
from cljax.evaluation import results
from cljax.io import checkpoint, history, owner, row_log, sealing

LEFT = (
  "result.json", "config.json", "metrics.jsonl", *_plots.PICTURES, "checkpoints", "launch.json", history.FILE,
  row_log.FOLDER,
)  # fmt: skip


def _draw(result: dict, path: epath.Path, stop: _shared.Stop) -> None:
  if not path.exists() and not stop():
    _plots.matrix(result, path)


def run(argv: Sequence[str], stop: _shared.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  flags = _shared.common_flags()
  _shared.mesh_flags(flags)
  absl_flags.DEFINE_bool("extend", False, "Append events to the run in the workdir.", flag_values=flags)
  overrides = _shared.parse(argv, flags, __doc__ or "")
  seeds = _values.parse_seeds(flags.seeds)
  axes = mesh.parse(flags.mesh)
  workdir = epath.Path(flags.workdir).expanduser()
  if flags.extend and _rows.of(workdir):
    with _rows.adopted(workdir) as row:
      return _ended(row, _run(flags, overrides, seeds, axes, workdir, stop))
  return _run(flags, overrides, seeds, axes, workdir, stop)


def _run(flags, overrides, seeds: list[int], axes: Mapping[str, int], workdir: epath.Path, stop: _shared.Stop) -> int:
  before = _extended.held(workdir, flags, seeds) if flags.extend else None
  file = _config.read_file(flags.config) if flags.config or before is None else _extended.file_of(before)
  several = _environment.distribute(flags.coordinator, flags.num_processes, flags.process_id)
  if several and not axes:
    axes = {mesh.DATA: jax.device_count()}
  config = _config.resolve(file, overrides)
  if _config.no_requests(config):
    raise UsageError(_config.no_requests(config))
  if (before or _workdir.read_json(workdir / "config.json") or {}).get("answers"):
    # What was begun by launch.forget is brought to its end by whatever goes on with the run.
    config["checkpoint"]["purge_before_deletion"] = True
  if before is None:
    job = Job(_build.build(config) if flags.overwrite else _extended.whole(workdir, config), seeds, workdir, axes)
  else:
    seeds = before["seeds"]
    config["stream"]["forget"] = _extended.requests(before, config)
    job = Job(_extended.built(workdir, before, config), seeds, workdir, axes, True)
  return finish(job, flags, stop, several)


def _ended(row, code: int) -> int:
  """What a row's sweep is told when the row was extended."""
  _rows.tell(row)
  return code


class Job(NamedTuple):
  """A run and where it goes; ``extends``: it goes on with what is there."""

  built: _build.Built
  seeds: list[int]
  workdir: epath.Path
  axes: Mapping[str, int]
  extends: bool = False


def finish(
  job: Job, flags, stop: _shared.Stop, several: bool = False, begins: Callable[[], object] = lambda: None
) -> int:
  """Trains what is left of a run, or reads its result, and prints that; returns the exit code. ``begins`` is called
  when nothing can be refused any more, before the first step."""
  leads = not several or jax.process_index() == 0
  result, prepared = None, None

  def settle(leads: bool) -> tuple[dict, dict | None]:
    return _settle(job, flags, leads)

  with contextlib.ExitStack() as held:

    def hold(leads: bool) -> None:
      if leads:
        held.enter_context(owner.holding(os.fspath(job.workdir)))

    _environment.in_turn(hold, several)
    fresh = flags.overwrite or not any((job.workdir / name).exists() for name in LEFT)
    if job.extends:
      _environment.quiet()
      _environment.use_compilation_cache(flags.compilation_cache)
      prepared = _build.prepare(job.built, [Member(s) for s in job.seeds], job.axes or None)
      prepared.extends(os.fspath(job.workdir))
    identity, result = _environment.in_turn(settle, several)
    # As its checkpoints have it.
    job = job._replace(built=job.built._replace(identity={k: v for k, v in identity.items() if k != "seeds"}))
    if result is not None and leads and not history.read(job.workdir):
      _build.prepare(job.built, [Member(s) for s in job.seeds], job.axes or None).remember(job.workdir)
    if result is None:
      _environment.quiet()
      _environment.use_compilation_cache(flags.compilation_cache)
      begins()
      try:
        result = _train(job, stop, leads, prepared)
        for name in _plots.PICTURES if leads else ():  # of a shorter run
          _workdir.discard(job.workdir / name)
      except CljaxError as error:
        if job.extends and leads and not isinstance(error, Stopped):
          _extended.give_up(job.workdir, job.seeds)
        if fresh and leads and _never_began(job.workdir, error):  # the folder is no run's
          for name in LEFT:
            _workdir.discard(job.workdir / name)
        raise
  if not leads:
    return 0
  _draw(result, job.workdir / _plots.picture(result), stop)
  print(results.summary(result))
  print(_shared.where(job.workdir, "result.json, metrics.jsonl, checkpoints", "analyze"))
  return 0


def _never_began(workdir: epath.Path, error: CljaxError) -> bool:
  """Whether an attempt left nothing to go on from: it was refused, or diverged in its first event."""
  found = checkpoint.numbers(workdir / "checkpoints")
  if not found or not isinstance(error, DivergedError):
    return not found and not isinstance(error, Stopped)
  with contextlib.suppress(checkpoint.DamagedError):
    return not checkpoint.read_meta(workdir / "checkpoints", found[-1])["position"]["event"]
  return False


def _diverged(workdir: epath.Path) -> bool:
  """Whether the run in a workdir ended in numbers that are none: it has no result, and its log says so last."""
  log = workdir / "metrics.jsonl"
  if (workdir / "result.json").exists() or not log.exists():
    return False
  lines = log.read_text().splitlines()
  return bool(lines) and '"diverged"' in lines[-1]


def _settle(job: Job, flags, leads: bool) -> tuple[dict, dict | None]:
  """``(the configuration that the workdir holds, its result where it is finished)``."""
  workdir, mine = job.workdir, {**job.built.identity, "seeds": job.seeds}
  if not job.built.arguments["options"].checkpoint_keep_ids and not job.extends:
    mine = sealing.config(workdir, mine)
  if job.extends:
    if leads:
      _extended.claim(workdir, mine)
    held = mine
  else:
    over = flags.overwrite and leads
    held = _workdir.claim(workdir, "config.json", mine, over, LEFT, _config.essence, leads and _diverged(workdir))
  if leads and flags.config:
    _registered.remember(workdir, flags.config)
  result = results.read(workdir / "result.json")
  return held, result if result is not None and _extended.is_of(result, held) else None


def _train(job: Job, stop: _shared.Stop, leads: bool, prepared) -> dict:
  built, seeds, workdir, axes, _ = job
  progress = Progress(built.arguments["method"], len(built.stream.events))
  log = Log(workdir / "metrics.jsonl")

  def report(message: dict) -> None:
    log(message)
    progress(message)

  try:
    outcome = _build.execute(built, [Member(s) for s in seeds], workdir, report, stop, axes or None, prepared)
  finally:
    log.close()
    progress.clear()
  result = results.describe(
    outcome,
    config=built.identity,
    method=built.arguments["method"],
    stream=built.stream.name,
    kind=built.identity["stream"]["kind"],
    seeds=seeds,
    environment={
      **_environment.describe(),
      **({"mesh": ",".join(f"{k}:{v}" for k, v in axes.items())} if axes else {}),
    },
  )
  if leads:
    results.write(workdir / "result.json", result)
  return result


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(run, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
