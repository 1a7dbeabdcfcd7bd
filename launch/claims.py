"""Runs the claims ledger and records its verdicts.

``python -m launch.claims [--only=ewc,spectral] [--quick] [--jobs=2] [--out=experiments/claims]``

Each claim is measured with its own seeds, and its verdict follows from confidence intervals alone. RESULTS.json keeps
what was measured, with versions and hardware; RESULTS.md is drawn from it. A claim that was not run this time keeps its
earlier record.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from cljax.cli import _environment

_environment.prepare(__name__)

from absl import flags as absl_flags  # noqa: E402

from cljax import CljaxError, Stopped, UsageError  # noqa: E402
from cljax.cli import _shared  # noqa: E402
from cljax.io import files  # noqa: E402
from experiments import benchmarks, claims  # noqa: E402

FAILED = "failed"


def measure(name: str, cache: str = "") -> dict[str, Any]:
  """One claim, measured: its record for RESULTS.json. An error becomes a record of verdict 'failed'."""
  _environment.quiet()
  _environment.use_compilation_cache(cache)
  start = time.time()
  module = claims.load(name)
  claim = module.CLAIM
  record = {k: v for k, v in claim._asdict().items() if k != "quick"}
  try:
    measured = module.measure(claim.seeds)
    found = {k: claims.interval(v) for k, v in measured.effects.items()}
    record["verdict"] = claims.verdict(found.values())
    record["effects"] = {k: {**i._asdict(), "values": measured.effects[k]} for k, i in found.items()}
    record["figures"] = dict(measured.figures)
  except Exception as error:
    traceback.print_exc()
    record |= {"verdict": FAILED, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
  return record | {"seconds": round(time.time() - start, 1), "machine": benchmarks.machine()}


def _worker(processors: int) -> None:
  os.environ["NPROC"] = str(processors)


def run(names: Sequence[str], jobs: int, cache: str, stop=lambda: False):
  """Measures claims in ``jobs`` processes; yields (name, record) as they finish."""
  if jobs == 1:
    for name in names:
      if stop():
        raise Stopped("between claims")
      yield name, measure(name, cache)
    return
  context = multiprocessing.get_context("spawn")
  share = max(1, _environment.processors() // jobs)
  with concurrent.futures.ProcessPoolExecutor(jobs, context, _worker, (share,)) as pool:
    pending = {pool.submit(measure, name, cache): name for name in names}
    for done in concurrent.futures.as_completed(pending):
      if stop():
        pool.shutdown(cancel_futures=True)
        raise Stopped("between claims")
      yield pending[done], done.result()


def read(out: str) -> dict[str, Any]:
  """The records on disk by claim name; empty where there are none. Raises UsageError for a file that is not JSON."""
  path = os.path.join(out, "RESULTS.json")
  if not os.path.exists(path):
    return {}
  with open(path) as file:
    try:
      return json.load(file)
    except ValueError as error:
      raise UsageError(f"out: {path} is not JSON ({error}); move it away") from error


def write(out: str, records: dict[str, Any]) -> None:
  os.makedirs(out, exist_ok=True)
  ordered = {name: records[name] for name in sorted(records)}
  for name, text in (("RESULTS.json", files.dumps(ordered, indent=1) + "\n"), ("RESULTS.md", render(ordered))):
    path = os.path.join(out, name)
    with open(path + ".part", "w") as file:
      file.write(text)
    os.replace(path + ".part", path)


def _number(value) -> str:
  if value is None:
    return "not finite"
  size = abs(value)
  return f"{value:.3g}" if value and (size < 0.1 or size >= 1e4) else f"{value:.1f}"


def _mean(values) -> str:
  finite = [v for v in values if v is not None]
  if not finite:
    return "diverged"
  lost = f" ({len(values) - len(finite)} diverged)" if len(finite) < len(values) else ""
  return _number(sum(finite) / len(finite)) + lost


def render(records: dict[str, Any]) -> str:
  """RESULTS.md from the records: a table of verdicts, then each claim with its protocol and its numbers."""
  counts = {v: sum(r["verdict"] == v for r in records.values()) for v in (*claims.VERDICTS, FAILED)}
  machines = sorted({", ".join(f"{k} {v}" for k, v in r["machine"].items() if k != "load") for r in records.values()})
  lines = [
    "# Claims",
    "",
    "Each claim is a sentence of its paper, tried on an embedded dataset at a small scale. Verdicts follow from 95%",
    "intervals over seeds alone: *holds* where every condition's interval lies above 0, *does not hold at this scale*",
    "where one lies at or below 0 or an arm diverged, else *inconclusive*.",
    "",
    "`python -m launch.claims`; " + ", ".join(f"{n} {v}" for v, n in counts.items() if n) + f"; "
    f"{sum(r['seconds'] for r in records.values()) / 60:.0f} minutes of one process in all.",
    "",
    *(f"- {m}" for m in machines),
    "",
    "| claim | paper | verdict | condition (claimed above 0) | mean [95% interval] | seeds | s |",
    "|---|---|---|---|---|---|---|",
  ]
  for name, r in records.items():
    effects = r.get("effects", {})
    conditions = "<br>".join(effects) or r.get("error", "")
    numbers = "<br>".join(f"{_number(e['mean'])} [{_number(e['low'])}, {_number(e['high'])}]" for e in effects.values())
    cells = (f"[{name}](#{name})", r["paper"], r["verdict"], conditions, numbers, r["seeds"], round(r["seconds"]))
    lines.append("| " + " | ".join(map(str, cells)) + " |")
  for name, r in records.items():
    lines += ["", f"## {name}", "", f"**{r['verdict']}**: {r['sentence']} ({r['paper']})", "", r["protocol"], ""]
    lines += [f"- {label}: {_mean(values)}" for label, values in r.get("figures", {}).items()]
  return "\n".join(lines) + "\n"


def _claims(argv: Sequence[str], stop: _shared.Stop) -> int:
  values = absl_flags.FlagValues()
  known = claims.names()
  absl_flags.DEFINE_list("only", [], f"Claims to run, of: {', '.join(known)}.", flag_values=values)
  absl_flags.DEFINE_bool("quick", False, "Run the quick subset only.", flag_values=values)
  absl_flags.DEFINE_integer("jobs", 1, "Processes side by side.", flag_values=values)
  absl_flags.DEFINE_string("out", "experiments/claims", "Folder of RESULTS.json and RESULTS.md.", flag_values=values)
  absl_flags.DEFINE_string("compilation_cache", _environment.CACHE, "Folder of compiled programs.", flag_values=values)
  _shared.parse(argv, values, __doc__ or "")
  for name in values.only:
    if name not in known:
      raise UsageError(f"only: unknown claim {name!r}; allowed: {', '.join(known)}")
  if values.jobs < 1:
    raise UsageError(f"jobs: got {values.jobs}; expected at least 1")
  chosen = values.only or [n for n in known if not values.quick or claims.load(n).CLAIM.quick]
  records, failed = read(values.out), []
  for done, (name, record) in enumerate(run(chosen, values.jobs, values.compilation_cache, stop), 1):
    records[name] = json.loads(files.dumps(record))
    write(values.out, {n: r for n, r in records.items() if n in known})
    failed += [name] if record["verdict"] == FAILED else []
    print(f"[{done}/{len(chosen)}] {name}: {record['verdict']} ({record['seconds']:.0f} s)", flush=True)
  if failed:
    raise CljaxError(f"claims that failed to run: {', '.join(sorted(failed))}")
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_claims, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
