"""A run that lives: trained, extended twice, deleted from three times by three methods, killed once in each phase.

``python -m experiments.living_run --trials=3``

Each trial goes through the phases of PHASES with the launchers, one process each. Every phase is killed (SIGKILL, to
its process group) once, at a random moment: one that ended before is put back to where it began and killed earlier.
Then it is run again until it ends. At the end the parameters must be, to the bit, those of the same events run at once
in one process, the ledger must name every request, its rows and its method, and ``launch.forget --list`` must show
them. Trials are noted in experiments/results/living_run.tsv, with the code that was tried: run it again, and it goes
on. Exits with code 1 where a trial failed.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from absl import app, flags

from cljax.cli import _environment

_environment.prepare(__name__)  # the same devices and threads as the launchers have

from cljax.io import ledger  # noqa: E402
from experiments import _trial_record  # noqa: E402

FILE = _trial_record.ROOT / "experiments" / "results" / "living_run.tsv"
FIELDS = ("trial", "code", "kills", "wrong")

BASE = (
  "--config=experiments/split_digits.py", "--config.stream.classes_per_task=2", "--config.model.hidden=(8,)",
  "--config.train.epochs=20", "--config.train.chunk_steps=20", "--config.checkpoint.every=40",
  "--config.method.name=er", "--config.method.capacity=40", "--seeds=2",
)  # fmt: skip
PHASES = (
  ("train", *BASE, "--config.stream.tasks=3"),
  ("forget", "--request=ids=20-39", "--method=ssd"),
  ("train", "--extend", "--config.stream.tasks=4"),
  ("forget", "--request=class=3", "--method=retrain"),
  ("train", "--extend", "--config.stream.tasks=5"),
  ("forget", "--request=group=0&class=7", "--method=graddiff"),
)
ASKED = [("ids=20-39", "ssd"), ("class=3", "retrain"), ("group=0&class=7", "graddiff")]


def run(phase, workdir, after: float | None = None) -> tuple[int, str, float]:
  """One phase as a process, killed ``after`` seconds: ``(code, what it said on stderr, seconds)``."""
  command = [sys.executable, "-m", f"launch.{phase[0]}", *phase[1:], f"--workdir={workdir}"]
  since = time.monotonic()
  process = subprocess.Popen(
    command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
  )
  try:
    _, error = process.communicate(timeout=after)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    _, error = process.communicate()
  return process.returncode, error, time.monotonic() - since


def killed(phase, workdir: pathlib.Path, after: float) -> float:
  """Runs a phase and kills it while it works; returns after how many seconds that was."""
  begun = workdir.with_name("begun")
  shutil.rmtree(begun, ignore_errors=True)
  if workdir.exists():
    shutil.copytree(workdir, begun)
  while run(phase, workdir, after)[0] != -signal.SIGKILL:  # it had ended
    shutil.rmtree(workdir, ignore_errors=True)
    if begun.exists():
      shutil.copytree(begun, workdir)
    after *= 0.8
  return after


def at_once() -> list[str]:
  """The digests of a run that has all events from its start, in this process."""
  from cljax import Member
  from cljax.cli import _build, _config, _extended

  overrides = [_config.Override(a.removeprefix("--config.").partition("=")[0], a.partition("=")[2], True)
               for a in BASE if a.startswith("--config.")]  # fmt: skip
  more = {"tasks": "5", "forget": "3:ids=20-39; 4:class=3; 5:group=0&class=7"}
  overrides += [_config.Override(f"stream.{k}", v, True) for k, v in more.items()]
  config = _config.resolve(_config.read_file("experiments/split_digits.py"), overrides)
  events, answers = (3, 5, 7), []
  for event, (_, name) in zip(events, ASKED, strict=True):
    resolved = _config.resolve(
      _extended.file_of(_build.build(config, answers=()).identity), [_config.Override("forget.name", name)]
    )
    answers.append([event, name, {k: v for k, v in resolved["forget"].items() if k != "name"}])
  return _build.prepare(_build.build(config, answers=answers), [Member(0), Member(1)]).run().params_sha256


def trial(number: int, workdir: pathlib.Path, expected: list[str], seconds: list[float]) -> dict:
  """What one trial saw; ``wrong`` is '' where all was right. ``seconds``: how long each phase takes undisturbed."""
  rng, wrong, kills = random.Random(number), [], []
  shutil.rmtree(workdir, ignore_errors=True)
  for phase, usual in zip(PHASES, seconds, strict=True):
    after = killed(phase, workdir, rng.uniform(0.3, 1.0) * usual)
    kills.append(f"{phase[0]} {after:.1f}s of {usual:.1f}s")
    code, error, _ = run(phase, workdir)
    if code or "Traceback" in error:
      wrong.append(f"{phase[0]} {phase[-2:]}: {code} {error[-400:]}")
      break
  if not wrong:
    found = json.loads((workdir / "result.json").read_text())
    if found["params_sha256"] != expected:
      wrong.append("other parameters than at once")
    lines = ledger.read(workdir)
    if [line["method"] for line in lines] != [name for _, name in ASKED] or not all(line["rows"] for line in lines):
      wrong.append(f"ledger: {[(line['method'], line['rows']) for line in lines]}")
    listed = subprocess.run(
      [sys.executable, "-m", "launch.forget", str(workdir), "--list"], capture_output=True, text=True
    )
    shown = " ".join(listed.stdout.split())
    if listed.returncode or not all(text in shown for pair in ASKED for text in pair):
      wrong.append(f"--list: {listed.returncode} {shown[:400]}")
  return {"trial": number, "code": _trial_record.code(), "kills": ", ".join(kills), "wrong": "; ".join(wrong)}


def main(argv) -> None:
  del argv
  out = pathlib.Path(flags.FLAGS.out).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  expected = at_once()
  seconds: list[float] = []  # with compilations, where nothing was compiled before: too long a time is shortened
  failed = 0
  shutil.rmtree(out / "alone", ignore_errors=True)
  for phase in PHASES:
    code, error, spent = run(phase, out / "alone")
    assert not code, (phase, error)
    seconds.append(spent)
  alone = json.loads((out / "alone" / "result.json").read_text())["params_sha256"]
  print(f"undisturbed: {'right' if alone == expected else 'other parameters than at once'}", flush=True)
  for number in _trial_record.todo(FILE, flags.FLAGS.first, flags.FLAGS.trials):
    row = trial(number, out / "run", expected, seconds)
    _trial_record.add(FILE, FIELDS, row)
    failed += bool(row["wrong"])
    print(f"trial {number}: {row['wrong'] or 'right'}, {row['kills']}", flush=True)
  print(_trial_record.summary(FILE))
  sys.exit(1 if failed or alone != expected else 0)


if __name__ == "__main__":
  flags.DEFINE_integer("trials", 3, "How many lives there shall be.")
  flags.DEFINE_integer("first", 0, "The number of the first.")
  flags.DEFINE_string("out", "~/living_run", "Where the runs lie.")
  app.run(main)
