"""Each task of tests in a process of its own, which shares no compiled program and no module of the tree with another.

A server imports the heavy third-party packages once, but neither the tree nor a JAX backend, and forks a child a task:
about a second less than a fresh interpreter. A child may see other source text for some files (``overlay``), may trace
the lines that its tests enter (``lines``), and calls ``builtins.mutant_ran()`` where an overlay marks itself as
executed. XLA's programs are shared through a cache on disk, which tracing does not pass: Python is always entered.

Processes that a test starts itself see no overlay and are not traced: ``started`` counts them.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import importlib.machinery
import itertools
import json
import os
import pathlib
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM = (
  "jax", "jax.numpy", "flax.nnx", "flax.linen", "optax", "numpy", "scipy.stats", "sklearn.metrics", "hypothesis",
  "orbax.checkpoint", "ml_collections", "absl.app", "etils.epath", "grain", "equinox", "PIL.Image", "matplotlib",
  "tarfile", "coverage", "pytest",
)  # fmt: skip
MOST_MEMORY = 8 << 30  # bytes of data a child may hold: a mutant must not take the machine


class Task(NamedTuple):
  name: str
  tests: tuple[str, ...]  # pytest node ids, relative to the root, in the order in which they run
  overlay: dict[str, str] = {}  # path below the root -> source text that stands for it
  lines: bool = False  # trace the lines that the tests enter
  collect: bool = False  # list the node ids of ``tests`` instead of running them
  timeout: float = 300.0


class Result(NamedTuple):
  name: str
  outcome: str  # passed, failed, skipped, error (nothing ran, or not collected), crashed, timeout
  seconds: float
  failed: str = ""  # the first test that failed
  message: str = ""  # one line why
  tests: dict[str, tuple[str, float]] = {}  # node id -> its outcome (xfailed is one) and seconds; in order
  lines: dict[str, list[int]] = {}  # path below the root -> lines entered since the first test's setup
  active: bool = False  # the overlay's mark was reached
  started: int = 0  # processes that the tests started themselves


def run(tasks: Iterable[Task], jobs: int = 2, root=ROOT, warm=WARM) -> Iterator[Result]:
  """The results of ``tasks`` as they come, ``jobs`` at a time."""
  with pool(jobs, root, warm) as results:
    yield from results(tasks)


@contextlib.contextmanager
def pool(jobs: int = 2, root=ROOT, warm=WARM) -> Iterator[Callable[[Iterable[Task]], Iterator[Result]]]:
  """A warm server for several calls of what it yields: ``tasks -> results``. Tasks are drawn as children come free."""
  with tempfile.TemporaryDirectory(prefix="isolated") as folder:
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), str(root), folder, *warm]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    ask, answers = server.stdin, server.stdout

    def results(tasks: Iterable[Task]) -> Iterator[Result]:
      waiting, running = iter(tasks), 0
      while True:
        for task in itertools.islice(waiting, jobs - running):
          print(json.dumps(task._asdict()), file=ask, flush=True)
          running += 1
        if not running:
          return
        line = answers.readline()
        if not line:
          raise RuntimeError(f"the server of isolated tests ended with code {server.wait()}")
        running -= 1
        found = json.loads(line)
        yield Result(**{**found, "tests": {test: tuple(of) for test, of in found.get("tests", {}).items()}})

    try:
      yield results
    finally:
      ask.close()
      server.wait()
      answers.close()


def _serve(root: str, folder: str, warm) -> None:
  """Reads tasks from stdin, a line each, and forks a child for each at once; writes results to stdout."""
  for name in warm:
    with contextlib.suppress(ImportError):  # an extra that is not installed
      importlib.import_module(name)
  gc.collect()
  gc.freeze()  # a child's collector does not touch, and so copy, what it shares with the server
  children: dict[int, tuple[int, float, dict, pathlib.Path]] = {}  # pidfd -> pid, start, task, folder
  rest, number, open_ = b"", 0, True
  while open_ or children:
    ends = [start + task["timeout"] for _, start, task, _ in children.values()]
    wait = max(0.0, min(ends) - time.monotonic()) if ends else None
    ready = select.select([*([0] if open_ else []), *children], [], [], wait)[0]
    for fd in list(children):
      pid, start, task, place = children[fd]
      late = time.monotonic() - start > task["timeout"]
      if fd not in ready and not late:
        continue
      with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # and what its tests left running
      _, status = os.waitpid(pid, 0)
      os.close(fd)
      del children[fd]
      print(json.dumps(_result(task, place, late, status, time.monotonic() - start)), flush=True)
      subprocess.run(["rm", "-rf", str(place)], check=False)
    if 0 in ready:
      text = os.read(0, 1 << 20)
      if not text:  # whoever asked is gone
        open_ = False
        for pid, *_ in children.values():
          with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
      *lines, rest = (rest + text).split(b"\n")
      for line in lines:
        number += 1
        place = pathlib.Path(folder) / f"task{number}"
        place.mkdir()
        task = json.loads(line)
        pid = os.fork()
        if not pid:
          _child(task, pathlib.Path(root), place)
        with contextlib.suppress(OSError):
          os.setpgid(pid, pid)
        children[os.pidfd_open(pid)] = (pid, time.monotonic(), task, place)


def _result(task: dict, place: pathlib.Path, late: bool, status: int, seconds: float) -> dict[str, Any]:
  found: dict[str, Any] = {"name": task["name"], "seconds": round(seconds, 3), "active": (place / "ran").exists()}
  if (place / "result").exists() and not late:
    return {**json.loads((place / "result").read_text()), **found}
  code = os.waitstatus_to_exitcode(status)
  out = (place / "out").read_text(errors="replace").strip()[-300:] if (place / "out").exists() else ""
  return {**found, "outcome": "timeout" if late else "crashed", "message": "" if late else f"exit code {code}: {out}"}


def _child(task: dict, root: pathlib.Path, place: pathlib.Path) -> None:
  """Runs one task, writes ``result`` into ``place``, never returns."""
  try:
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out = os.open(place / "out", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(place / "hypothesis")
    os.chdir(root)
    builtins.mutant_ran = lambda: (place / "ran").touch()  # type: ignore[attr-defined]
    _overlay({str(root / path): text for path, text in task["overlay"].items()})
    _decided()
    found = _tests(task, root, place)
    (place / "partial").write_text(json.dumps(found))
    (place / "partial").rename(place / "result")
  except BaseException:
    import traceback

    traceback.print_exc()
    os._exit(70)
  os._exit(0)


def _overlay(texts: dict[str, str]) -> None:
  """Modules at these paths are compiled from the given texts; everything else about them is as on disk."""
  before = importlib.machinery.SourceFileLoader.get_code

  def get_code(self, fullname):
    path = os.path.abspath(self.get_filename(fullname))
    if path in texts:
      return compile(texts[path], path, "exec", dont_inherit=True)
    return before(self, fullname)

  importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def _decided() -> None:
  """Hypothesis draws the same examples each time, and does not look for the smallest one that fails."""
  if "hypothesis" in sys.modules:
    from hypothesis import Phase, settings

    settings.register_profile("isolated", phases=(Phase.explicit, Phase.generate), derandomize=True, database=None)
    settings.load_profile("isolated")


def _tests(task: dict, root: pathlib.Path, place: pathlib.Path) -> dict[str, Any]:
  import pytest

  started: list[int] = []
  sys.addaudithook(lambda event, _: started.append(1) if event in ("subprocess.Popen", "os.posix_spawn") else None)
  watch = _Watch(task["lines"], root)
  arguments = [f"--rootdir={root}", f"--basetemp={place / 'base'}", "-p", "no:cacheprovider", "-x", "-q"]
  arguments += ["--collect-only"] if task["collect"] else []
  os.environ["CLJAX_TEST_EVERY"] = "1"  # a file's tests are all that it has, no sample
  code = int(pytest.main([*arguments, "--", *task["tests"]], plugins=[watch]))
  outcomes = {outcome for outcome, _ in watch.tests.values()}
  if code == 1 and watch.failed:
    outcome = "failed"
  elif code or not watch.tests:
    outcome = "error"
  else:
    outcome = "skipped" if outcomes & {"skipped", "xfailed", "xpassed"} else "passed"
  message = watch.message or (f"pytest exited with {code}" if outcome == "error" else "")
  return {
    "outcome": outcome, "failed": watch.failed, "message": message, "tests": watch.tests, "lines": watch.lines(),
    "started": len(started),
  }  # fmt: skip


class _Watch:
  """A plugin of pytest that notes what became of each test, and traces from the first test's setup on."""

  def __init__(self, trace: bool, root: pathlib.Path):
    self.tests: dict[str, tuple[str, float]] = {}
    self.failed = self.message = ""
    self.root, self.coverage = root, None
    if trace:
      import coverage

      self.coverage = coverage.Coverage(data_file=None, include=[f"{root}/*"], config_file=False)

  def pytest_collection_finish(self, session):
    if session.config.option.collectonly:
      self.tests = {item.nodeid: ("collected", 0.0) for item in session.items}
    elif self.coverage is not None:
      self.coverage.start()

  def pytest_collectreport(self, report):
    if report.failed:
      self.message = self.message or _line(report)

  def pytest_runtest_logreport(self, report):
    outcome, seconds = self.tests.get(report.nodeid, ("passed", 0.0))
    if hasattr(report, "wasxfail"):
      outcome = "xfailed" if report.skipped else "xpassed"
    elif not report.passed:
      outcome = report.outcome
    if report.failed and not self.failed:
      self.failed, self.message = report.nodeid, _line(report)
    self.tests[report.nodeid] = (outcome, round(seconds + report.duration, 3))

  def lines(self) -> dict[str, list[int]]:
    if self.coverage is None:
      return {}
    self.coverage.stop()
    data = self.coverage.get_data()
    paths = {os.path.relpath(path, self.root): path for path in data.measured_files()}
    return {name: sorted(data.lines(path) or []) for name, path in sorted(paths.items())}


def _line(report) -> str:
  crash = getattr(report.longrepr, "reprcrash", None)
  text = crash.message if crash else str(report.longrepr)
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return " ".join(lines[:2] if crash else lines[-2:])[:300]


if __name__ == "__main__":
  os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(sys.argv[2]) / "jax_cache")  # one for all children
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  sys.path[0] = str(pathlib.Path(sys.argv[1]) / "tests")
  with contextlib.suppress(ImportError):  # a tree without it is compiled as it is
    importlib.import_module("quick")
  for _name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"):
    os.environ.pop(_name, None)
  sys.path[0] = sys.argv[1]
  _serve(sys.argv[1], sys.argv[2], sys.argv[3:])
