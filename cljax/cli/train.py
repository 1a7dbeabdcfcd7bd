"""Trains one method over one stream.

``python -m launch.train --config=FILE --config.method.name=ewc --config.method.strength=10 --seeds=5 --workdir=DIR``

On several machines the same command in each, with ``--mesh=data:8`` and ``--coordinator=HOST:PORT --num_processes=2
--process_id=0`` (or 1), or under srun without these three.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import jax
from etils import epath

from cljax import Member, UsageError
from cljax.cli import _build, _config, _environment, _registered, _shared, _values, _workdir
from cljax.cli._progress import Log, Progress
from cljax.cli.reporting import _plots
from cljax.engine import mesh
from cljax.evaluation import results

LEFT = ("result.json", "config.json", "metrics.jsonl", *_plots.PICTURES, "checkpoints", "launch.json")


def _draw(result: dict, path: epath.Path, stop: _shared.Stop) -> None:
  if not path.exists() and not stop():
    _plots.matrix(result, path)


def run(argv: Sequence[str], stop: _shared.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  flags = _shared.common_flags()
  _shared.mesh_flags(flags)
  overrides = _shared.parse(argv, flags, __doc__ or "")
  seeds = _values.parse_seeds(flags.seeds)
  axes = mesh.parse(flags.mesh)
  file = _config.read_file(flags.config)
  several = _environment.distribute(flags.coordinator, flags.num_processes, flags.process_id)
  if several and not axes:
    axes = {mesh.DATA: jax.device_count()}
  config = _config.resolve(file, overrides)
  if _config.no_requests(config):
    raise UsageError(_config.no_requests(config))
  built = _build.build(config)
  workdir = epath.Path(flags.workdir).expanduser()
  mine = {**built.identity, "seeds": seeds}
  fresh = flags.overwrite or not any((workdir / name).exists() for name in LEFT)

  def settle(leads: bool) -> tuple[dict, dict | None]:
    overwrite = flags.overwrite and leads
    held = _workdir.claim(workdir, "config.json", mine, overwrite, LEFT, _config.essence)
    if leads:
      _registered.remember(workdir, flags.config)
    return held, results.read(workdir / "result.json")

  held, result = _environment.in_turn(settle, several)
  leads = not several or jax.process_index() == 0
  built = built._replace(identity={k: v for k, v in held.items() if k != "seeds"})  # as its checkpoints have it
  if result is None:
    _environment.quiet()
    _environment.use_compilation_cache(flags.compilation_cache)
    try:
      result = _train(built, seeds, workdir, stop, axes, leads)
    except UsageError:
      if fresh and leads and not (workdir / "checkpoints").exists():  # refused: the folder is no run's
        for name in LEFT:
          _workdir.discard(workdir / name)
      raise
  if not leads:
    return 0
  _draw(result, workdir / _plots.picture(result), stop)
  print(results.summary(result))
  return 0


def _train(built: _build.Built, seeds: list[int], workdir: epath.Path, stop: _shared.Stop, axes, leads: bool) -> dict:
  progress = Progress(built.arguments["method"], len(built.stream.events))
  log = Log(workdir / "metrics.jsonl")

  def report(message: dict) -> None:
    log(message)
    progress(message)

  try:
    outcome = _build.execute(built, [Member(s) for s in seeds], workdir, report, stop, axes or None)
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
