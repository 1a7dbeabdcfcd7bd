"""One learner trained by two processes: the same numbers as by one, and a run that changes between one and two."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import distributed_worker as worker
import numpy as np
import pytest

import cljax

# Sums over the rows of a batch are added in another order; a few dozen steps of SGD with momentum amplify it little.
TOLERANCE = 1e-5
HERE = pathlib.Path(__file__).parent


def free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


def processes(commands, environment=None, timeout=240):
  """Runs commands side by side; returns ``[(exit code, output)]``."""
  environment = {**os.environ, "XLA_FLAGS": "", "NPROC": "1", "JAX_PLATFORMS": "cpu", **(environment or {})}
  running = [
    subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands
  ]
  try:
    outputs = [p.communicate(timeout=timeout)[0] for p in running]
  finally:
    for p in running:
      p.kill()
  return [(p.returncode, output) for p, output in zip(running, outputs, strict=True)]


@pytest.fixture(scope="module")
def one():
  """What one process prepared, by method."""
  return {method: worker.prepared(method) for method in worker.METHODS}


@pytest.fixture(scope="module")
def alone(one):
  """Undisturbed runs of one process."""
  return {method: built.run() for method, built in one.items()}


@pytest.fixture(scope="module")
def two(one, tmp_path_factory):
  """What two processes did; before them, one process began a run that they finished."""
  folder = tmp_path_factory.mktemp("two")
  stop = worker.StopAfter()
  with pytest.raises(cljax.Stopped):
    one["finetune"].run(str(folder / "one_then_two"), stop.report, stop)
  port = free_port()
  script = str(HERE / "distributed_worker.py")
  for code, output in processes([[sys.executable, script, str(port), "2", str(i), str(folder)] for i in range(2)]):
    assert code == 0, output
  return folder


def load(folder, name, process=0):
  with np.load(folder / f"{name}-{process}.npz") as found:
    return dict(found)


def assert_close(found, result):
  wanted = worker.params(result)
  for path, leaf in wanted.items():
    np.testing.assert_allclose(found[path], leaf, rtol=0, atol=TOLERANCE, err_msg=path)
  np.testing.assert_array_equal(found["accuracy"], result.accuracy)


@pytest.mark.parametrize("method", worker.METHODS)
def test_two_processes_train_what_one_does(two, alone, method):
  ours, theirs = load(two, method, 0), load(two, method, 1)
  assert ours["reduces"]
  assert_close(ours, alone[method])
  for key, value in ours.items():
    np.testing.assert_array_equal(value, theirs[key], err_msg=key)


def test_one_process_then_two_with_parameters_cut(two, alone):
  found = load(two, "resumed")
  assert any("fsdp" in spec for spec in found["specs"])
  assert_close(found, alone["finetune"])


def test_two_processes_then_one(two, one, alone):
  assert load(two, "er", 0)["stopped"]
  assert load(two, "er", 1)["stopped"]
  messages: list[dict] = []
  result = one["er"].run(str(two / "two_then_one"), messages.append)
  (resumed,) = [m for m in messages if m["kind"] == "resumed"]
  assert 0 < resumed["total"] < result.steps
  assert_close({**worker.params(result), "accuracy": result.accuracy}, alone["er"])
