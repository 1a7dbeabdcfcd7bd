"""Kills a sweep at random moments, runs it to its end, and compares it with the sweep that nobody disturbed.

``python -m experiments.killed_sweep --kills=3 [--executor=local --workers=2] [--seeds=5] [--methods=ewc,si]``

Each kill is SIGKILL to the whole process group of the launcher, at a random moment of what the undisturbed sweep wrote.
Exits with code 1 unless every configuration and seed has exactly one row, no population was finished twice, and every
digest is that of the undisturbed sweep. As a configuration file, this is the grid: six methods, four strengths each.
"""

from __future__ import annotations

import collections
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from ml_collections import ConfigDict

from experiments._kill import kill_after

STRENGTHS = {
  "method.strength": {
    "ewc": [1.0, 3.0, 10.0, 30.0],
    "si": [0.01, 0.03, 0.1, 0.3],
    "mas": [0.003, 0.01, 0.03, 0.1],
    "l2": [1e-4, 3e-4, 1e-3, 3e-3],
    "lwf": [0.3, 1.0, 3.0, 10.0],
  },
  "method.alpha": {"derpp": [0.1, 0.3, 0.5, 1.0]},
}


def get_config(methods: str = "") -> ConfigDict:
  """Split digits, small and short; a checkpoint every 20 steps. ``methods``: as for :func:`get_hyper`."""
  config = ConfigDict()
  config.data = ConfigDict({"name": "digits"})
  config.stream = ConfigDict({"kind": "class", "tasks": 5})
  config.model = ConfigDict({"name": "mlp", "hidden": (64,)})
  config.train = ConfigDict({"batch_size": 32, "epochs": 10})
  config.checkpoint = ConfigDict({"every": 20})
  get_hyper.methods = tuple(filter(None, methods.split(",")))  # type: ignore[attr-defined]
  return config


def get_hyper(h):
  """The grid: of the methods that ``get_config`` was given, or of all six."""
  wanted = get_hyper.methods  # type: ignore[attr-defined]
  return h.chainit(
    h.product([h.fixed("method.name", name), h.sweep(key, values)])
    for key, grid in STRENGTHS.items()
    for name, values in grid.items()
    if not wanted or name in wanted
  )


def start(workdir: str, args) -> subprocess.Popen:
  """The sweep launcher in a process group of its own."""
  command = [sys.executable, "-m", "launch.sweep", f"--config={__file__}:{','.join(args.methods)}"]
  command += [f"--seeds={args.seeds}", f"--workdir={workdir}", f"--executor={args.executor}", *args.launcher]
  command += [f"--workers={args.workers}"] if args.executor == "local" else []
  return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def lines(workdir: str) -> int:
  """Lines that all populations wrote so far: how far a sweep has come, whatever the machine's speed."""
  return sum(p.read_bytes().count(b"\n") for p in pathlib.Path(workdir).glob("groups/*/metrics.jsonl"))


def finish(workdir: str, args) -> dict[tuple[str, int], dict]:
  """Runs to the end; the rows by configuration and seed. Exits where a row stands twice."""
  process = start(workdir, args)
  _, errors = process.communicate()
  if process.returncode:
    raise SystemExit(f"exit code {process.returncode}: {errors.strip().splitlines()[-3:]}")
  rows = [json.loads(line) for line in (pathlib.Path(workdir) / "rows.jsonl").read_text().splitlines()]
  found = {(row["run"], row["seed"]): row for row in rows}
  if len(found) != len(rows):
    raise SystemExit(f"{len(rows)} rows of {len(found)} runs")
  return found


def kill_once(workdir: str, args, at_line: int, delay: float) -> str:
  """Starts the sweep, kills its process group ``delay`` seconds after ``at_line`` lines, and says how far it was."""
  process = start(workdir, args)
  if not kill_after(process, lambda: lines(workdir), at_line, delay):
    return "finished before the kill"
  rows = pathlib.Path(workdir) / "rows.jsonl"
  return f"killed after {lines(workdir)} lines, {rows.read_bytes().count(bytes([10])) if rows.exists() else 0} rows"


def owners(workdir: str) -> tuple[int, int, int]:
  """``(populations, owners, most times that one of them was finished)``."""
  counts: collections.Counter[str] = collections.Counter()
  finished: collections.Counter[str] = collections.Counter()
  for path in pathlib.Path(workdir).glob("groups/*/owner.*.json"):
    counts[path.parent.name] += 1
    finished[path.parent.name] += json.loads(path.read_text()).get("left") == "finished"
  return len(counts), sum(counts.values()), max(finished.values())


def trial(root: str, args, moments: random.Random) -> int:
  """Number of things that are not as they should be."""
  since = time.time()
  whole = finish(f"{root}/whole", args)
  total = lines(f"{root}/whole")
  print(f"undisturbed: {len(whole)} rows, {total} lines, {time.time() - since:.0f} s", flush=True)
  workdir = f"{root}/killed"
  for k, share in enumerate(sorted(moments.uniform(0.02, 0.98) for _ in range(args.kills))):
    print(f"kill {k + 1}/{args.kills}: {kill_once(workdir, args, int(share * total), moments.random())}", flush=True)
  again = finish(workdir, args)
  different = [k for k in whole if k not in again or again[k]["params_sha256"] != whole[k]["params_sha256"]]
  metrics = [k for k in whole if k in again and again[k].get("acc") != whole[k].get("acc")]
  populations, count, most = owners(workdir)
  print(
    f"killed sweep: {len(again)} rows; {populations} populations had {count} owners, each finished {most} time; "
    f"{len(different)} digests and {len(metrics)} accuracies differ; {time.time() - since:.0f} s",
    flush=True,
  )
  return len(different) + len(metrics) + (len(again) != len(whole)) + (most != 1)


def main(argv) -> None:
  del argv
  with tempfile.TemporaryDirectory() as root:
    if trial(root, flags.FLAGS, random.Random(flags.FLAGS.seed)):
      raise SystemExit(1)


if __name__ == "__main__":
  flags.DEFINE_integer("kills", 3, "kills of the whole process group", lower_bound=0)
  flags.DEFINE_integer("seed", 0, "seed of the moments")
  flags.DEFINE_integer("seeds", 5, "seeds of each configuration", lower_bound=1)
  flags.DEFINE_list("methods", [], "methods of the grid; all six by default")
  flags.DEFINE_enum("executor", "process", ("process", "local"), "as of launch.sweep")
  flags.DEFINE_integer("workers", 2, "as of launch.sweep, with --executor=local")
  flags.DEFINE_multi_string("launcher", [], "further arguments of launch.sweep, such as --compilation_cache=DIR")
  app.run(main)
