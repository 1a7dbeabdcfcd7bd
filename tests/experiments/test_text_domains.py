"""The experiment of three languages on a tiny package: matrices and samples in its report, SIGKILL in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_debian

from cljax.cli import report, train
from cljax.data import corpora, tokens

CONFIG = "experiments/text_domains.py"
SMALL = {
  "model.width": 16, "model.mlp_width": 16, "model.depth": 1, "model.heads": 2, "model.kv_heads": 1, "data.length": 16,
  "data.tokens": 0, "data.test_fraction": 0.2, "train.chunk_steps": 4, "eval.block": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  whole = corpora.DEBS["languages"]
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(corpora.DEBS, "languages", tiny_debian.write(folder, tiny_debian.files(pages=10)))
    patch.setattr(corpora, "VOCABULARY", 300)
    corpora.prepare("languages", folder)
  assert corpora.DEBS["languages"] is whole
  return folder


@pytest.fixture(scope="module")
def command(root, tmp_path_factory):
  cache = tmp_path_factory.mktemp("cache")

  def given(workdir, *more, **changed):
    flags = [f"--config.{k}={v}" for k, v in {**SMALL, "data.data_dir": root, **changed}.items()]
    return ["launch.train", f"--config={CONFIG}", f"--workdir={workdir}", f"--compilation_cache={cache}", *flags, *more]

  return given


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "whole"
  assert train.main(command(folder)) == 0
  return folder


def of(folder):
  return json.loads((folder / "result.json").read_text())


def test_perplexity_matrices_and_samples_stand_in_the_report(whole, root):
  found = of(whole)
  assert found["main"] == "perplexity"
  assert np.shape(found["scores"]["perplexity"]) == (1, 4, 3)
  assert np.shape(found["evaluations"]["bits_per_byte"]["bits_per_byte"]) == (1, 4, 3)
  assert found["task_names"] == ["english", "german", "russian"]
  (shown,) = found["texts"]["samples"]["samples"]
  assert [[len(of_task) > 0 for of_task in row] for row in shown] == [[True] * 3] * 4
  words = tokens.tokenizer(root / "languages")
  russian = (root / "languages" / "russian.txt").read_text(encoding="utf-8")
  for entry in shown[-1][2]:
    assert entry["prompt"].strip("�\n ") in russian
  assert words.vocabulary == 300
  assert report.main(["launch.report", str(whole)]) == 0
  page = (whole / "report.html").read_text(encoding="utf-8")
  assert ">Score matrices</h2>" in page
  assert '<th scope="col">1 german</th>' in page
  assert ">Samples</h2>" in page
  last = page.split(">Samples</h2>")[1].split("<h2>")[0]
  for task, name in enumerate(found["task_names"]):
    assert last.count(f"Prompt of task {task} {name} (test row ") == 2, "two of eight are shown"
  assert last.count('<tr><th scope="row">') == 6 * 3, "after each task, none from before the first"
  assert "<script" not in last


def test_a_run_that_is_killed_ends_on_the_same_bits(command, whole, tmp_path):
  """SIGKILL in the second language, and the same command again."""
  env = {**os.environ, "PYTHONPATH": os.getcwd()}
  again = command(tmp_path, **{"checkpoint.every": 1})
  process = subprocess.Popen([sys.executable, "-m", *again], env=env, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
  log = tmp_path / "metrics.jsonl"
  until = time.monotonic() + 300
  inside = lambda: log.exists() and re.search(r'"kind": "chunk", "event": 1', log.read_text())
  while process.poll() is None and not inside() and time.monotonic() < until:
    time.sleep(0.005)
  assert process.poll() is None, "it ended before it was killed"
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  assert not (tmp_path / "result.json").exists()
  done = subprocess.run([sys.executable, "-m", *again], env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert "resumed at event" in done.stderr
  one, two = of(whole), of(tmp_path)
  for key in ("params_sha256", "scores", "evaluations", "texts", "metrics"):
    assert one[key] == two[key], key


@pytest.mark.parametrize("method", ["er", "ewc", "lwf", "lora_ewc"])
def test_methods_run_by_their_name_alone(command, method, tmp_path):
  tuned = {"model.tuning": "lora", "model.tuning_trained": "embed_tokens"} if method == "lora_ewc" else {}
  name = method.removeprefix("lora_")
  given = {"method.name": name, "evaluators": "bits_per_byte", **tuned}
  assert train.main(command(tmp_path, **given)) == 0
  found = of(tmp_path)
  assert np.isfinite(found["scores"]["perplexity"]).all()
  expected = {"er": {"capacity": 300, "replay_batch": 2}, "ewc": {"strength": 0.25, "fisher": "empirical"},
              "lwf": {"strength": 1.0, "temperature": 2.0}}[name]  # fmt: skip
  assert expected.items() <= found["config"]["method"].items()


BAD = [
  ({"data.name": "text:nowhere"}, "text:nowhere not found"),
  ({"data.tokenizer": "nowhere"}, "nowhere has no tokenizer.json"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[m for _, m in BAD])
def test_text_that_does_not_fit_is_refused_in_one_line(command, given, message, tmp_path, capsys):
  assert train.main(command(tmp_path, **given)) == 2
  error = capsys.readouterr().err.strip()
  assert error.startswith("error: ")
  assert message in error
  assert "\n" not in error
  assert not (tmp_path / "result.json").exists()


FILES = [
  ("a.txt", b"good text \xff here\n" * 9, "is not UTF-8 (byte 0xff at 10)"),
  ("a.jsonl", b'{"prompt": "why?", "answer": ""}\n' * 4, "line 1: answer is ''; expected text that is not empty"),
  ("a.jsonl", b'{"text": ""}\n', "line 1: text is ''; expected text that is not empty"),
  ("a.txt", b"x", "a has 1 rows of 16 tokens; expected two or more"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES, ids=[m for *_, m in FILES])
def test_files_that_are_no_text_are_refused_in_one_line(command, name, content, message, tmp_path, capsys):
  folder = tmp_path / "texts"
  folder.mkdir()
  (folder / name).write_bytes(content)
  more = {"data.name": f"text:{folder}", "data.tokenizer": "bytes", "stream.tasks": 1}
  assert train.main(command(tmp_path / "run", **more)) == 2
  error = capsys.readouterr().err.strip()
  assert message in error
  assert "\n" not in error
  assert (folder / name).read_bytes() == content, "nothing is lost"
