"""The train launcher: what it writes, resuming, errors and exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cljax import Stopped
from cljax.cli import _build, _shared, train
from cljax.cli._progress import Progress

ROOT = Path(__file__).parents[2]
ER = ("--config.method.name=er", "--config.stream.forget=5:ids=0-30", "--config.forget.name=retrain", "--seeds=2")


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
  """A finished run: its workdir and result.json."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  assert train.main(command(*ER, f"--workdir={workdir}")) == 0
  return workdir, json.loads((workdir / "result.json").read_text())


def lines(path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_result_has_the_documented_schema(finished):
  _, result = finished
  E, T = 6, 5
  assert result["method"] == "er"
  assert result["stream"] == "digits/class/5"
  assert result["seeds"] == [0, 1]
  assert np.shape(result["accuracy_matrix"]) == np.shape(result["task_accuracy_matrix"]) == (2, E + 1, T)
  assert [e["kind"] for e in result["events"]] == ["learn"] * 5 + ["forget"]
  for name in ("acc", "bwt", "fwt", "forgetting", "average_incremental_accuracy"):
    for where in ("metrics", "task_metrics", "validation_metrics"):
      entry = result[where][name]
      assert len(entry["values"]) == 2
      assert entry["mean"] == pytest.approx(np.mean(entry["values"]))
      assert entry["stderr"] == pytest.approx(abs(np.subtract(*entry["values"])) / 2)
  # Against the definitions, from the matrix itself.
  R = np.asarray(result["accuracy_matrix"])[:, 1:6]
  assert result["metrics"]["acc"]["values"] == pytest.approx(R[:, -1].mean(-1))
  bwt = (R[:, -1] - np.diagonal(R, axis1=1, axis2=2))[:, :-1].mean(-1)
  assert result["metrics"]["bwt"]["values"] == pytest.approx(bwt)
  start = np.asarray(result["accuracy_matrix"])[:, 0]
  fwt = (np.diagonal(R, 1, 1, 2) - start[:, 1:]).mean(-1)
  assert result["metrics"]["fwt"]["values"] == pytest.approx(fwt)
  assert result["metrics"]["acc_after_last_event"]["values"] == pytest.approx(
    np.asarray(result["accuracy_matrix"])[:, -1].mean(-1)
  )
  (forgotten,) = result["forgotten"]
  assert forgotten["event"] == 5
  assert len(forgotten["forget"]) == len(forgotten["retain"]) == 2
  assert result["state_bytes"] > 20 * 64
  assert result["steps"] > 0
  assert set(result["seconds"]) == {"compile", "train", "eval"}
  assert all(len(digest) == 64 for digest in result["params_sha256"])
  assert result["alive"] == [True, True]
  assert {"jax", "jaxlib", "numpy", "device"} <= set(result["versions"])
  assert int(result["environment"]["NPROC"]) >= 1
  assert result["config"]["data"]["digest"] == result["dataset_digest"]
  assert result["config"]["method"]["capacity"] == 20, "method_defaults of the file hold"
  assert result["config"]["method"]["policy"] == "reservoir", "the registry's defaults are merged"


def test_metrics_and_picture(finished):
  workdir, result = finished
  rows = lines(workdir / "metrics.jsonl")
  events = [row for row in rows if row["kind"] == "event"]
  assert [row["event"] for row in events] == list(range(6))
  assert np.allclose([row["test"] for row in events], np.swapaxes(result["accuracy_matrix"], 0, 1)[1:])
  chunks = [row for row in rows if row["kind"] == "chunk"]
  assert [row["total"] for row in chunks] == sorted({row["total"] for row in chunks})
  assert chunks[-1]["total"] == result["steps"]
  assert (workdir / "accuracy_matrix.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_finished_run_prints_its_table_without_running(finished, command, monkeypatch, capsys):
  workdir, _ = finished
  before = hashlib.sha256((workdir / "result.json").read_bytes()).hexdigest()
  monkeypatch.setattr(_build, "execute", lambda *a, **k: pytest.fail("it ran again"))
  assert train.main(command(*ER, f"--workdir={workdir}")) == 0
  out = capsys.readouterr().out
  assert "final accuracy, class-incremental" in out
  assert "±" in out
  assert hashlib.sha256((workdir / "result.json").read_bytes()).hexdigest() == before


def test_a_workdir_of_another_configuration_is_refused(finished, command, capsys):
  workdir, _ = finished
  given = command(*ER, f"--workdir={workdir}", "--config.train.epochs=3", "--config.optimizer.learning_rate=0.2")
  assert train.main(given) == 2
  error = capsys.readouterr().err
  assert "train.epochs: 2 -> 3" in error
  assert "optimizer.learning_rate: 0.1 -> 0.2" in error
  assert len(error.splitlines()) == 1
  assert train.main(command(*ER, f"--workdir={workdir}", "--config.checkpoint.every=3")) == 0, "no other run"


def test_stopped_by_a_signal_it_resumes_to_the_same_bits(finished, command, tmp_path, monkeypatch, capsys):
  _, whole = finished
  seen = []

  def call(self, message):
    seen.append(message)
    if message["kind"] == "chunk" and sum(m["kind"] == "chunk" for m in seen) == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(Progress, "__call__", call)
  given = command(*ER, f"--workdir={tmp_path}")
  assert train.main(given) == 143
  assert "run the same command again to resume" in capsys.readouterr().err
  assert not (tmp_path / "result.json").exists()
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "handlers are put back"
  with (tmp_path / "metrics.jsonl").open("a") as f:
    f.write('{"kind": "chunk", "event": 4, "step": 1, "total": 9999}\n{"kind": "chu')  # as a kill -9 may leave it
  assert train.main(given) == 0
  assert any(m["kind"] == "resumed" for m in seen)
  result = json.loads((tmp_path / "result.json").read_text())
  for key in ("params_sha256", "accuracy_matrix", "task_accuracy_matrix", "forgotten", "steps", "state_bytes"):
    assert result[key] == whole[key], key
  rows = lines(tmp_path / "metrics.jsonl")
  places = [(row["kind"], row["event"], row["total"]) for row in rows]
  assert len(places) == len(set(places))
  assert [row["event"] for row in rows if row["kind"] == "event"] == list(range(6))
  totals = [row["total"] for row in rows if row["kind"] == "chunk"]
  assert totals == sorted(totals)
  assert max(totals) == result["steps"]


def test_a_full_disk_loses_nothing(command, tmp_path, capsys):
  # The temporary file of result.json lies on a device that is full; the write fails as on a full disk.
  (tmp_path / f".result.json.{os.getpid()}").symlink_to("/dev/full")
  given = command("--seeds=1", f"--workdir={tmp_path}")
  assert train.main(given) == 1
  error = capsys.readouterr().err
  assert "No space left on device" in error
  assert len(error.splitlines()) == 1
  rows = (tmp_path / "metrics.jsonl").read_text()
  assert (tmp_path / "checkpoints" / "5").exists()
  assert not (tmp_path / "result.json").exists()
  assert train.main(given) == 0, "with space again, it goes on from the last checkpoint"
  assert (tmp_path / "metrics.jsonl").read_text() == rows


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_set_a_flag_and_the_exit_code(capsys, number, code):
  def run(argv, stop):
    assert not stop()
    os.kill(os.getpid(), number)
    assert stop()
    raise Stopped("stopped at step 3")

  assert _shared.guarded(run, []) == code
  assert capsys.readouterr().err == "stopped: stopped at step 3; saved, run the same command again to resume\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_before_anything_can_be_saved_a_signal_interrupts(capsys, number, code):
  def run(argv, stop):
    os.kill(os.getpid(), number)
    raise AssertionError("a stream of any length may be in the making here")

  assert _shared.guarded(run, []) == code
  assert capsys.readouterr().err.startswith("error: interrupted before the state was saved")


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_a_refused_configuration_leaves_the_folder_free(command, tmp_path, capsys, overwrite):
  where = f"--workdir={tmp_path / 'run'}"
  many = "--config.stream.kind=permuted --config.stream.tasks=100000 --config.stream.task_fractions=()"
  for wrong, said in (("--config.train.batch_size=0", "batch_size: got 0"), (many, "scores of 100000 tasks after")):
    assert train.main(command(where, *wrong.split(), *overwrite)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not list((tmp_path / "run").glob("[!.]*"))
  assert train.main(command(where)) == 0


def test_a_second_interrupt_does_not_wait(capsys):
  def run(argv, stop):
    assert not stop()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    return 0

  assert _shared.guarded(run, []) == 130
  assert "interrupted" in capsys.readouterr().err


def test_a_full_disk_inside_a_library_is_recognised():
  inner = ValueError("RESOURCE_EXHAUSTED: Failed writing: No space left on device [os_error_code='28']")
  outer = RuntimeError("save failed")
  outer.__cause__ = inner
  assert "No space left" in (_shared.disk_full(outer) or "")
  assert _shared.disk_full(ValueError("something else")) is None


def test_divergence_at_once_says_where_and_leaves_the_folder_free(command, tmp_path, capsys):
  given = command("--config.optimizer.learning_rate=1e20", f"--workdir={tmp_path}")
  assert train.main(given) == 1
  error = capsys.readouterr().err
  assert "at step" in error
  assert "of task 0" in error
  assert "seed 0" in error
  assert len(error.splitlines()) == 1
  assert not list(tmp_path.glob("[!.]*"))


BAD = [
  (["--config.method.name=ewcc"], "method.name: unknown 'ewcc'; did you mean"),
  (["--config.forget.name=nothing"], "forget.name: unknown 'nothing'"),
  (["--config.data.name=nothing"], "data.name: unknown dataset 'nothing'; allowed: "),
  (["--config.model.name=nothing"], "model: got 'nothing'; allowed: "),
  (["--config.method.name=ewc", "--config.method.strenth=1"], "did you mean method.strength?"),
  (["--config.method.strength=1"], "method.strength: 'finetune' has no such option"),
  (
    ["--config.method.name=ewc", "--config.method.strength=-1"],
    "method.strength: got -1.0; expected a number of at least 0",
  ),
  (["--config.method.name=ewc", "--config.method.strength=abc"], "method.strength: got 'abc'; expected a number"),
  (["--config.method.name=ewc", "--config.method.strength=1e999"], "method.strength: got 1e999; expected a finite"),
  (["--config.method.name=ewc", "--config.method.fisher=best"], "method.fisher: got 'best'; allowed: auto, exact"),
  (
    ["--config.train.batch_size=1000000000000"],
    "train.batch_size: got 1000000000000; expected at most 2147483647",
  ),
  (["--config.train.epochs=2000000000"], "train.epochs: got 2000000000, which makes "),
  (
    ["--config.method.name=er", "--config.method.capacity=9000000000000000000"],
    "method.capacity: got 9000000000000000000; expected an integer of at most 2147483647",
  ),
  (["--config.train.epochs=1.5"], "train.epochs: got '1.5'; expected an integer"),
  (["--config.train.epochs=0"], "train.epochs: got 0; expected an integer of at least 1"),
  (["--config.train.batch_sise=3"], "train.batch_sise: no such field; allowed: "),
  (["--config.trian.epochs=3"], "did you mean train?"),
  (["--config.epochs=3"], "epochs: no such key; expected SECTION.FIELD"),
  (["--config.train.feed=disk"], "train.feed: unknown 'disk'; allowed: device, grain"),
  (["--config.eval.block=0"], "eval.block: got 0; expected an integer of at least 1"),
  (["--config.optimizer.name=sgdd"], "optimizer.name: unknown 'sgdd'; allowed: "),
  (["--config.optimizer.schedule_over=day"], "optimizer.schedule_over: unknown 'day'; allowed: task, stream"),
  (["--config.stream.kind=nothing"], "stream.kind: unknown 'nothing'; allowed: "),
  (
    ["--config.stream.tasks=3", "--config.stream.classes_per_task=4"],
    "3 tasks of 4 classes need 12 classes; there are",
  ),
  (
    ["--config.stream.tasks=3"],
    "stream.tasks: 10 classes do not divide into 3 tasks; give classes_per_task, such as 3 (1 left out)",
  ),
  (["--config.stream.class_order=[0,0]"], "stream.class_order: got [0, 0]; expected distinct classes"),
  (["--config.stream.forget=2:class=77"], "class 77 does not exist; classes are 0..9"),
  (["--config.stream.forget=2:class=1"], "stream.forget: event 2 asks to forget, but the method does not"),
  (["--config.stream.seed=-1"], "stream.seed: got -1; expected an integer of at least 0"),
  (["--config.model.hidden=wide"], "model.hidden: got 'wide'; expected a list"),
  (["--seeds=0"], "seeds: got '0'; expected a number of at least 1"),
  (["--seeds=1,1"], "seeds: got '1,1'"),
  (["--nothing=1"], "--nothing: no such flag; allowed: "),
  (["now"], "arguments: got 'now'"),
  (["--config=/nowhere.py"], "config: no file '/nowhere.py'"),
  (["--workdir="], "workdir: not given"),
  (["--workdir=/dev/null/run"], "workdir: cannot write to /dev/null/run"),
]


@pytest.mark.parametrize(("given", "text"), BAD, ids=[" ".join(given) for given, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path, capsys, given, text):
  assert train.main(command(f"--workdir={tmp_path / 'run'}", *given)) == 2
  error = capsys.readouterr().err
  assert text in error
  assert error.startswith("error: ")
  assert len(error.splitlines()) == 1
  assert not (tmp_path / "run" / "checkpoints").exists()


FILES = [
  ("x = 1", "defines no get_config()"),
  ("import nothing_of_this_name", "cannot be loaded: ModuleNotFoundError"),
  ("def get_config(): return 3", "gave int; expected a ConfigDict"),
  ("def get_config(): return {'trian': {}}", "unknown section 'trian'"),
  ("def get_config(): return {'train': {'epoch': 1}}", "train.epoch: no such field"),
  ("def get_config(): return {'train': {'epochs': 'many'}}", "train.epochs: got 'many'; expected an integer"),
]


@pytest.mark.parametrize(("text", "expected"), FILES)
def test_a_bad_configuration_file(tmp_path, capsys, text, expected):
  file = tmp_path / "config.py"
  file.write_text(text)
  assert train.main(["launch", f"--config={file}", f"--workdir={tmp_path}/run"]) == 2
  error = capsys.readouterr().err
  assert expected in error
  assert len(error.splitlines()) == 1


def test_as_a_program_it_exits_with_2_and_one_line(tmp_path):
  given = ["--config=experiments/split_digits.py", "--config.method.name=ewcc", f"--workdir={tmp_path}"]
  done = subprocess.run(
    [sys.executable, "-m", "launch.train", *given], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
  )
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1
  assert "method.name: unknown 'ewcc'" in done.stderr
  assert done.stdout == ""
