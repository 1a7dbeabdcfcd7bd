"""A search for violated laws over random combinations of runs.

``python -m experiments.metamorphic --workdir=DIR [--count=1000 --jobs=2 --seed=0]``

Each number is a law and a combination (methods, options, stream, order with returns, requests, seeds), drawn from
``SeedSequence([seed, number])``; ``--only=NUMBER`` repeats one alone and says all about it. Numbers that stand in
``DIR/results.jsonl`` are skipped, so that it can be stopped and started again. Workers are processes of their own,
renewed after ``--recycle`` numbers or where they grow; a crash, or more than ``--limit`` seconds, violates the law
"ends". Writes ``table.md`` and ``table.json`` beside (and into ``--table``). Exits with code 1 where a law was
violated.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import json
import os
import pathlib
import queue
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import numpy as np
from absl import app, flags

from cljax.io.files import write_text

ROOT = pathlib.Path(__file__).parent.parent
MOST_BYTES = 3 << 30  # of a worker's memory


def laws() -> dict:
  """The table, after each module has added its own."""
  for module in ("names", "parts", "cover"):
    importlib.import_module(f"experiments._metamorphic_{module}")
  return importlib.import_module("experiments._metamorphic_laws").LAWS


def drawn(seed: int, number: int, only: str = ""):
  """``(law's name, combination, arguments of Trial, rng)`` of a number; ``only`` names the law instead of a draw."""
  from experiments import _metamorphic_draw as draws

  rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
  table = {name: law for name, law in laws().items() if not law.always and law.weight}
  if only == "crossed":
    cover = importlib.import_module("experiments._metamorphic_cover")
    rows = cover.design(seed)
    return only, cover.combination(rows[number % len(rows)], rng), {}, rng
  name = only or draws.pick(rng, table, [law.weight for law in table.values()])
  law = table[name]
  while True:
    combination, setting = law.prepare(rng, draws.draw(rng, **law.draw))
    if law.applies(combination):
      return name, combination, setting, rng


def attempt(seed: int, number: int, only: str = "") -> dict:
  """What came of a number: the law, the runs made, ``violated`` ``{law: text}``, ``refused`` (a text or '')."""
  import cljax
  from experiments._metamorphic_trial import RefusedError, Trial

  since = time.time()
  name, combination, setting, rng = drawn(seed, number, only)
  out = {"seed": seed, "number": number, "law": name, "refused": "", "violated": {}, "runs": 0, "checked": []}
  out["combination"] = str(combination)
  trial, stage = Trial(combination, **setting), "base"
  try:
    trial.start()
    stage = "law"
    for kind, law in laws().items():
      if not law.always and kind != name:
        continue
      try:
        found = law.check(trial, rng)
        out["checked"].append(kind)
      except RefusedError as error:
        found, out["refused"] = None, f"variant: {error}"
      except cljax.CljaxError as error:
        found = f"{type(error).__name__} in a variant of what ran: {error}"
      if found:
        out["violated"][kind] = found
  except cljax.UsageError as error:
    out["refused"] = str(error)
  except cljax.CljaxError as error:
    out["violated"]["finite"] = f"{type(error).__name__}: {error}"
  except Exception as error:
    where = traceback.extract_tb(error.__traceback__)
    ours = [f for f in where if "/cljax/" in f.filename] or where
    at = f"{pathlib.Path(ours[-1].filename).name}:{ours[-1].lineno}"
    text = str(error).strip().splitlines()[:1]
    out["violated"]["one line"] = f"{stage}: {type(error).__name__} at {at}: {''.join(text)[:300]}"
  out["runs"] = trial.runs
  return {**out, "seconds": round(time.time() - since, 2)}


def work(seed: int, only: str) -> None:
  """A worker: numbers on standard input, results on what was standard output."""
  results = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  import jax

  jax.config.update("jax_disable_most_optimizations", True)
  cache = tempfile.mkdtemp(prefix="metamorphic-cache-")
  jax.config.update("jax_compilation_cache_dir", cache)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  try:
    for line in sys.stdin:
      result = attempt(seed, int(line), only)
      jax.clear_caches()
      result["bytes"] = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
      print(json.dumps(result), file=results, flush=True)
  finally:
    shutil.rmtree(cache, ignore_errors=True)


def start(seed: int, only: str) -> subprocess.Popen:
  command = [sys.executable, "-m", "experiments.metamorphic", "--worker", f"--seed={seed}", f"--law={only}"]
  environment = {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **os.environ}
  return subprocess.Popen(
    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    env=environment,
  )  # fmt: skip


def end(worker: subprocess.Popen | None, kill: bool = False) -> None:
  if worker is None:
    return
  if kill:
    worker.kill()
  assert worker.stdin
  with contextlib.suppress(BrokenPipeError):
    worker.stdin.close()
  worker.wait()


def ask(worker: subprocess.Popen, number: int, limit: float) -> dict | str:
  """The worker's result, or why there is none."""
  assert worker.stdin
  assert worker.stdout
  try:
    print(number, file=worker.stdin, flush=True)
  except BrokenPipeError:
    return f"the process ended with code {worker.wait()}"
  if not select.select([worker.stdout], [], [], limit)[0]:
    return f"no result after {limit:.0f} s"
  line = worker.stdout.readline()
  return json.loads(line) if line.endswith("\n") else f"the process ended with code {worker.wait()}"


def labour(numbers: queue.SimpleQueue, done, seed: int, limit: float, recycle: int, only: str = "") -> None:
  """Works the queue off with one worker at a time; ``done(result)`` of each."""
  worker, count = None, 0
  try:
    while True:
      try:
        number = numbers.get_nowait()
      except queue.Empty:
        return
      if worker is None:
        worker, count = start(seed, only), 0
      result, count = ask(worker, number, limit), count + 1
      if isinstance(result, str):
        end(worker, kill=True)
        name, combination, *_ = drawn(seed, number, only)
        lost = {"law": name, "combination": str(combination), "refused": "", "checked": [], "runs": 1}
        result = {"seed": seed, "number": number, **lost, "violated": {"ends": result}, "seconds": limit}
        worker = None
      elif count >= recycle or result["bytes"] > MOST_BYTES:
        end(worker)
        worker = None
      done(result)
  finally:
    end(worker)


def summary(results: list[dict]) -> dict:
  """Counts by law, the distinct refusals and the violations."""
  by_law: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for r in results:
    own = by_law[r["law"]]
    own.update(combinations=1, runs=r["runs"], refused=bool(r["refused"]), seconds=r["seconds"])
    for name in r["checked"]:
      by_law[name]["checked"] += 1
    for name in r["violated"]:
      by_law[name]["violated"] += 1
  refusals = collections.Counter(re.sub(r"\d+(, \d+)*", "N", r["refused"]) for r in results if r["refused"])
  return {
    "combinations": len(results),
    "runs": sum(r["runs"] for r in results),
    "violated": sum(bool(r["violated"]) for r in results),
    "refused": sum(bool(r["refused"]) for r in results),
    "laws": {name: dict(count) for name, count in sorted(by_law.items())},
    "refusals": dict(refusals.most_common()),
    "violations": [{k: r[k] for k in ("seed", "number", "violated", "combination")} for r in results if r["violated"]],
  }


def as_markdown(table: dict) -> str:
  known = laws()
  lines = [
    "# Metamorphic laws over random combinations",
    "",
    f"{table['combinations']} combinations, {table['runs']} runs, {table['violated']} violated, {table['refused']} "
    "refused in one line. A run is one call of `cljax.run` or `Prepared.run`. Made by `experiments/metamorphic.py`.",
    "",
    "| law | why it must hold | combinations | runs | checked | violated | refused | seconds |",
    "| --- | --- | --: | --: | --: | --: | --: | --: |",
  ]
  for name, count in table["laws"].items():
    why = known[name].why if name in known else "every combination ends with a result or a one-line UsageError"
    numbers = [count.get(k, 0) for k in ("combinations", "runs", "checked", "violated", "refused", "seconds")]
    lines.append(f"| {name} | {why} | " + " | ".join(f"{n:.0f}" for n in numbers) + " |")
  for title, rows in (
    ("Violations", [f"`--seed={v['seed']} --only={v['number']}`: {v['violated']} in {v['combination']}"
                    for v in table["violations"]]),
    ("Refusals", [f"{count} x {text}" for text, count in table["refusals"].items()]),
  ):  # fmt: skip
    lines += ["", f"## {title}", "", *([f"- {row}" for row in rows] or ["None."])]
  return "\n".join(lines) + "\n"


def main(argv) -> None:
  del argv
  args = flags.FLAGS
  if args.worker:
    return work(args.seed, args.law)
  if args.only is not None:
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    result = attempt(args.seed, args.only, args.law)
    print(json.dumps(result, indent=1))
    raise SystemExit(1 if result["violated"] else 0)
  if not args.workdir:
    raise app.UsageError("--workdir: missing; expected a folder for the results")
  count = args.count
  if args.law == "crossed":  # the whole design, unless less is asked for
    laws()
    count = min(count, len(importlib.import_module("experiments._metamorphic_cover").design(args.seed)) - args.first)
  folder = pathlib.Path(args.workdir)
  folder.mkdir(parents=True, exist_ok=True)
  path, lock = folder / "results.jsonl", threading.Lock()
  numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
  results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
  results = [r for r in results if r["seed"] == args.seed and r["number"] < args.first + count]
  there = {r["number"] for r in results}
  for number in range(args.first, args.first + count):
    if number not in there:
      numbers.put(number)

  def done(result: dict) -> None:
    with lock:
      results.append(result)
      with open(path, "a") as file:
        print(json.dumps(result), file=file)
      bad = "".join(f"\n  {name}: {text}" for name, text in result["violated"].items())
      print(f"{len(results)}/{count} {result['number']} {result['law']} {result['seconds']} s{bad}", flush=True)

  hands = [
    threading.Thread(target=labour, args=(numbers, done, args.seed, args.limit, args.recycle, args.law))
    for _ in range(args.jobs)
  ]
  for hand in hands:
    hand.start()
  for hand in hands:
    hand.join()
  table = summary(sorted(results, key=lambda r: r["number"]))
  for where in filter(None, (folder, args.table)):
    pathlib.Path(where).mkdir(parents=True, exist_ok=True)
    write_text(f"{where}/table.json", json.dumps(table, indent=1) + "\n")
    write_text(f"{where}/table.md", as_markdown(table))
  print(f"{table['combinations']} combinations, {table['runs']} runs, {table['violated']} violated")
  raise SystemExit(1 if table["violated"] else 0)


if __name__ == "__main__":
  flags.DEFINE_string("workdir", "", "where results.jsonl and the table go")
  flags.DEFINE_string("table", "", "a second folder for the table")
  flags.DEFINE_integer("seed", 0, "seed of the draws", lower_bound=0)
  flags.DEFINE_integer("first", 0, "first number", lower_bound=0)
  flags.DEFINE_integer("count", 1000, "how many numbers", lower_bound=1)
  flags.DEFINE_integer("jobs", 2, "workers at a time", lower_bound=1)
  flags.DEFINE_integer("only", None, "repeat one number")
  flags.DEFINE_string("law", "", "this law instead of those drawn; crossed: a design that crosses features")
  flags.DEFINE_float("limit", 600.0, "seconds for one number", lower_bound=1)
  flags.DEFINE_integer("recycle", 25, "numbers of one worker", lower_bound=1)
  flags.DEFINE_boolean("worker", False, "read numbers from standard input (used by the search itself)")
  app.run(main)
