"""What the tests cost, and which a developer's loop leaves out: ``python -m experiments.suite_times [--write]``.

Runs the suite with two workers and prints CPU seconds by file and by test. ``--write`` renews ``tests/slow.txt``: the
functions whose tests take more than ``--above`` seconds each, which ``-m "not slow"`` passes over. ``--read=DIR`` reads
what a run left, in the stead of running.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags

ROOT = pathlib.Path(__file__).parent.parent
SLOW = ROOT / "tests" / "slow.txt"


def run(folder: pathlib.Path) -> int:
  path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
  command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-p", "times"]
  return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path, "TEST_TIMES": str(folder)}).returncode


def read(folder: pathlib.Path) -> list[tuple[str, float]]:
  """``(node id, seconds)``: CPU seconds, or a quarter of the wall's where a test mostly waits."""
  lines = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
  return [(node, max(own + started, wall / 4)) for node, own, started, wall, *_ in lines]


def function(node: str) -> str:
  """``file::function`` of a node id, as ``tests/slow.txt`` has it."""
  path, _, name = node.partition("::")
  return f"{pathlib.PurePosixPath(path).stem}::{name.partition('[')[0]}"


def slow(times: list[tuple[str, float]], above: float) -> list[str]:
  total: dict[str, float] = collections.defaultdict(float)
  count: collections.Counter[str] = collections.Counter()
  for node, seconds in times:
    total[function(node)] += seconds
    count[function(node)] += 1
  return sorted(name for name in total if total[name] / count[name] > above)


def main(argv) -> None:
  del argv
  args = flags.FLAGS
  with tempfile.TemporaryDirectory() as folder:
    code = 0 if args.read else run(pathlib.Path(folder))
    times = read(pathlib.Path(args.read or folder))
  for what, key in (("file", lambda node: node.partition("::")[0]), ("test", function)):
    by: dict[str, float] = collections.defaultdict(float)
    for node, seconds in times:
      by[key(node)] += seconds
    print(f"\nseconds by {what}, of {sum(by.values()):.0f} in all")
    print("\n".join(f"{seconds:8.1f} {name}" for name, seconds in sorted(by.items(), key=lambda i: -i[1])[:40]))
  if args.write:
    SLOW.write_text("\n".join(slow(times, args.above)) + "\n")
  sys.exit(code)


if __name__ == "__main__":
  flags.DEFINE_boolean("write", False, "renew tests/slow.txt")
  flags.DEFINE_float("above", 0.2, "seconds a test", lower_bound=0)
  flags.DEFINE_string("read", "", "a folder with the times of a run")
  app.run(main)
