"""Kills runs that forget and purge at random moments, and looks for the deleted rows in every file they leave.

``python -m experiments.kill_and_forget --images=1000 --kills=50 --out=FILE``

Two kinds of kill. An *image* is a copy of the folder made inside the process before a random change of a file
(``experiments/_crash_images.py``); half of them are killed once more while they go on. A *kill* is SIGKILL to a process
at a random moment after its first request was met. After each the ledger must be true: no file holds a row of which it
says that it is deleted; and after the run has gone on to its end no file holds any deleted row, the ledger names all,
and the parameters are those of the run that was let be. One JSON line a trial goes to ``--out``; the same command goes
on where it was stopped. Exits with code 1 where a trial went wrong.
"""

from __future__ import annotations

import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import jax
from absl import app, flags

from experiments import _planted
from experiments._crash_images import Images, copy
from experiments._kill import kill_after

METHODS = {"er": {"capacity": 24}, "derpp": {"capacity": 24}, "unified": {"capacity": 24}, "retrain": {}}

_IMAGES = flags.DEFINE_integer("images", 1000, "kills by copies of the folder", lower_bound=0)
_KILLS = flags.DEFINE_integer("kills", 50, "kills by SIGKILL", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the moments")
_OUT = flags.DEFINE_string("out", "kill_and_forget.jsonl", "a line for each trial; continued where it exists")
_WORKER = flags.DEFINE_string("worker", "", "only run, in this folder, and print the digest")
_METHOD = flags.DEFINE_string("method", "er", "method of a worker")


def prepared(method: str):
  return _planted.prepared(method, METHODS[method], forget="retrain" if method == "retrain" else "ssd")


def judged(folder, stream, result, whole) -> str:
  """What is wrong at the end of a run; '' where nothing is."""
  wrong = _planted.unfinished(folder, stream)
  return wrong or ("" if result.params_sha256 == whole.params_sha256 else "other bits")


def of_images(method: str, trials: list[int], write) -> None:
  """Trials of one method by copies of its folder."""
  run, images = prepared(method), Images()
  stream = run.setup.stream
  with tempfile.TemporaryDirectory() as root:
    images.watch(f"{root}/whole", f"{root}/images", lambda n: True)
    whole = run.run(f"{root}/whole")
    count = images.rest()
    for trial in trials:
      moments = random.Random(f"{_SEED.value}/{trial}")
      at, again = moments.randint(1, count), moments.random() < 0.5
      folder, second = f"{root}/{trial}", 0
      copy(f"{root}/images/{at}", folder)
      wrong = _planted.untrue(folder, stream)
      if again and not wrong:
        second = moments.randint(1, max(2, count - at))
        images.watch(folder, f"{root}/{trial}-again", second.__eq__)
        result = run.run(folder)
        images.rest()
        wrong = judged(folder, stream, result, whole)
        if pathlib.Path(f"{root}/{trial}-again/{second}").exists() and not wrong:
          shutil.rmtree(folder)
          folder = f"{root}/{trial}-again/{second}"
          wrong = _planted.untrue(folder, stream)
      wrong = wrong or judged(folder, stream, run.run(folder), whole)
      write({"trial": trial, "kind": "image", "method": method, "of": count, "at": at, "again": second, "wrong": wrong})
      shutil.rmtree(f"{root}/{trial}", ignore_errors=True)
      shutil.rmtree(f"{root}/{trial}-again", ignore_errors=True)


def worker(method: str, folder: str) -> subprocess.Popen:
  command = [sys.executable, "-m", "experiments.kill_and_forget", f"--worker={folder}", f"--method={method}"]
  return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def killed(method: str, folder: str, delay: float) -> bool:
  """Whether a worker in ``folder`` was killed ``delay`` seconds after its first request was met, and not later."""
  ledger = pathlib.Path(folder) / "deletions.jsonl"
  return kill_after(worker(method, folder), lambda: int(ledger.exists()), 1, delay)


def of_kills(method: str, trials: list[int], write) -> None:
  """Trials of one method by SIGKILL; the runs go on, and end, in this process."""
  run = prepared(method)
  stream = run.setup.stream
  with tempfile.TemporaryDirectory() as root:
    whole = run.run(f"{root}/whole")
    for trial in trials:
      delay = 1.5 * random.Random(f"{_SEED.value}/{trial}").random()
      folder = f"{root}/{trial}"
      hit = killed(method, folder, delay)
      left = sorted(_planted.holders(folder, stream, _planted.asked_ids(stream)))
      wrong = _planted.untrue(folder, stream) or judged(folder, stream, run.run(folder), whole)
      write({"trial": trial, "kind": "kill" if hit else "ended before", "method": method, "at": delay,
             "files": len(left), "wrong": wrong})  # fmt: skip
      shutil.rmtree(folder)


def main(argv) -> None:
  del argv
  if _WORKER.value:
    prepared(_METHOD.value).run(_WORKER.value)
    return
  out = pathlib.Path(_OUT.value)
  done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
  did = {line["trial"] for line in done}

  def write(line: dict) -> None:
    done.append(line)
    with out.open("a") as file:
      file.write(json.dumps(line) + "\n")

  names = list(METHODS)
  for run, first, last in ((of_images, 0, _IMAGES.value), (of_kills, 10**6, 10**6 + _KILLS.value)):
    for i, method in enumerate(names):
      mine = [t for t in range(first + i, last, len(names)) if t not in did]
      if mine:
        run(method, mine, write)
  for kind in ("image", "kill", "ended before"):
    for method in names:
      lines = [line for line in done if line["kind"] == kind and line["method"] == method]
      if lines:
        print(f"{kind}\t{method}\t{len(lines)} trials\t{sum(bool(line['wrong']) for line in lines)} wrong")
  if any(line["wrong"] for line in done):
    raise SystemExit(1)


if __name__ == "__main__":
  # Where another library's saves end in other threads, its notes would bury the table.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  app.run(main)
