"""The experiment of facts in a real decoder, on a tiny one of random weights: tables, SIGKILL in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import decoders_by_hand as hand
import numpy as np
import pytest

from cljax import data, evaluators
from experiments import _facts, smollm_facts

SMALL = ["--config.train.epochs=3", "--config.train.chunk_steps=2", "--config.optimizer.learning_rate=0.02",
         "--config.forget.steps=2", "--config.data.length=72"]  # fmt: skip
PEOPLE = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A decoder of two blocks whose tokens were learned from the facts."""
  made = tmp_path_factory.mktemp("decoder")
  facts = _facts.invented(PEOPLE)
  texts = [p + f.answer for known in facts.values() for f in known for p in f.prompts()]
  words = data.tokens.train_tokenizer(made, texts, 320)
  config = {**hand.LLAMA, "vocab_size": words.vocabulary, "max_position_embeddings": 128}
  hand.write(made, config)
  return made


@pytest.fixture(scope="module")
def more(tmp_path_factory):
  return [*SMALL, f"--compilation_cache={tmp_path_factory.mktemp('cache')}"]


@pytest.fixture(scope="module", autouse=True)
def small():
  with pytest.MonkeyPatch.context() as patch:
    for name, value in (("LENGTH", 72), ("MOMENT_TOKENS", 1024), ("WINDOW", 16), ("PLAIN_ROWS", 2)):
      patch.setattr(smollm_facts, name, value)
    yield
  for name in ("answers", "few_samples"):
    evaluators.EVALUATORS.pop(name, None)  # the other tests of this process know nothing of them


@pytest.fixture(scope="module")
def settings(folder):
  return smollm_facts.Settings(str(folder), "layers_0/mlp/down_proj", PEOPLE)


@pytest.fixture(scope="module")
def whole(settings, more, tmp_path_factory):
  made = tmp_path_factory.mktemp("runs")
  assert smollm_facts.run(str(made / "work"), settings, str(made / "out"), more) == 0
  return made


def test_the_generator_s_facts_are_told_apart(tmp_path):
  facts = _facts.invented(8)
  assert facts == _facts.invented(8) != _facts.invented(8, seed=1)
  every = [f for known in facts.values() for f in known]
  assert len({f.subject for f in every}) == 24
  # What stands in front of an answer is of one fact alone; the new wording is none that is learned.
  prompts = [p for f in every for p in f.prompts()]
  assert len(set(prompts)) == len(prompts) == 24 * 4
  for f in every:
    answers = _facts.RELATIONS[f.relation][1]
    assert f.answer.strip() in answers
    assert f.other().strip() in answers
    assert f.other() != f.answer
  _facts.write(tmp_path / "facts", facts)
  dataset = data.load(f"text:{tmp_path / 'facts'}", length=72, test_fraction=0.25)
  words = data.tokens.byte_tokenizer()
  for f in every:
    rows = _facts.row_ids(facts, f)
    at = np.flatnonzero(np.isin(np.asarray(dataset.train.id), rows))
    texts = [words.decode(dataset.train.x["token"][i][dataset.train.x["mask"][i] > 0]) for i in at]
    assert texts == [p + f.answer for p in f.prompts()[:-1]]
  test = dataset.test.x
  last = [words.decode(t[m > 0]) for t, m in zip(test["token"], test["mask"], strict=True)]
  assert sorted(last) == sorted(f.prompts()[-1] + f.answer for f in every)


def test_tables_of_all_that_happened_are_written(whole, settings):
  result = json.loads((whole / "work" / "run" / "result.json").read_text())
  assert np.shape(result["scores"]["perplexity"]) == (1, 5, 3)
  assert result["task_names"] == list(_facts.TASKS)
  found = result["evaluations"]["answers"]
  assert np.shape(found["learned"]) == np.shape(found["reworded"]) == (1, 5, 3)
  assert result["texts"]["few_samples"]["samples"][0][-1][2]
  edit = json.loads((whole / "work" / "edit.json").read_text())
  assert list(edit["states"]) == ["before training", "trained, one forgotten", "one edited"]
  trained, edited = edit["states"]["trained, one forgotten"], edit["states"]["one edited"]
  assert edited["edited fact, new answer"] != trained["edited fact, new answer"]
  assert 0 < edit["change"] < 10
  page = (whole / "out" / "README.md").read_text()
  for said in ("## Perplexity of answers", "## One fact edited", "| perplexity of plain text |", "## What it goes on"):
    assert said in page
  assert page.count("| forgot one |") == 3


def test_a_run_that_is_killed_ends_on_the_same_bits(whole, settings, more, tmp_path):
  """SIGKILL in the second task, and the same command again; then the edit is the same too."""
  code = (
    "import sys, pathlib\nfrom experiments import smollm_facts as s\ns.LENGTH = 72\n"
    f"sys.exit(s.train(pathlib.Path({str(tmp_path)!r}), s.Settings(*{list(settings)!r}),"
    f" {[*more, '--config.checkpoint.every=1']!r}))"
  )
  command = [sys.executable, "-c", code]
  env = {**os.environ, "PYTHONPATH": os.getcwd()}
  process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)  # fmt: skip
  log = tmp_path / "run" / "metrics.jsonl"
  until = time.monotonic() + 300
  inside = lambda: log.exists() and re.search(r'"kind": "chunk", "event": 1', log.read_text())
  while process.poll() is None and not inside() and time.monotonic() < until:
    time.sleep(0.005)
  assert process.poll() is None, "it ended before it was killed"
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert "resumed at event" in done.stderr
  one, two = (json.loads((p / "run" / "result.json").read_text()) for p in (whole / "work", tmp_path))
  for key in ("params_sha256", "scores", "evaluations", "texts"):
    assert one[key] == two[key], key
  again = smollm_facts.edit(tmp_path, settings)
  assert again["edit_sha256"] == json.loads((whole / "work" / "edit.json").read_text())["edit_sha256"]
