"""Kills runs that forget and purge at random moments, and looks for the deleted rows in every file they leave.

``python -m experiments.kill_and_forget --images=1000 --kills=50`` goes on from what was recorded, ``--most=30`` with so
many trials at most.

Two kinds of kill. An *image* is a copy of the folder made inside the process before a random change of a file
(``experiments/_crash_images.py``); half of them are killed once more while they go on. A *kill* is SIGKILL to a process
at a random moment after its first request was met. After each the ledger must be true: no file holds a row of which it
says that it is deleted; and after the run has gone on to its end no file holds any deleted row, the ledger names all,
and the parameters are those of the run that was let be. ``experiments/results/kill_and_forget.tsv`` has a line for each
trial, with the commit that was tried; it is written after each, and the same command goes on where it was stopped. The
table of ``docs/deletion.md`` is made from it. Exits with code 1 where a trial went wrong.
"""

from __future__ import annotations

import collections
import csv
import io
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap

import jax
from absl import app, flags

from cljax.io import files
from experiments import _page_table, _planted
from experiments._crash_images import Images, copy
from experiments._kill import kill_after
from experiments._proof_records import ROOT

FILE = pathlib.Path(ROOT) / "experiments" / "results" / "kill_and_forget.tsv"
PAGE = pathlib.Path(ROOT) / "docs" / "deletion.md"
FIELDS = ("trial", "kind", "method", "at", "of", "again", "files_with_rows", "wrong", "commit", "opened")
METHODS = {"er": {"capacity": 24}, "derpp": {"capacity": 24}, "unified": {"capacity": 24}, "retrain": {}}


def prepared(method: str):
  rows = 20 if method == "unified" else 12  # a request to a task of fewer than 30 rows is refused under importances
  return _planted.prepared(method, METHODS[method], forget="retrain" if method == "retrain" else "ssd", rows=rows)


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
      moments = random.Random(f"{flags.FLAGS.seed}/{trial}")
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
      delay = 1.5 * random.Random(f"{flags.FLAGS.seed}/{trial}").random()
      folder = f"{root}/{trial}"
      hit = killed(method, folder, delay)
      left = sorted(_planted.holders(folder, stream, _planted.asked_ids(stream)))
      wrong = _planted.untrue(folder, stream) or judged(folder, stream, run.run(folder), whole)
      write({"trial": trial, "kind": "kill" if hit else "ended before", "method": method, "at": f"{delay:.3f}",
             "files_with_rows": len(left), "wrong": wrong})  # fmt: skip
      shutil.rmtree(folder)


def commit() -> str:
  """The commit that is tried, with a plus where the tree has more than it."""
  of = lambda *command: subprocess.run(["git", *command], capture_output=True, text=True, cwd=ROOT, check=True).stdout
  changed = [line for line in of("status", "--porcelain").splitlines() if "experiments/results/" not in line]
  return of("rev-parse", "--short=10", "HEAD").strip() + ("+" if changed else "")


def read() -> list[dict]:
  lines = list(csv.DictReader(io.StringIO(FILE.read_text()), delimiter="\t")) if FILE.exists() else []
  return [{**dict.fromkeys(FIELDS, ""), **line} for line in lines]


def save(lines: list[dict]) -> None:
  """The record, and the table of the docs."""
  text = io.StringIO()
  writer = csv.DictWriter(text, FIELDS, delimiter="\t", lineterminator="\n")
  writer.writeheader()
  writer.writerows(sorted(lines, key=lambda line: int(line["trial"])))
  files.write_text(FILE, text.getvalue())
  _page_table.show(PAGE, "kills", table(lines))


def table(lines: list[dict]) -> str:
  hits = [line for line in lines if line["kind"] != "ended before"]
  count = lambda of, among=hits: sum(bool(of(line)) for line in among)
  kills = [line for line in hits if line["kind"] == "kill"]
  again = lambda line: line["kind"] == "image" and int(line["again"] or 0) > 0
  held = count(lambda line: int(line["files_with_rows"] or 0) > 0, kills)
  wrong = count(lambda line: line["wrong"])
  commits = ", ".join(f"`{c}` {n}" for c, n in collections.Counter(line["commit"] for line in hits).items())
  found = (
    "after each kill no file held a row of which the ledger says that it is deleted; at the end of the run that went "
    "on no file held any deleted row, the ledger named all, and the parameters were those of the run that was let be"
  )
  opened = count(lambda line: line["opened"])
  found += f"; for {opened} of them compressed chunks were opened too, in which most pending rows stand"
  ended = found if not wrong else f"{wrong} went wrong"
  told = (
    f"Killed {len(hits)} times at random, {count(again)} of them drawn for a second kill while they went on "
    "(`python -m experiments.kill_and_forget`, `experiments/results/kill_and_forget.tsv`; by commit: "
    f"{commits}): {ended}. *In copies* are kills by a copy of the folder before a change of a file; the others are "
    f"SIGKILLs. In {held} of the {len(kills)} folders of SIGKILLs some file still held "
    "rows then, which is what the ledger's `requested` says."
  )
  out = [textwrap.fill(told, 120), "", "| method | in copies | drawn again | SIGKILL | wrong |", "| --- " * 5 + "|"]
  for method in METHODS:
    mine = [line for line in hits if line["method"] == method]
    kinds = collections.Counter(line["kind"] for line in mine)
    cells = kinds["image"], count(again, mine), kinds["kill"], count(lambda line: line["wrong"], mine)
    out.append(f"| `{method}` | {' | '.join(map(str, cells))} |")
  return "\n".join(out) + "\n"


def main(argv) -> None:
  del argv
  if flags.FLAGS.worker:
    prepared(flags.FLAGS.method).run(flags.FLAGS.worker)
    return
  done, tried = read(), commit()
  did, left = {int(line["trial"]) for line in done}, flags.FLAGS.most or sys.maxsize

  def write(line: dict) -> None:
    done.append({**dict.fromkeys(FIELDS, ""), **line, "commit": tried, "opened": 1})
    save(done)

  names = list(METHODS)
  for run, first, last in ((of_images, 0, flags.FLAGS.images), (of_kills, 10**6, 10**6 + flags.FLAGS.kills)):
    mine = {m: [t for t in range(first + i, last, len(names)) if t not in did] for i, m in enumerate(names)}
    for method, trials in shared(mine, left).items():
      left -= len(trials)
      if trials:
        run(method, trials, write)
  save(done)
  print(table(done))
  if any(line["wrong"] for line in done):
    raise SystemExit(1)


def shared(trials: dict[str, list[int]], most: int) -> dict[str, list[int]]:
  """At most so many of the trials, the earliest, whichever method they are of."""
  first = set(sorted(t for mine in trials.values() for t in mine)[:most])
  return {method: [t for t in mine if t in first] for method, mine in trials.items()}


if __name__ == "__main__":
  flags.DEFINE_integer("images", 1000, "kills by copies of the folder", lower_bound=0)
  flags.DEFINE_integer("kills", 50, "kills by SIGKILL", lower_bound=0)
  flags.DEFINE_integer("seed", 0, "seed of the moments")
  flags.DEFINE_integer("most", 0, "trials of this call, at most (0: all that are left)", lower_bound=0)
  flags.DEFINE_string("worker", "", "only run, in this folder, and print the digest")
  flags.DEFINE_string("method", "er", "method of a worker")
  # Where another library's saves end in other threads, its notes would bury the table.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  app.run(main)
