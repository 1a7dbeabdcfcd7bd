"""Starts two processes on one workdir, again and again, and looks whether one right result is left.

``python -m experiments.two_processes --trials=200``

In each trial two launchers of the same run begin with a random delay between them; in every fourth the first is killed
at a random moment. Right is: each ends by itself, with the result or with one line that names the holder, nobody prints
a traceback, and after one more start the digest is that of a run that was alone. Trials are drawn from their number
alone and noted in experiments/results/two_processes.tsv, with the code that was tried: run it again, and it goes on.
Exits with code 1 where a trial failed.
"""

from __future__ import annotations

import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from absl import app, flags

from experiments import _trial_record

FILE = _trial_record.ROOT / "experiments" / "results" / "two_processes.tsv"
FIELDS = ("trial", "code", "delay", "killed", "codes", "wrong")
COMMAND = (
  "--config=experiments/split_digits.py", "--config.stream.tasks=2", "--config.stream.rows=200",
  "--config.model.hidden=(8,)", "--config.train.epochs=40", "--config.train.chunk_steps=20",
  "--config.checkpoint.every=40", "--config.method.name=er", "--config.method.capacity=20",
)  # fmt: skip
HELD = re.compile(r"error: workdir: .* is worked on by process \d+ on .* since .*; wait until it has ended")


def start(workdir) -> subprocess.Popen:
  command = [sys.executable, "-m", "launch.train", *COMMAND, f"--workdir={workdir}"]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def digests(workdir) -> list[str]:
  return json.loads((pathlib.Path(workdir) / "result.json").read_text())["params_sha256"]


def trial(number: int, folder: pathlib.Path, alone: list[str], seconds: float) -> dict:
  """What one trial saw; ``wrong`` is '' where all was right."""
  rng = random.Random(number)
  delay, kills = rng.uniform(0, seconds), number % 4 == 3
  moment = rng.uniform(0.3, 1.0) * seconds
  shutil.rmtree(folder, ignore_errors=True)
  first, begun = start(folder), time.monotonic()
  time.sleep(delay)
  second = start(folder)
  if kills:
    time.sleep(max(0.0, begun + moment - time.monotonic()))
    first.send_signal(signal.SIGKILL)
  told, wrong = [], []
  for name, process in (("first", first), ("second", second)):
    try:
      _, error = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
      process.kill()
      _, error = process.communicate()
      wrong.append(f"{name} hangs")
    code, killed = process.returncode, kills and name == "first" and process.returncode == -signal.SIGKILL
    told.append([code, error.strip().splitlines()[-1:]])
    if "Traceback" in error:
      wrong.append(f"{name} prints a traceback: {error[-400:]}")
    if code and not killed and not (code == 1 and HELD.match((error.strip().splitlines() or [""])[-1])):
      wrong.append(f"{name} ends with {code}: {error[-400:]}")
  if all(code for code, _ in told) and not kills:
    wrong.append("nobody finished")
  last = start(folder)
  _, error = last.communicate(timeout=600)
  if last.returncode or digests(folder) != alone:
    wrong.append(f"afterwards: {last.returncode}, {error[-400:]}")
  return {"trial": number, "code": _trial_record.code(), "delay": f"{delay:.2f}", "killed": "first" if kills else "",
          "codes": " ".join(str(code) for code, _ in told), "wrong": "; ".join(wrong)}  # fmt: skip


def main(argv) -> None:
  del argv
  out = pathlib.Path(flags.FLAGS.out).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  for _ in range(2):  # the second time with what was compiled
    shutil.rmtree(out / "alone", ignore_errors=True)
    since = time.monotonic()
    assert not start(out / "alone").wait()
    seconds = time.monotonic() - since
  alone = digests(out / "alone")
  failed = 0
  for number in _trial_record.todo(FILE, flags.FLAGS.first, flags.FLAGS.trials):
    row = trial(number, out / "run", alone, seconds)
    _trial_record.add(FILE, FIELDS, row)
    failed += bool(row["wrong"])
    print(f"trial {number}: {row['wrong'] or 'right'} ({row['codes']})", flush=True)
  print(_trial_record.summary(FILE))
  sys.exit(1 if failed else 0)


if __name__ == "__main__":
  flags.DEFINE_integer("trials", 20, "How many pairs of processes there shall be.")
  flags.DEFINE_integer("first", 0, "The number of the first.")
  flags.DEFINE_string("out", "~/two_processes", "Where the runs lie.")
  app.run(main)
