"""One learner trained by two processes: the same numbers as by one, and a run that changes between one and two."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import distributed_worker as worker
import numpy as np
import pytest
import quick

import cljax
from cljax.cli import _environment, train
from cljax.engine import mesh

# Sums over the rows of a batch are added in another order; a few dozen steps of SGD with momentum amplify it little.
TOLERANCE = 1e-5
HERE = pathlib.Path(__file__).parents[1]


def free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


def processes(commands, meanwhile=lambda running: None, timeout=240):
  """Runs commands side by side, one device each; returns ``[(exit code, output)]``."""
  environment = {**os.environ, "XLA_FLAGS": quick.FLAGS, "NPROC": "1", "JAX_PLATFORMS": "cpu"}
  environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
  running = [
    subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands
  ]
  try:
    meanwhile(running)
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
  # As a module of its own name: the checkpoint names the method's factory by it.
  command = [sys.executable, "-c", "import distributed_worker; distributed_worker.main()", str(port), "2"]
  for code, output in processes([[*command, str(i), str(folder)] for i in range(2)]):
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


def test_two_processes_train_what_one_does(two, alone):
  ours, theirs = load(two, "er_ewc", 0), load(two, "er_ewc", 1)
  assert ours["reduces"]
  assert_close(ours, alone["er_ewc"])
  for key, value in ours.items():
    np.testing.assert_array_equal(value, theirs[key], err_msg=key)


def test_one_process_then_two_with_parameters_cut(two, alone):
  found = load(two, "finetune")
  assert any("fsdp" in spec for spec in found["specs"])
  assert_close(found, alone["finetune"])


def test_two_processes_then_one(two, one, alone):
  assert load(two, "er_ewc", 0)["stopped"]
  assert load(two, "er_ewc", 1)["stopped"]
  messages: list[dict] = []
  result = one["er_ewc"].run(str(two / "two_then_one"), messages.append)
  (resumed,) = [m for m in messages if m["kind"] == "resumed"]
  assert 0 < resumed["total"] < result.steps
  assert_close({**worker.params(result), "accuracy": result.accuracy}, alone["er_ewc"])


CONFIG = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict({
    "data": {"name": "digits"}, "stream": {"kind": "class", "tasks": 5}, "model": {"name": "mlp", "hidden": (8,)},
    "train": {"epochs": 40, "chunk_steps": 10}, "method": {"name": "finetune"},
  })
"""


def test_a_signal_to_one_launcher_stops_both_and_one_goes_on(tmp_path, capsys):
  (tmp_path / "config.py").write_text(CONFIG)
  workdir = tmp_path / "run"
  command = ["launch.train", f"--config={tmp_path}/config.py", f"--workdir={workdir}", "--compilation_cache="]
  join = ["--mesh=data:2", f"--coordinator=localhost:{free_port()}", "--num_processes=2"]

  def interrupt(running):
    metrics = workdir / "metrics.jsonl"
    while all(p.poll() is None for p in running) and not (metrics.exists() and '"event": 0' in metrics.read_text()):
      time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)

  commands = [[sys.executable, "-m", *command, *join, f"--process_id={i}"] for i in range(2)]
  ended = processes(commands, interrupt)
  assert [code for code, _ in ended] == [143, 143], ended
  assert not (workdir / "result.json").exists()
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  chunks = [(r["event"], r["step"]) for r in rows if r["kind"] == "chunk"]
  assert chunks
  assert len(chunks) == len(set(chunks))
  assert train.main(command) == 0
  assert "final accuracy" in capsys.readouterr().out
  assert len(json.loads((workdir / "result.json").read_text())["accuracy_matrix"][0]) == 6


STEP = {
  "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2",
  "SLURM_STEP_NUM_TASKS": "2",
}  # fmt: skip


@pytest.mark.parametrize(
  ("environment", "several"),
  [
    ({}, False),
    (STEP, True),
    ({**STEP, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, False),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, False),  # sbatch, no srun
    ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, False),
  ],
)
def test_processes_are_found_in_the_environment(monkeypatch, environment, several):
  for name in [n for n in os.environ if n.startswith(("SLURM_", "TPU_"))]:
    monkeypatch.delenv(name)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert _environment.found_processes() == several


@pytest.mark.parametrize(
  ("arguments", "named"),
  [
    (("", 2, None), "num_processes"),
    (("somewhere", 2, 0), "coordinator"),
    (("host:1", None, 0), "num_processes"),
    (("host:1", 2, 2), "process_id"),
  ],
)
def test_half_a_set_of_flags_is_refused(arguments, named):
  with pytest.raises(cljax.UsageError, match=named):
    _environment.distribute(*arguments)


@pytest.mark.parametrize("text", ["data", "data:0", "rows:2", "data:1,data:2", "data:x"])
def test_meshes_that_make_no_sense_are_refused(text):
  with pytest.raises(cljax.UsageError, match="mesh: got"):
    mesh.parse(text)


def test_meshes_by_flag():
  assert mesh.parse("population:1, data:2") == {"population": 1, "data": 2}
  with pytest.raises(cljax.UsageError, match="needs 4096 devices"):
    mesh.make({"data": 4096})
