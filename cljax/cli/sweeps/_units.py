"""Runs units: one population each, by whoever owns it; keeps ``result.json`` of every run and the sweep's rows."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from etils import epath

from cljax import CljaxError, Stopped, metrics
from cljax.cli import _build, _environment, _registered, _shared, _workdir
from cljax.cli._progress import Log, Progress
from cljax.cli.reporting import _plots
from cljax.cli.sweeps import _ahead, _plan
from cljax.cli.sweeps._plan import Unit
from cljax.evaluation import evaluations, results
from cljax.io import files, formats, trackers
from cljax.io import owner as _owner


def say(text: str) -> None:
  """One line on stderr, whole even where several processes write."""
  sys.stderr.write(" ".join(text.split()) + "\n")
  sys.stderr.flush()


def attempt(
  workdir: epath.Path, unit: Unit, label: str, stop: Callable[[], bool], live: bool, take: _ahead.Take
) -> str:
  """Runs or resumes a unit where nobody else does.

  Returns 'finished', 'failed' (told in one line), 'held: WHO', 'gone' (the sweep was planned anew meanwhile) or 'given
  up' (it failed in another worker of this launch, or killed two). Raises Stopped and KeyboardInterrupt.
  """
  folder = workdir / "groups" / unit.name
  local = _workdir.is_local(workdir)
  if _plan.finished(workdir, unit):
    return "finished"
  try:
    with _workdir.exclusive(workdir):
      if not (folder / "unit.json").exists():
        return "gone"
      owner = _owner.take(folder) if local else None
  except OSError as error:
    say(f"failed: {label}: {told(error)}")
    return "failed"
  if local and owner is None:
    return "given up"
  if isinstance(owner, _owner.Held):
    return f"held: {owner}"
  how, why = "stopped", ""
  try:
    how = "idle"
    if not _plan.finished(workdir, unit):
      how = "stopped"
      _run(workdir, unit, label, stop, live, take)
      how = "finished"
  except Stopped:
    raise
  except Exception as error:
    how, why = "failed", told(error)
    unforeseen = not isinstance(error, CljaxError | OSError)
    if unforeseen:
      _keep_traceback(folder)
    say(f"failed: {label}: {why}" + f"; the traceback: {folder / _plan.TRACEBACK}" * unforeseen)
  finally:
    if owner is not None:
      owner.leave(how, **({"error": why} if why else {}))
  return "finished" if how == "idle" else how


def told(error: BaseException) -> str:
  """An error in one line."""
  full = _shared.disk_full(error)
  if full is not None:
    return f"workdir: {full}; what was written before is intact"
  text = " ".join((str(error).strip().splitlines() or [""])[0].split())
  return text if isinstance(error, CljaxError) else f"{type(error).__name__}: {text}"


def _keep_traceback(folder: epath.Path) -> None:
  """What a developer needs of an error that nobody foresaw goes beside the unit, not on the terminal."""
  with contextlib.suppress(OSError):
    files.write_text(folder / _plan.TRACEBACK, traceback.format_exc())


def _run(workdir: epath.Path, unit: Unit, label: str, stop, live: bool, take: _ahead.Take) -> None:
  folder, content = workdir / "groups" / unit.name, unit.content
  _registered.recall(workdir, [content["identity"]])
  built, population, prepared = take(unit)
  # Where several processes share a terminal, none rewrites its line.
  plain = SimpleNamespace(isatty=lambda: False, write=sys.stderr.write, flush=sys.stderr.flush)
  progress = Progress(label, len(built.stream.events), None if live else plain)
  members = [f"{m['run']} seed {m['seed']}" for m in content["members"]]
  log_to = os.environ.get(_environment.LOG_TO, "")  # workers and jobs inherit it
  more = trackers.open_writers(
    log_to.split(",") if log_to else [], folder, members=members, identity=[content["identity"], unit.name],
    name=unit.name, config=content["identity"],
  )  # fmt: skip
  log = Log(folder / "metrics.jsonl", more)

  def report(message: dict) -> None:
    log(message)
    progress(message)

  try:
    outcome = _build.execute(built, population, folder, report, stop, None, prepared)
  finally:
    log.close()
    progress.clear()
  found: dict[str, dict[str, Any]] = {}
  for run, about in content["runs"].items():
    at = [i for i, m in enumerate(content["members"]) if m["run"] == run]
    found[run] = results.describe(
      outcome,
      config=about["identity"],
      method=built.arguments["method"],
      stream=built.stream.name,
      kind=about["identity"]["stream"]["kind"],
      seeds=[content["members"][i]["seed"] for i in at],
      members=at,
      environment=_environment.describe(),
    )
    found[run]["point"] = about["point"]
    frozen = [s for s, alive in zip(found[run]["seeds"], found[run]["alive"], strict=True) if not alive]
    if frozen:
      say(f"diverged: {about['label']}: seeds {', '.join(map(str, frozen))} became NaN or infinite and were frozen")
  with _workdir.exclusive(workdir):
    for run, result in found.items():
      _keep(workdir, run, result)
    add_rows(workdir, list(found))
  if not live:
    say(f"finished: {label}")


def _keep(workdir: epath.Path, run: str, result: dict[str, Any]) -> None:
  """Writes a result, or adds its seeds to those that are there."""
  path = workdir / "runs" / run / "result.json"
  earlier = results.read(path)
  for picture in _plots.PICTURES:
    (path.parent / picture).unlink(missing_ok=True)
  results.write(path, result if earlier is None else merge(earlier, result))


def merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
  """Two results of one configuration as one over the seeds of both; where both have a seed, ``b`` counts.

  Seconds are the configuration's shares of its populations, added.
  """
  keep = [i for i, seed in enumerate(a["seeds"]) if seed not in b["seeds"]]
  if not keep:
    return dict(b)
  seeds = [a["seeds"][i] for i in keep] + list(b["seeds"])
  order = sorted(range(len(seeds)), key=lambda i: seeds[i])

  def joined(x: Sequence, y: Sequence) -> list:
    both = [x[i] for i in keep] + list(y)
    return [both[i] for i in order]

  out = {**b, "seeds": joined(a["seeds"], b["seeds"])}
  every = (
    "accuracy_matrix",
    "task_accuracy_matrix",
    "validation_matrix",
    "evaluated_rows",
    "drawn",
    "task_steps",
    "alive",
  )
  for key in (*every, "params_sha256"):
    if key in a and key in b:
      out[key] = joined(a[key], b[key])
  if "evaluated_rows" in b and "evaluated_rows" not in a:  # of before it was kept
    del out["evaluated_rows"]
  number = lambda v: float("nan") if v is None else v

  def summed(x: Mapping, y: Mapping) -> dict[str, Any]:
    values = {k: joined(x[k]["values"], v["values"]) for k, v in y.items() if k in x}
    return {k: metrics.summarize([number(i) for i in v]) for k, v in values.items()}

  for key in ("metrics", "task_metrics", "validation_metrics"):
    if key in a and key in b:
      out[key] = summed(a[key], b[key])
  if "scores" in b:
    out["scores"] = {n: joined(a["scores"][n], v) for n, v in b["scores"].items()}
    if "score_metrics" in b:
      out["score_metrics"] = {n: summed(a["score_metrics"][n], m) for n, m in b["score_metrics"].items()}
  out |= evaluations.joined(a, b, joined)
  pairs = zip(a["forgotten"], b["forgotten"], strict=True)
  out["forgotten"] = [{**y, **{k: joined(x[k], y[k]) for k in ("forget", "retain")}} for x, y in pairs]
  if len(a["curves"]) == len(b["curves"]):
    pairs = zip(a["curves"], b["curves"], strict=True)
    out["curves"] = [{**y, "accuracy": joined(x["accuracy"], y["accuracy"])} for x, y in pairs]
  else:  # evaluated at other steps: curves of some seeds only would pass for those of all
    out["curves"] = []
  share = lambda r, k, n: r["seconds"].get(k, 0.0) * n / r["population"]
  out["seconds"] = {k: share(a, k, len(keep)) + share(b, k, len(b["seeds"])) for k in b["seconds"]}
  out["population"] = len(seeds)
  return out


def rows_of(workdir: epath.Path, run: str) -> list[dict[str, Any]]:
  result = results.read(workdir / "runs" / run / "result.json")
  return [] if result is None else results.rows(result, run=run, point=result.get("point", {}))


def read_rows(path: epath.Path) -> tuple[list[dict[str, Any]], int]:
  """The rows of a file, and how many lines of it are no rows."""
  lines = path.read_bytes().decode(errors="replace").split("\n") if path.exists() else []
  rows, damaged = [], 0
  for line in filter(None, lines):
    try:
      row = formats.read(path, files.loads(line))
      row["run"], row["seed"], row["params_sha256"]
    except (ValueError, TypeError, KeyError):
      damaged += 1
    else:
      rows.append(row)
  return rows, damaged


def add_rows(workdir: epath.Path, runs: Sequence[str]) -> None:
  """Rewrites ``rows.jsonl`` whole, with the rows of ``runs`` as their results now have them."""
  path = workdir / "rows.jsonl"
  rows, damaged = read_rows(path)
  if damaged:
    rebuild_rows(workdir)
    return
  kept = [r for r in rows if r["run"] not in runs]
  _write_rows(path, kept + [r for run in runs for r in rows_of(workdir, run)])


def rebuild_rows(workdir: epath.Path) -> None:
  """Makes ``rows.jsonl`` anew from every ``result.json``: one row for each configuration and seed, by their names.

  Lines of it that cannot be read are told in one line.
  """
  path, folder = workdir / "rows.jsonl", workdir / "runs"
  _, damaged = read_rows(path)
  if damaged:
    say(f"rows: {path} has {damaged} damaged line{'s' if damaged > 1 else ''}; made anew from the results")
  runs = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
  for run in runs:
    result = folder / run / "result.json"
    if result.exists() and results.read(result) is None:
      say(f"rows: {result} is damaged; its runs are run again from their last checkpoints")
  _write_rows(path, [r for run in runs for r in rows_of(workdir, run)])


def _write_rows(path: epath.Path, rows: Sequence[dict[str, Any]]) -> None:
  text = "".join(files.dumps({**formats.noted(), **row}) + "\n" for row in rows)
  if not path.exists() or path.read_bytes() != text.encode():
    files.write_text(path, text)


def work(
  workdir: epath.Path, units: Sequence[Unit], stop: Callable[[], bool], live: bool, of: int = 0
) -> tuple[list[str], dict[str, str]]:
  """Passes over the units until none is left to take: ``(failed names, {name: who holds it})``.

  ``live``: this process runs them all, so it makes the next ones ready meanwhile.
  """
  if not live:
    return _work(workdir, units, stop, live, of, _ahead.none({}))
  made = _ahead.Ahead(units, {})
  try:
    return _work(workdir, units, stop, live, of, made.take)
  finally:
    made.close()


def _work(workdir: epath.Path, units: Sequence[Unit], stop: Callable[[], bool], live: bool, of: int, take: _ahead.Take):
  failed: list[str] = []
  held: dict[str, str] = {}
  numbers = {u.name: n + 1 for n, u in enumerate(units)}
  left = list(units)
  while left:
    again = []
    for unit in left:
      if stop():
        raise Stopped("stopped between two populations")
      how = attempt(workdir, unit, f"[{numbers[unit.name]}/{of or len(units)}] {unit.label}", stop, live, take)
      if how == "failed":
        failed.append(unit.name)
      elif how != "finished":
        again.append(unit)
        held[unit.name] = how.removeprefix("held: ")
    if len(again) == len(left):
      break
    left = again
  return failed, {u.name: held[u.name] for u in left} if left else {}
