"""One process of a sweep: takes units of a workdir, one after the other, until none is left that nobody works on.

``python -m cljax.cli.sweeps.worker --workdir=DIR --units=NAME,NAME``; started by a sweep, here or on a cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cljax.cli import _environment

_environment.prepare(__name__)

from absl import flags as absl_flags  # noqa: E402
from etils import epath  # noqa: E402

from cljax import UsageError  # noqa: E402
from cljax.cli import _shared  # noqa: E402
from cljax.cli.sweeps import _plan, _units  # noqa: E402


def _work(argv: Sequence[str], stop: _shared.Stop) -> int:
  flags = absl_flags.FlagValues()
  absl_flags.DEFINE_string("workdir", "", "The workdir of a sweep.", flag_values=flags)
  absl_flags.DEFINE_list("units", [], "Names of the units to work on.", flag_values=flags)
  absl_flags.DEFINE_string("compilation_cache", _environment.CACHE, "Folder of compiled programs.", flag_values=flags)
  _shared.parse(argv, flags, __doc__ or "")
  workdir = epath.Path(flags.workdir).expanduser()
  found = {u.name: u for u in _plan.on_disk(workdir)}
  if not flags.units:
    raise UsageError("units: not given; expected names of folders in groups/ of the workdir")
  _environment.quiet()
  _environment.use_compilation_cache(flags.compilation_cache)
  # Others may have planned anew meanwhile, and have taken units away.
  units = [found[name] for name in flags.units if name in found]
  failed, _ = _units.work(workdir, units, stop, live=False)
  return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_work, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
