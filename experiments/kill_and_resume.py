"""Kills a run at random moments, resumes it, and compares its digest with that of the undisturbed run.

``python -m experiments.kill_and_resume --methods=ewc,er,derpp,gpm,supsup --kills=20``

Each kill is SIGKILL to the whole process group, at a moment drawn uniformly between the first and the last line that
the undisturbed run wrote; checkpoints come every ``--every`` steps, so that many kills land while one is being written.
Exits with code 1 where any digest differs.
"""

from __future__ import annotations

import json
import pathlib
import random
import subprocess
import sys
import tempfile

from absl import app, flags

from experiments._kill import kill_after


def start(method: str, workdir: str) -> subprocess.Popen:
  """One run of the train launcher in a process group of its own."""
  command = [sys.executable, "-m", "launch.train", f"--config={flags.FLAGS.config}", f"--config.method.name={method}"]
  command += [f"--config.checkpoint.every={flags.FLAGS.every}", "--seeds=1", f"--workdir={workdir}"]
  command += [f"--config.{item}" for item in flags.FLAGS.set]
  return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def lines(workdir: str) -> int:
  """Lines of metrics written so far: how far a run has come, whatever the machine's speed."""
  path = pathlib.Path(workdir) / "metrics.jsonl"
  return path.read_bytes().count(b"\n") if path.exists() else 0


def finish(method: str, workdir: str) -> dict:
  process = start(method, workdir)
  _, errors = process.communicate()
  if process.returncode:
    raise SystemExit(f"{method}: exit code {process.returncode}: {errors.strip().splitlines()[-1:]}")
  return json.loads((pathlib.Path(workdir) / "result.json").read_text())


def kill_once(method: str, workdir: str, at_line: int, delay: float) -> str:
  """Starts a run, kills it ``delay`` seconds after it has written ``at_line`` lines, and says how far it had come."""
  process = start(method, workdir)
  if not kill_after(process, lambda: lines(workdir), at_line, delay):
    return "finished before the kill"
  return f"killed after {lines(workdir)} lines"


def trial(method: str, moments: random.Random, kills: int) -> int:
  """Number of digests that differ over ``kills`` kills of one method."""
  with tempfile.TemporaryDirectory() as root:
    whole = finish(method, f"{root}/whole")
    total, wrong = lines(f"{root}/whole"), 0
    print(f"{method}: undisturbed run {whole['params_sha256'][0][:12]}, {total} lines")
    for k in range(kills):
      workdir = f"{root}/{k}"
      told = kill_once(method, workdir, moments.randint(1, total - 1), moments.random() * 0.2)
      again = finish(method, workdir)
      same = all(again.get(k) == whole.get(k) for k in ("params_sha256", "accuracy_matrix", "scores", "forgotten"))
      wrong += not same
      print(f"{method}: kill {k + 1}/{kills}, {told}: {'equal' if same else 'DIFFERENT'}", flush=True)
  return wrong


def main(argv) -> None:
  del argv
  moments = random.Random(flags.FLAGS.seed)
  wrong = {method: trial(method, moments, flags.FLAGS.kills) for method in flags.FLAGS.methods}
  print("digests that differ:", wrong)
  if any(wrong.values()):
    raise SystemExit(1)


if __name__ == "__main__":
  flags.DEFINE_list("methods", ["ewc", "er", "derpp", "gpm", "supsup"], "methods to kill")
  flags.DEFINE_integer("kills", 20, "kills for each method", lower_bound=1)
  flags.DEFINE_integer("seed", 0, "seed of the moments")
  flags.DEFINE_integer("every", 20, "steps between checkpoints")
  flags.DEFINE_string("config", str(pathlib.Path(__file__).parent / "split_digits.py"), "configuration")
  flags.DEFINE_multi_string("set", [], "further overrides, such as train.epochs=2")
  app.run(main)
