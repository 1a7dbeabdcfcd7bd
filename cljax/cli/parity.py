"""Runs published settings and sets cljax beside what was published.

``python -m launch.parity --benchmark=permuted_mnist --methods=er,derpp --seeds=3``

METHOD is every published setting of a method, METHOD/SETTING one of them (``er/200``). The runs are a sweep in
``WORKDIR/BENCHMARK``: run it again with more seeds or methods, and only what is new trains. The table has every setting
of the benchmark that has finished there; one that a table in ``--out`` has and this folder has not keeps the row of
then. Writes BENCHMARK.md, BENCHMARK.json and BENCHMARK.png into ``--out``, and
README.md and all.png over all benchmarks whose tables lie there.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags as absl_flags
from etils import epath

from cljax import UsageError
from cljax.cli import _config, _environment, _parity_picture, _shared, presets, sweep
from cljax.cli.sweeps import _plan
from cljax.evaluation import results
from cljax.io import files, tables

AGREES, DIFFERS = "agrees", "differs"
AS_ONE = ", as one more run"
LIMIT = 2.0  # combined standard errors
OWN_STREAMS = "Each seed has a stream of its own (class order, permutations, angles): the spread is over orders too."
ONE_STREAM = "Seeds share one stream: the spread is of learners, not of orders."
HEAD = (
  "setting",
  "cljax",
  "runs",
  "published",
  "over runs",
  "difference",
  "in standard errors",
  "p",
  "verdict",
  "seconds",
)


class Judged(NamedTuple):
  """A difference of two means, its standard error, both in the values' unit; how many of the latter the former is;
  Welch's two-sided p; and the verdict. None for what cannot be told."""

  difference: float | None
  error: float | None
  ratio: float | None
  p: float | None
  verdict: str


def judge(values: Sequence[float], other: presets.Published | None) -> Judged:
  """``(mean - M) / sqrt(s^2 / n + S^2 / m)`` of our ``n`` values against a published mean M, deviation S over m runs.

  A deviation is of single runs, so that of a mean over m runs is S / sqrt(m), as ours is s / sqrt(n) with
  ``s = std(ddof=1)``. 'agrees' within :data:`LIMIT`. p is Welch's: with few runs two standard errors are passed by
  chance more often than in 5 of 100 cases. Where m is not published it is 1, and where S is not, it is s: the value is
  then one more run, which varies as ours do, known to its last digit; the verdict says so.
  """
  v = np.asarray(values, float)
  if other is None:
    return Judged(None, None, None, None, "no published value at hand")
  if not other.is_final:
    return Judged(None, None, None, None, f"not compared: the published value is {other.metric!r}")
  if not len(v) or not np.isfinite(v).all():
    return Judged(None, None, None, None, "not compared: a run diverged")
  difference = float(v.mean() - other.mean)
  if len(v) < 2:
    return Judged(difference, None, None, None, "not judged: one run has no deviation")
  spread, runs = other.deviation, other.runs
  if spread is None or not runs:
    ours, theirs = v.var(ddof=1) / len(v), v.var(ddof=1) if spread is None else spread**2
    error = math.sqrt(ours + theirs)
    rounded = 0.0 if spread is not None else other.digit / 2
    near = abs(difference) <= LIMIT * error + rounded + 1e-9
    verdict = (AGREES if near else DIFFERS) + AS_ONE
    return Judged(difference, error, difference / error if error else None, None, verdict)
  ours, theirs = v.var(ddof=1) / len(v), spread**2 / runs
  error = math.sqrt(ours + theirs)
  if error == 0:
    return Judged(difference, 0.0, None, None, DIFFERS if difference else AGREES)
  ratio = difference / error
  p = None
  if runs > 1:
    from scipy import stats

    # Welch and Satterthwaite: how many degrees of freedom the sum of both variances has.
    freedom = error**4 / (ours**2 / (len(v) - 1) + theirs**2 / (runs - 1))
    p = float(2 * stats.t.sf(abs(ratio), freedom))
  return Judged(difference, error, ratio, p, AGREES if abs(ratio) <= LIMIT else DIFFERS)


def row_of(preset: presets.Preset, result: dict[str, Any], changed: Sequence[str] = ()) -> dict[str, Any]:
  """A row of the JSON file: what was measured and what was published, in percent, and how they compare.

  ``changed``: ``KEY=VALUE`` of fields that were given another value than the preset's; then nothing is judged.
  """
  alive = result.get("alive") or [True] * len(result["seeds"])
  found = [v for v, ok in zip(result["metrics"]["acc"]["values"], alive, strict=True) if ok and v is not None]
  values = [100.0 * v for v in found] if len(found) == len(alive) else []
  judged = judge(values, preset.published)
  if changed:
    judged = Judged(None, None, None, None, f"not compared: {', '.join(changed)}")
  elif not values:
    judged = judged._replace(verdict="not compared: a run diverged")
  spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
  seeds = ",".join(map(str, result["seeds"]))
  more = "".join(f" --config.{shlex.quote(field)}" for field in changed)
  return {
    "preset": preset.name,
    "command": f"python -m launch.train --config={presets.PREFIX}:{preset.name}{more} --seeds='{seeds}' --workdir=DIR",
    "seeds": result["seeds"],
    "values": values,
    "mean": float(np.mean(values)) if values else None,
    "deviation": spread,
    "stderr": None if spread is None else spread / math.sqrt(len(values)),
    "published": None if preset.published is None else preset.published._asdict(),
    "setting_source": preset.row["config_source"],
    "note": preset.row["note"],
    "differs": list(preset.differs),
    **judged._asdict(),
    "seconds": round(sum(result["seconds"].values()), 1),
    "population": result["population"],
  }


def _setting(row: dict[str, Any]) -> str:
  return row["preset"].partition("/")[2]


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
  """What has to be said below the table."""
  out = [
    "Accuracy in percent, the mean over tasks after the last one. cljax: mean ± standard error over its runs, "
    "std(ddof=1) / √runs. Published: mean ± standard deviation over the published runs, as the source has it.",
    "In standard errors: the difference over √(s²/n + S²/m), s and n ours, S and m published: both deviations are "
    f"divided by the root of their runs before they are added. agrees: at most {LIMIT:g} of them. p: Welch's t-test, "
    "two-sided; with few runs two standard errors are passed by chance more often than in 5 of 100 cases.",
    "Sources do not say whether their deviation divides by m or m - 1; it is taken as m - 1. Otherwise their standard "
    "error is larger by √(m / (m - 1)), 5 % at 10 runs.",
    f"{AS_ONE.removeprefix(', ')}: no number of runs is published, or no deviation either, which is then taken to be "
    "ours; half of its last digit is added to what is allowed.",
    "A published value is quoted only where the table of presets holds it with its source.",
    "Seconds are those of all runs that were trained together, compiling and evaluating included.",
  ]
  for own, text in ((True, OWN_STREAMS), (False, ONE_STREAM)):
    ours = [r for r in rows if bool(presets.find(r["preset"]).sections["stream"].get("per_seed")) == own]
    if ours:
      out.append(text if len(ours) == len(rows) else f"{text} ({', '.join(map(_setting, ours))})")
  for text in dict.fromkeys(t for r in rows for t in r["differs"]):
    those = [_setting(r) for r in rows if text in r["differs"]]
    out.append(f"Otherwise than the source ({'all' if len(those) == len(rows) else ', '.join(those)}): {text}.")
  sources = dict.fromkeys(r["published"]["source"] for r in rows if r["published"])
  out += [f"Published values: {s}." for s in sources]
  out += [f"Settings: {s}." for s in dict.fromkeys(r["setting_source"].rsplit(":", 1)[0] for r in rows)]
  return out


def cells(row: dict[str, Any]) -> tuple[str, ...]:
  """A row of :data:`HEAD`."""
  number = lambda v, form: "" if v is None else format(v, form)
  mine = "" if row["mean"] is None else f"{row['mean']:.2f}"
  mine += "" if row["stderr"] is None else f" ± {row['stderr']:.2f}"
  other = row["published"] or {"mean": None, "deviation": None, "runs": None}
  theirs = number(other["mean"], ".2f") + ("" if other["deviation"] is None else f" ± {other['deviation']:.2f}")
  return (
    _setting(row), mine, str(len(row["seeds"])), theirs, str(other["runs"] or ""),
    number(row["difference"], "+.2f"), number(row["ratio"], "+.1f"), number(row["p"], ".2g"), row["verdict"],
    f"{row['seconds']:.0f}",
  )  # fmt: skip


def markdown(content: dict[str, Any], picture: str) -> str:
  """The table with its foot, the commands, and the picture."""
  body = tables.markdown(HEAD, [cells(r) for r in content["rows"]])
  commands = "\n".join(r["command"] for r in content["rows"])
  foot = "\n".join(f"- {text}" for text in content["notes"])
  by: dict[str, list] = {}
  for r in content["rows"]:
    hardware = ", ".join(f"{k} {v}" for k, v in r.get("environment", content["environment"]).items())
    by.setdefault(hardware, []).append(_setting(r))
  foot += "".join(f"\n- {told}{'' if len(by) == 1 else ': ' + ', '.join(those)}" for told, those in by.items())
  return (
    f"# {content['benchmark']}: cljax beside what was published\n\n`{content['command']}`\n\n" + "\n".join(body)
    + f"\n\n{foot}\n\n![published against measured]({picture})\n\n```bash\n{commands}\n```\n"
  )  # fmt: skip


def _flags() -> absl_flags.FlagValues:
  flags = absl_flags.FlagValues()
  known = ", ".join(presets.benchmarks())
  absl_flags.DEFINE_string("benchmark", "", f"One of {known}.", flag_values=flags)
  absl_flags.DEFINE_list("methods", [], "METHOD or METHOD/SETTING; all without.", flag_values=flags)
  absl_flags.DEFINE_string("seeds", "3", "A number of seeds or a list such as 3,7.", flag_values=flags)
  absl_flags.DEFINE_string("out", "experiments/results/parity", "Folder of table and picture.", flag_values=flags)
  absl_flags.DEFINE_string("workdir", "runs/parity", "The sweep lies in its folder BENCHMARK.", flag_values=flags)
  absl_flags.DEFINE_string("data_dir", "", "Where the data lies.", flag_values=flags)
  absl_flags.DEFINE_string(
    "compilation_cache", _environment.CACHE, "Folder of compiled programs; empty for none.", flag_values=flags
  )
  # Its overrides scale a benchmark down, to try it: nothing is judged then.
  absl_flags.DEFINE_string("config", "", "Not given here: only --config.SECTION.FIELD=VALUE.", flag_values=flags)
  return flags


def _parity(argv: Sequence[str], stop: _shared.Stop) -> int:
  flags = _flags()
  overrides = _shared.parse(argv, flags, __doc__ or "")
  if flags.config:
    raise UsageError(f"config: got {flags.config!r}; expected --benchmark of {', '.join(presets.benchmarks())}")
  presets.chosen(flags.benchmark, flags.methods)
  workdir = os.path.join(flags.workdir, flags.benchmark)
  if flags.data_dir:
    overrides = [*overrides, _config.Override("data.data_dir", flags.data_dir, True)]
  given = [
    f"--config={presets.PREFIX}:{flags.benchmark}", f"--seeds={flags.seeds}", f"--workdir={workdir}",
    f"--compilation_cache={flags.compilation_cache}", *(f"--config.{o.key}={o.value}" for o in overrides),
  ]  # fmt: skip
  if flags.methods:
    given.append(f"--methods={','.join(flags.methods)}")
  code = sweep.run([argv[0], *given], stop)
  rows, environment = collected(flags.benchmark, overrides, epath.Path(workdir).expanduser())
  if rows:
    shown = [w for w in argv[1:] if not w.startswith(("--data_dir", "--compilation_cache", "--workdir", "--out"))]
    command = " ".join(["python -m launch.parity", *shown])
    tried = any(o.key != "data.data_dir" for o in overrides) and not flags["out"].present
    out = epath.Path(flags.workdir if tried else flags.out).expanduser()  # a trial replaces no row that was judged
    rows = with_earlier(rows, environment, out / f"{flags.benchmark}.json", flags.benchmark)
    content = {"benchmark": flags.benchmark, "command": command, "rows": rows, "notes": notes(rows)}
    write(out, {**content, "environment": environment})
  return code


def collected(benchmark: str, overrides: Sequence[_config.Override], workdir: epath.Path):
  """``(rows, environment)`` of every setting of a benchmark that has finished in the workdir of its sweep."""
  file = _config.read_file(f"{presets.PREFIX}:{benchmark}", several=True)
  all_of_it = presets.chosen(benchmark)
  changed = [f"{o.key}={o.value}" for o in overrides if o.key != "data.data_dir"]
  rows, environment = [], {}
  for preset, run in zip(all_of_it, _plan.plan(file, overrides, presets.points(benchmark)), strict=True):
    result = results.read(workdir / "runs" / run.folder / "result.json")
    if result is not None:
      rows.append(row_of(preset, result, changed))
      environment = {**result["versions"], **result["environment"]}
  return rows, environment


def with_earlier(rows: Sequence[dict[str, Any]], environment: dict[str, str], table: epath.Path, benchmark: str):
  """The rows, and those of an earlier table for settings that are not among them, in the order of the presets; each
  says under what it was measured."""
  mine = {r["preset"]: {**r, "environment": environment} for r in rows}
  earlier = json.loads(table.read_text()) if table.exists() else {"rows": []}
  for row in earlier["rows"]:
    mine.setdefault(row["preset"], {"environment": earlier.get("environment", {}), **row})
  return [mine[p.name] for p in presets.chosen(benchmark) if p.name in mine]


def write(out: epath.Path, content: dict[str, Any]) -> None:
  """Prints the table and writes the three files."""
  out.mkdir(parents=True, exist_ok=True)
  base = content["benchmark"]
  files.write_text(out / f"{base}.json", files.dumps(content, indent=1) + "\n")
  text = markdown(content, f"{base}.png")
  files.write_text(out / f"{base}.md", text)
  _parity_picture.draw(content, out / f"{base}.png")
  together(out)
  print("\n".join(line for line in text.splitlines() if line.startswith(("|", "- "))))
  print(f"written: {os.fspath(out / base)}.md, .json and .png; all benchmarks there: README.md, all.png")


def together(out: epath.Path) -> None:
  """One page and one picture of all benchmarks whose tables lie in a folder: how many rows agree, and which do not."""
  found = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
  kinds = lambda rows: [sum(r["verdict"].startswith(word) for r in rows) for word in (AGREES, DIFFERS)]
  body, apart = [], []
  for content in found:
    rows = content["rows"]
    judged = kinds(rows)
    counted = [*judged, len(rows) - sum(judged)]
    body.append([f"[{content['benchmark']}]({content['benchmark']}.md)", str(len(rows)), *map(str, counted)])
    apart += [
      f"- {content['benchmark']}, {cells(r)[0]}: {cells(r)[1]} for {cells(r)[3]}; otherwise than the source: "
      f"{'; '.join(r['differs']) or 'nothing that is known'}"
      for r in rows
      if r["verdict"].startswith(DIFFERS)
    ]
  table = tables.markdown(("benchmark", "rows", AGREES, DIFFERS, "not judged"), body)
  told = ["", "Rows that differ:", "", *apart] if apart else []
  lines = ["# cljax beside what was published", "", "![published against measured](all.png)", "", *table, *told]
  files.write_text(out / "README.md", "\n".join(lines) + "\n")
  _parity_picture.together(found, out / "all.png")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_parity, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
