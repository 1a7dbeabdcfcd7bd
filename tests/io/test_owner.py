"""One folder, several processes: the second ends in one line that names the first, a dead one is followed."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from cljax.io import owner

ROOT = pathlib.Path(__file__).parents[2]
HOLDS = """
import sys, time
from cljax.io import owner
with owner.holding(sys.argv[1]):
  print("held", flush=True)
  time.sleep(60)
"""
WORKS = """
import pathlib, random, sys, time
from cljax.io import owner
folder, number = pathlib.Path(sys.argv[1]), int(sys.argv[2])
for turn in range(40):
  try:
    with owner.holding(folder):
      text = (folder / "count").read_text() if (folder / "count").exists() else "0"
      time.sleep(0.001 * random.Random(100 * number + turn).random())
      (folder / "count").write_text(str(int(text) + 1))
      print("done", flush=True)
  except owner.HeldError as error:
    assert "is worked on by process" in str(error), error
"""


def started(code: str, *arguments) -> subprocess.Popen:
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  command = [sys.executable, "-c", code, *map(str, arguments)]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_the_second_is_told_who_holds_it_and_a_dead_one_is_followed(tmp_path):
  first = started(HOLDS, tmp_path)
  assert first.stdout.readline() == "held\n", first.stderr.read()
  with pytest.raises(owner.HeldError) as error, owner.holding(tmp_path):
    pass
  told = (
    rf"workdir: {tmp_path} is worked on by process {first.pid} on {re.escape(socket.gethostname())} since \d{{4}}-.*"
  )
  assert re.fullmatch(told + "; wait until it has ended", str(error.value))
  first.send_signal(signal.SIGKILL)
  first.wait()
  with owner.holding(tmp_path), owner.holding(tmp_path):  # inside it, nothing
    assert len(owner.history(tmp_path / owner.HIDDEN)) == 2
  assert [r["left"] for r in owner.history(tmp_path / owner.HIDDEN)] == ["finished"], "the dead one is not kept"
  assert not list(tmp_path.glob("[!.]*"))


def test_another_thread_is_another(tmp_path):
  found = []

  def other():
    try:
      with owner.holding(tmp_path):
        found.append("held too")
    except owner.HeldError as error:
      found.append(str(error))

  with owner.holding(tmp_path):
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
  assert f"process {os.getpid()}" in found[0]


def test_a_holder_elsewhere_is_believed(tmp_path):
  """A shared file system without locks: the file says who it is, and nobody can ask another machine."""
  place = tmp_path / owner.HIDDEN
  place.mkdir()
  (place / "owner.1.json").write_text('{"host": "another", "pid": 1, "start": "1", "since": "2026-01-01 00:00:00"}')
  told = f"on another since 2026.*if that is gone for good, remove {place}"
  with pytest.raises(owner.HeldError, match=told), owner.holding(tmp_path):
    pass


def test_who_looked_too_early_takes_nothing(tmp_path, monkeypatch):
  """Two came and went between a look and the creation of the next file, a third holds the folder now."""
  place = tmp_path / owner.HIDDEN
  place.mkdir()
  (place / "owner.8.json").write_text(json.dumps(owner.myself()))
  true, looks = owner.latest, iter([(5, {"left": "finished"})])
  monkeypatch.setattr(owner, "latest", lambda folder: next(looks, None) or true(folder))
  assert isinstance(owner.take(place), owner.Held)
  assert [p.name for p in place.iterdir()] == ["owner.8.json"]


def test_what_several_processes_count_is_counted_once(tmp_path):
  """Each read and write of the counter happens while nobody else holds the folder, whoever comes when."""
  workers = [started(WORKS, tmp_path, n) for n in range(3)]
  said = [w.communicate(timeout=120) for w in workers]
  assert all(w.returncode == 0 for w in workers), said
  done = sum(out.count("done") for out, _ in said)
  assert done >= len(workers)
  assert int((tmp_path / "count").read_text()) == done


RUN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts us may ignore them
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import cljax
from cljax import models, streams
from conftest import blobs
chunks = 0
def report(message):
  global chunks
  if message["kind"] == "chunk":
    chunks += 1
    print("chunk", flush=True)
    if chunks == int(sys.argv[2]):
      sys.stdin.readline()
stream = streams.build(blobs(), "class", tasks=2)
training = cljax.Recipe(batch_size=4, epochs=2)
options = cljax.Options(chunk_steps=4)
try:
  result = cljax.run(stream, models.mlp((4, 4, 1), 4, hidden=(4,)), training=training, options=options,
                     workdir=sys.argv[1], report=report)
except KeyboardInterrupt:
  print("interrupted", flush=True)
  sys.exit(5)
except cljax.CljaxError as error:
  print(error, flush=True)
  sys.exit(4)
print(result.params_sha256[0], flush=True)
"""


def run(tmp_path, waits=0) -> subprocess.Popen:
  """Such a run; after as many chunks as ``waits`` it reads a line before it goes on."""
  environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/tests"}
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
  return subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), str(waits)], text=True, env=environment, **pipes)


def test_a_library_run_saves_at_its_end_and_is_held_meanwhile(tmp_path):
  """Ctrl-C and a closed terminal: what was done is there, and the run goes on to the bits of one that nobody ended."""
  alone = run(tmp_path / "alone")
  first = run(tmp_path / "run", waits=2)
  assert [first.stdout.readline() for _ in range(2)] == ["chunk\n"] * 2, first.stderr.read()
  second = run(tmp_path / "run")
  told, error = second.communicate(timeout=120)
  assert second.returncode == 4, error
  assert f"is worked on by process {first.pid}" in told
  first.send_signal(signal.SIGINT)
  said, error = first.communicate("\n", timeout=120)
  assert first.returncode == 5, error
  assert said.endswith("interrupted\n")
  assert "WARNING" not in error
  third = run(tmp_path / "run", waits=2)
  assert [third.stdout.readline() for _ in range(2)] == ["chunk\n"] * 2, third.stderr.read()
  third.send_signal(signal.SIGHUP)
  third.communicate("\n", timeout=120)
  assert third.returncode == -signal.SIGHUP
  last = run(tmp_path / "run")
  found, wanted = last.communicate(timeout=120)[0].splitlines(), alone.communicate(timeout=120)[0].splitlines()
  assert found[-1] == wanted[-1]
  assert len(found) == len(wanted) - 4, "it went on from what was saved"
