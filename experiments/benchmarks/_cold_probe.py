"""One sweep in this process, and where its time went: what :mod:`experiments.benchmarks.cold` starts for the parts.

``python -m experiments.benchmarks._cold_probe OUT.json SWEEP_ARGUMENTS``; ``$CLJAX_COLD_START`` is the Unix time at
which the process was started. Every moment of a thread counts for the innermost thing that it was doing, so that the
parts of the main thread and its rest add up to its wall time.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple

PARTS = {
  "import": "start of Python, imports",
  "trace": "trace to jaxprs",
  "lower": "lower to HLO",
  "compile": "XLA, and writing its cache",
  "read": "read of cached programs",
  "wait": "wait for other threads to compile",
  "train": "training",
  "eval": "evaluation",
  "checkpoint": "checkpoints",
  "results": "result.json, rows.jsonl",
  "pictures": "pictures",
  "rest": "all else",
}
EVENTS = {
  "/jax/core/compile/jaxpr_trace_duration": "trace",
  "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
  "/jax/core/compile/backend_compile_duration": "compile",
  "/jax/compilation_cache/cache_retrieval_time_sec": "read",
}


class Interval(NamedTuple):
  """What a thread did from ``start`` to ``end``, in Unix seconds."""

  kind: str
  start: float
  end: float


def exclusive(intervals: Iterable[Interval]) -> dict[str, float]:
  """Seconds of each kind, where of nested intervals of one thread the innermost counts.

  Intervals nest or are apart, but for the error of the clock: an inner one that seems to end later is cut.
  """
  seconds: dict[str, float] = {}
  open_: list[Interval] = []
  at = 0.0

  def advance(to: float) -> None:
    nonlocal at
    while open_:
      top = open_[-1]
      end = min(top.end, to)
      if end > at:
        seconds[top.kind] = seconds.get(top.kind, 0.0) + end - at
        at = end
      if top.end > to:
        break
      open_.pop()
    at = max(at, to)

  for interval in sorted(intervals, key=lambda i: (i.start, -i.end)):
    advance(interval.start)
    end = min(interval.end, open_[-1].end) if open_ else interval.end
    open_.append(interval._replace(end=end))
  advance(float("inf"))
  return seconds


def _apart(intervals: list[Interval]) -> list[Interval]:
  """Without the waits inside a checkpoint: they are its own."""
  saves = [i for i in intervals if i.kind == "checkpoint"]
  own = lambda w: w.kind == "wait" and any(s.start <= w.start and w.end <= s.end for s in saves)
  return [i for i in intervals if not own(i)]


_found: dict[int, list[Interval]] = {}
_importing = threading.local()


def _record(kind: str, start: float) -> None:
  _found.setdefault(threading.get_ident(), []).append(Interval(kind, start, time.time()))


def _heard(event: str, duration_secs: float, **kwargs: str | int) -> None:
  del kwargs
  if event in EVENTS:
    _record(EVENTS[event], time.time() - duration_secs)


@contextlib.contextmanager
def _during(kind: str):
  start = time.time()
  try:
    yield
  finally:
    _record(kind, start)


def _watch(owner: Any, name: str, kind: str) -> None:
  """Has each call of ``owner.name`` recorded."""
  function = getattr(owner, name)

  @functools.wraps(function)
  def watched(*args, **kwargs):
    with _during(kind):
      return function(*args, **kwargs)

  setattr(owner, name, watched)


def _watch_imports() -> None:
  """Those inside functions as well; a module that is there already costs nothing worth recording."""
  load = builtins.__import__

  def watched(*args, **kwargs):
    if getattr(_importing, "inside", False):
      return load(*args, **kwargs)
    _importing.inside, start = True, time.time()
    try:
      return load(*args, **kwargs)
    finally:
      _importing.inside = False
      if time.time() - start > 1e-3:
        _record("import", start)

  builtins.__import__ = watched


def _watch_clock(clock) -> None:
  timed = clock.timed

  @contextlib.contextmanager
  def watched(self, what):
    with _during(what), timed(self, what):
      yield

  clock.timed = watched


def main(argv: list[str]) -> int:
  begun = float(os.environ.get("CLJAX_COLD_START") or time.time())
  from cljax.cli import _environment

  _environment.prepare("__main__")
  from jax import monitoring

  import cljax.engine
  import cljax.engine.programs
  import cljax.evaluation.results
  import cljax.io.checkpoint
  from cljax.cli import sweep
  from cljax.cli.reporting import _plots
  from cljax.cli.sweeps import _units

  _record("import", begun)
  monitoring.register_event_duration_secs_listener(_heard)
  _watch_imports()
  _watch_clock(cljax.engine.programs.Clock)
  for name in ("save", "drop", "close"):
    _watch(cljax.io.checkpoint.Writer, name, "checkpoint")
  for owner, name, kind in (
    (cljax.evaluation.results, "write", "results"), (_units, "_write_rows", "results"),
    (Future, "exception", "wait"), (Future, "result", "wait"),
    (_plots, "matrix", "pictures"), (_plots, "comparison", "pictures"),
  ):  # fmt: skip
    _watch(owner, name, kind)
  code = sweep.main([argv[0], *argv[2:]])
  wall = time.time() - begun
  here = threading.get_ident()
  main_thread = exclusive(_apart(_found.pop(here, [])))
  main_thread["rest"] = wall - sum(main_thread.values())
  others: dict[str, float] = {}
  for intervals in _found.values():
    for kind, seconds in exclusive(_apart(intervals)).items():
      others[kind] = others.get(kind, 0.0) + seconds
  usage = resource.getrusage(resource.RUSAGE_SELF)
  content = {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "main": main_thread, "others": others, "code": code}
  with open(argv[1], "w") as file:
    json.dump(content, file)
  return code


if __name__ == "__main__":
  sys.exit(main(sys.argv))
