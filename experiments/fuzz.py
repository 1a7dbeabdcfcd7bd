"""Feeds hostile flags, data files and workdir files to what reads them: each ends well, or in an error of one line.

``python -m experiments.fuzz --inputs=10000 --seed=0 --out=DIR``; run it again and it goes on where it was stopped.

Input ``n`` of a seed is always the same, whatever came before: ``--only=N`` repeats one. What is no success and no
CljaxError (a traceback, more than ``--seconds``, a MemoryError) goes to DIR/failures.jsonl with the input.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from typing import Any

import numpy as np

from cljax import CljaxError
from experiments import _fuzz_files, _fuzz_flags

KINDS = {
  "flags": (_fuzz_flags.flags, 8),
  "grids": (_fuzz_flags.grids, 3),
  "requests": (_fuzz_flags.requests, 3),
  "data": (_fuzz_files.data_files, 4),
  "workdir": (_fuzz_files.workdir_files, 4),
}
_TURNS = [kind for kind, (_, often) in KINDS.items() for _ in range(often)]


class Slow(BaseException):
  """An input took longer than it may."""


def kind_of(number: int) -> str:
  return _TURNS[number % len(_TURNS)]


def attempt(seed: int, number: int, seconds: float) -> dict | None:
  """One input; None where it ended well, else what went wrong: ``{number, kind, input, error, where}``."""
  kind = kind_of(number)
  rng = np.random.default_rng([seed, number])
  folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))

  def late(*_):
    raise Slow

  shown, said = ["not made"], io.StringIO()
  before = signal.signal(signal.SIGALRM, late)
  try:
    shown, call = KINDS[kind][0](rng, folder)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with contextlib.redirect_stderr(said), warnings.catch_warnings():
      warnings.simplefilter("ignore")
      call()
  except CljaxError as error:
    return None if str(error).strip() else _failure(number, kind, shown, f"{type(error).__name__} without a word", "")
  except (Exception, Slow) as error:
    signal.setitimer(signal.ITIMER_REAL, 0)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{pathlib.Path(f.filename).name}:{f.lineno}" for f in frames if "site-packages" not in f.filename]
    what = f"more than {seconds:g} s" if isinstance(error, Slow) else f"{type(error).__name__}: {str(error)[:300]}"
    return _failure(number, kind, shown, what, " ".join(ours[-4:]))
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    shutil.rmtree(folder, ignore_errors=True)
  return None


def _failure(number: int, kind: str, shown, error: str, where: str) -> dict:
  short = [s if not isinstance(s, str | bytes) or len(s) <= 300 else s[:300] for s in shown]
  return {"number": number, "kind": kind, "input": repr(short), "error": error, "where": where}


def run(seed: int, numbers, seconds: float, found=lambda failure: None) -> collections.Counter:
  """Counts of inputs by kind, and of failures; ``found`` is told each failure."""
  counts: collections.Counter = collections.Counter()
  for number in numbers:
    counts[kind_of(number)] += 1
    failure = attempt(seed, number, seconds)
    if failure is not None:
      counts["failures"] += 1
      found(failure)
  return counts


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--inputs", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--seconds", type=float, default=20.0)
  parser.add_argument("--only", type=int, default=None)
  parser.add_argument("--gib", type=float, default=12.0, help="address space, in GiB: what needs more is a MemoryError")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("/tmp/cljax-fuzz"))
  given = parser.parse_args()
  resource.setrlimit(resource.RLIMIT_AS, (int(given.gib * 2**30), resource.getrlimit(resource.RLIMIT_AS)[1]))
  if given.only is not None:
    failure = attempt(given.seed, given.only, given.seconds)
    print(json.dumps(failure, indent=1) if failure else f"{kind_of(given.only)}: ended well")
    return 1 if failure else 0
  given.out.mkdir(parents=True, exist_ok=True)
  place, failures = given.out / f"seed{given.seed}.json", given.out / "failures.jsonl"
  state: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {"next": 0, "counts": {}}
  counts: collections.Counter = collections.Counter(state["counts"])
  step = 50
  for first in range(state["next"], given.inputs, step):
    with failures.open("a") as file:
      tell = lambda failure: print(json.dumps({"seed": given.seed, **failure}), file=file, flush=True)
      counts += run(given.seed, range(first, min(first + step, given.inputs)), given.seconds, tell)
    temporary = place.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"next": min(first + step, given.inputs), "counts": counts}))
    temporary.replace(place)
    print(f"{min(first + step, given.inputs)} inputs, {counts['failures']} failures", file=sys.stderr, flush=True)
  print(json.dumps(dict(counts)))
  return 1 if counts["failures"] else 0


if __name__ == "__main__":
  sys.exit(main())
