"""From process start to the final table: a sweep with an empty compilation cache, and with the one it left."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cljax.cli import _environment
from experiments.benchmarks import Stats, Table, _cold_probe

METHODS = ("finetune", "ewc", "er", "agem")
SEEDS = 5
TARGETS = {"empty": 10.0, "warm": 4.0}  # seconds to the table, on two cores
WORKERS = ("--executor=local", "--workers=2")
ROOT = pathlib.Path(__file__).parents[2]
# The table ends in this line.
LAST = b"mean \xc2\xb1"
RATIOS = {"empty": 0.5, "warm": 0.2}  # of Avalanche's time, the most
PEER = "CLJAX_AVALANCHE"  # an interpreter that has Avalanche 0.6; without one it is not measured


class Start(NamedTuple):
  """One process: seconds from its start to the last line of its table and to its end, and the CPU seconds it took."""

  table: float
  end: float
  cpu: float


def arguments(workdir, cache, methods: Sequence[str] = METHODS, seeds: int = SEEDS, epochs: int = 10) -> list[str]:
  """The sweep: split digits, MLP 64-100-100-10, batch 32."""
  given = ["--config=experiments/split_digits.py", f"--methods={','.join(methods)}", f"--seeds={seeds}"]
  given += [f"--config.train.epochs={epochs}", "--config.train.batch_size=32", "--config.model.hidden=(100,100)"]
  return [*given, f"--workdir={workdir}", f"--compilation_cache={cache}"]


def start(command: Sequence[str], environment: Mapping[str, str]) -> Start:
  """Runs a command to its end, and reads the clock at the last line of its table. RuntimeError where it fails."""
  begun = time.time()
  environment = {**environment, "CLJAX_COLD_START": repr(begun)}
  with tempfile.TemporaryFile() as errors:
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    at = 0.0
    for line in process.stdout:
      if line.startswith(LAST):
        at = time.time() - begun
    _, status, usage = os.wait4(process.pid, 0)
    end = time.time() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode or not at:
      errors.seek(0)
      raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}: {errors.read()[-2000:].decode()}")
  return Start(at, end, usage.ru_utime + usage.ru_stime)


def pair(run, parts: bool) -> dict[str, Any]:
  """An empty cache and the one it left: each a fresh workdir. ``run(workdir, cache, out)``; ``out`` for the parts."""
  out = {}
  with tempfile.TemporaryDirectory() as folder:
    for state in TARGETS:
      file = f"{folder}/{state}.json" if parts else ""
      out[state] = run(f"{folder}/{state}", f"{folder}/cache", file)
      if parts:
        out[state] = json.loads(pathlib.Path(file).read_text())
  return out


def peer(environment: Mapping[str, str]) -> Start | None:
  """The same work by Avalanche, in a process of its own."""
  python = environment.get(PEER)
  return start([python, "-W", "ignore", "experiments/benchmarks/_avalanche.py"], environment) if python else None


def rounds(
  report, repeats: int, environment: Mapping[str, str], **given
) -> tuple[list[dict], list[dict], list[dict], list[Start]]:
  """``(starts, split, parts, peers)``: per round a plain sweep in each state of the cache, by one process and by two
  workers, and Avalanche where there is one; and in one round of three a probed sweep."""

  def plain(workdir, cache, out, more=()):
    del out
    return start([sys.executable, "-m", "launch.sweep", *arguments(workdir, cache, **given), *more], environment)

  def probed(workdir, cache, out):
    probe = [sys.executable, "-m", "experiments.benchmarks._cold_probe", out]
    return start([*probe, *arguments(workdir, cache, **given)], environment)

  starts, split, parts, peers = [], [], [], []
  for turn in range(repeats):
    starts.append(pair(plain, False))
    split.append(pair(functools.partial(plain, more=WORKERS), False))
    for label, found in (("", starts), (", two workers", split)):
      report(f"round {turn + 1}{label}: " + ", ".join(f"{k} cache {v.table:.1f} s" for k, v in found[-1].items()))
    other = peer(environment)
    if other is not None:
      peers.append(other)
      report(f"round {turn + 1}, Avalanche: {other.table:.1f} s")
    if turn % 3 == 0:
      parts.append(pair(probed, True))
  return starts, split, parts, peers


def rows_of(
  starts: Sequence[Mapping[str, Start]],
  split: Sequence[Mapping[str, Start]],
  parts: Sequence[Mapping[str, dict]],
  peers: Sequence[Start] = (),
) -> list[dict[str, Any]]:
  """The starts with their quartiles and targets, then the parts: medians, main thread and, after +, all others."""
  rows: list[dict[str, Any]] = []
  told = {"table": "start to table, s", "end": "start to end, s", "cpu": "CPU seconds of it"}
  both = [(field, label, starts) for field, label in told.items()]
  both += [(field, f"{label}, two workers", split) for field, label in told.items()]
  for field, label, found in both:
    row: dict[str, Any] = {"what": label}
    for state, target in TARGETS.items():
      stats = Stats(np.array([getattr(s[state], field) for s in found]))
      row[f"{state} cache"] = stats.median
      row[f"{state} [quartiles]"] = "[{:.2f}, {:.2f}]".format(*stats.spread)
      row[f"{state} target"] = f"{target:g}" if field == "table" else ""
    rows.append(row)
  if peers:
    row = {"what": "start to table over Avalanche's"}
    for state, target in RATIOS.items():
      ratio = Stats(np.array([s[state].table / p.table for s, p in zip(starts, peers, strict=True)]))
      row[f"{state} cache"] = ratio.median
      row[f"{state} [quartiles]"] = "[{:.2f}, {:.2f}]".format(*ratio.spread)
      row[f"{state} target"] = f"{target:g}"
    rows.append(row)
  for kind, label in _cold_probe.PARTS.items():
    row = {"what": f"  {label}"}
    for state in TARGETS:
      mine, beside = (float(np.median([p[state][w].get(kind, 0.0) for p in parts])) for w in ("main", "others"))
      row[f"{state} cache"] = mine
      row[f"{state} [quartiles]"] = f"+ {beside:.2f} beside" if beside >= 0.005 else ""
      row[f"{state} target"] = ""
    rows.append(row)
  return rows


def plot(rows: Sequence[Mapping[str, Any]], path: str) -> None:
  """The main thread's parts as one bar for each state of the cache, with the target."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axis = pyplot.subplots(figsize=(7.5, 3.2))
  colors = pyplot.get_cmap("tab20")
  shown = [row for row in rows if row["what"].startswith("  ")]
  for at, (state, target) in enumerate(TARGETS.items()):
    left = 0.0
    for n, row in enumerate(shown):
      width = row[f"{state} cache"]
      axis.barh(-at, width, left=left, color=colors(n), label=None if at else row["what"].strip())
      left += width
    axis.plot([target, target], [-at - 0.45, -at + 0.45], color="black", linestyle="--", linewidth=1)
  axis.set_yticks([-at for at in range(len(TARGETS))], [f"{state} cache" for state in TARGETS])
  axis.set(xlabel="seconds of the main thread, start to end (dashed: target to the table)")
  axis.legend(fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
  figure.tight_layout()
  figure.savefig(path, dpi=100)
  pyplot.close(figure)


def suite(report, repeats: int, **given) -> Table:
  environment = _environment.of_worker(1)
  starts, split, parts, peers = rounds(report, repeats, environment, **given)
  rows = rows_of(starts, split, parts, peers)
  slow = float(np.median([p["empty"]["wall"] for p in parts]) / np.median([s["empty"].end for s in starts]))
  notes = [
    f"`python -m launch.sweep`, {', '.join(METHODS)} x {SEEDS} seeds, split digits, MLP 64-100-100-10, batch 32, 10 "
    f"epochs; NPROC {environment['NPROC']}; each in a fresh process and workdir. {len(starts)} rounds.",
    "Warm: the compilation cache that the start with the empty one left. Table: its last line has been read; the "
    f"pictures follow, to the end. Two workers: with {' '.join(WORKERS)}, a core and a host device each.",
    f"Parts: medians of {len(parts)} starts with a probe inside ({slow:.2f} of the time without it, cache empty). "
    "Seconds of the main thread, each moment for the innermost thing it did; 'beside': of all other threads.",
    f"Avalanche 0.6 on the same work, in each round: {np.median([p.table for p in peers]):.1f} s to its table "
    "(experiments/benchmarks/_avalanche.py)."
    if peers
    else f"Avalanche was not at hand ({PEER} names an interpreter that has it).",
  ]
  return Table("Start to final table", rows, notes, lambda path: plot(rows, path))
