"""Runs benchmark suites and records them.

``python -m launch.benchmark --suite=transforms,projectors [--repeats=15] [--out=experiments/results/benchmarks]``

Ratios within one run, medians with quartiles; each suite writes NAME.json and NAME.md (and NAME.png where it draws).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from cljax.cli import _environment

_environment.prepare(__name__)

from absl import flags as absl_flags  # noqa: E402

from cljax import Stopped, UsageError  # noqa: E402
from cljax.cli import _shared  # noqa: E402
from cljax.io import files  # noqa: E402
from experiments import benchmarks  # noqa: E402


def record(name: str, repeats: int, out: str, report=print) -> benchmarks.Table:
  """Runs one suite, prints its table and writes its files into ``out``."""
  before, start = benchmarks.machine(), time.time()
  table = benchmarks.load(name).suite(report, repeats)
  text = benchmarks.markdown(table.rows)
  report(f"\n{table.title}\n\n{text}\n" + "".join(f"\n- {note}" for note in table.notes))
  os.makedirs(out, exist_ok=True)
  base = os.path.join(out, name)
  command = f"python -m launch.benchmark --suite={name} --repeats={repeats}"
  content = {"suite": name, "title": table.title, "command": command, "seconds": round(time.time() - start, 1)}
  content |= {"machine": before, "rows": table.rows, "notes": table.notes}
  with open(base + ".json", "w") as file:
    file.write(files.dumps(content, indent=1) + "\n")
  hardware = ", ".join(f"{k} {v}" for k, v in before.items() if v != "")
  notes = "".join(f"- {note}\n" for note in table.notes)
  picture = f"\n![{name}]({name}.png)\n" if table.plot else ""
  with open(base + ".md", "w") as file:
    file.write(f"# {table.title}\n\n`{command}`: {hardware}\n\n{text}\n\n{notes}{picture}")
  if table.plot:
    table.plot(base + ".png")
  return table


def _benchmark(argv: Sequence[str], stop: _shared.Stop) -> int:
  values = absl_flags.FlagValues()
  known = ", ".join(benchmarks.names())
  absl_flags.DEFINE_list("suite", [], f"Suites to run, of: {known}.", flag_values=values)
  absl_flags.DEFINE_integer("repeats", 15, "Rounds of each paired comparison.", flag_values=values)
  absl_flags.DEFINE_string("out", "experiments/results/benchmarks", "Folder of the records.", flag_values=values)
  absl_flags.DEFINE_string("compilation_cache", _environment.CACHE, "Folder of compiled programs.", flag_values=values)
  _shared.parse(argv, values, __doc__ or "")
  unknown = [name for name in values.suite if name not in benchmarks.names()]
  if unknown or not values.suite:
    raise UsageError(f"suite: {f'unknown {unknown[0]!r}' if unknown else 'not given'}; allowed: {known}")
  if values.repeats < 3:
    raise UsageError(f"repeats: got {values.repeats}; expected at least 3")
  _environment.use_compilation_cache(values.compilation_cache)
  for name in values.suite:
    record(name, values.repeats, values.out, lambda line: print(line, flush=True))
    if stop():
      raise Stopped(f"after suite {name}")
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_benchmark, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
