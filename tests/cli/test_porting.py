"""The worked example of docs/porting.md: a method that was written for 0.1 runs, or is told which line to change."""

from __future__ import annotations

import importlib
import pathlib
import re
import sys

import numpy as np
import pytest
import small_config

import cljax
from cljax import UsageError, methods
from cljax.cli import train
from cljax.core.types import Request, Tools
from cljax.methods import replay

PAGES = pathlib.Path(__file__).parents[2] / "docs"

# As the README of 0.1.0 had it.
OLD = '''"""Replay of the rows whose loss was largest when they were stored."""

from cljax import losses, memory
from cljax.method import Method
from cljax.methods import Entry, Option, register, replay
from cljax.tree import fold
from cljax.types import Access


def hard_replay(model, spec, *, capacity: int, keep) -> Method:
  """ER that stores only rows whose loss was above ``keep``."""
  buffer = memory.reservoir(capacity)

  def prepare(key, learner, batch):
    state = replay.insert(key, buffer, learner.method_state)
    rows, weight = buffer.sample(fold(key, "sample"), state.memory, spec.batch_size)
    batch = replay.append(batch, replay.drawn(spec, rows, weight, batch.task[0]))
    return learner._replace(method_state=state), batch

  def after_step(key, learner, info):
    own = slice(0, spec.batch_size)
    loss = losses.cross_entropy(info.outputs.logits[own], info.batch.y[own])
    state = learner.method_state._replace(
      pending=replay.rows_of(spec, info.batch), weight=info.batch.weight[own] * (loss > keep)
    )
    return learner._replace(method_state=state)

  return Method(
    init=lambda key, learner: replay.start(buffer, spec, replay.example_row(spec)),
    prepare=prepare,
    after_step=after_step,
    scrub=replay.scrub_memory(buffer),
  )


register(
  "hard_replay",
  Entry(
    hard_replay,
    {"capacity": Option(100, 1), "keep": Option(0.1, 0)},
    Access(stores_data=True),
    "an example",
  ),
)
'''


def lines(name: str) -> list[str]:
  """The lines of the page's block under ``# 0.1`` or ``# 0.2``."""
  (block,) = re.findall(r"```python\n(.*?)```", (PAGES / "porting.md").read_text(), re.S)
  return re.split(r"# 0\.\d\n", block)[1 if name == "0.1" else 2].splitlines()


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
  """``trained(source) -> (exit code, standard error)`` of a run with the method in a file beside its configuration."""

  def made(source: str):
    (tmp_path / "hard_replay.py").write_text(source)
    (tmp_path / "config.py").write_text(small_config.text("import hard_replay\n"))
    monkeypatch.syspath_prepend(str(tmp_path))
    given = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}", "--compilation_cache="]
    try:
      code = train.main(["launch", *given, "--config.method.name=hard_replay", "--config.method.capacity=8"])
    finally:
      methods.METHODS.pop("hard_replay", None)
      sys.modules.pop("hard_replay", None)
    return code, capsys.readouterr().err

  return made


def test_the_page_shows_lines_of_the_old_method_and_of_the_one_that_is_taught():
  old, new = lines("0.1"), lines("0.2")
  assert all(line in OLD.splitlines() for line in old)
  assert all(line in (PAGES / "own_method.md").read_text() for line in new)
  assert len(old) == len(new) == 2


def test_as_it_was_it_is_told_the_line_in_one(trained):
  code, said = trained(OLD)
  assert code == 2
  (line,) = [line for line in said.splitlines() if line.startswith("error")]
  at = OLD.splitlines().index(lines("0.1")[1]) + 1
  assert re.fullmatch(
    rf"error: visit: got \w+ \(.*hard_replay\.py, line {at}\); expected batch\.visit, where 0\.1 took batch\.task\[0\]",
    line,
  )
  shown = re.search(r"```text\n(.*)\n```", (PAGES / "porting.md").read_text())[1]
  assert re.sub(r"\(.*?hard_replay\.py", "(hard_replay.py", line.removeprefix("error: ")) == shown


def test_with_that_line_changed_it_runs_and_what_moved_warns(trained):
  new = r"replay\.insert is now cljax\.methods\.replay\.insert_pending; the old name goes with 0\.3"
  with pytest.warns(DeprecationWarning, match=new):
    code, said = trained(OLD.replace(lines("0.1")[1], lines("0.2")[1]))
  assert code == 0, said


def test_a_field_that_is_gone_is_told_with_the_line_and_what_there_is_instead(trained):
  old = OLD.replace(lines("0.1")[1], lines("0.2")[1])
  code, said = trained(old.replace("info.batch.weight[own]", "info.batch.coefficient[own]"))
  assert code == 2
  (line,) = [line for line in said.splitlines() if line.startswith("error")]
  at = next(n for n, text in enumerate(old.splitlines(), 1) if "info.batch.weight" in text)
  assert re.match(rf"error: Batch\.coefficient \(.*hard_replay\.py, line {at}\) is gone since 0\.2; rows that", line)


def test_other_names_that_are_gone():
  request, tools = Request(None, None, np.zeros((1, 2), bool), None), Tools(None)
  for part, name, instead in (
    (request, "ids", "request.names(batch.id, batch.task)"), (tools, "gradient", "spec.objective"),
    (tools, "train", "optax"), (replay, "share", "append(batch, more, scale=)"),
  ):  # fmt: skip
    with pytest.raises(AttributeError, match=rf"{name} \(.*test_porting\.py, line \d+\) is gone since 0\.2") as error:
      getattr(part, name)
    assert instead in str(error.value)
    assert not hasattr(part, name)
  for call, name in (
    (lambda: cljax.Access(pretrained=True), "Access.pretrained"),
    (lambda: methods.Entry(None, {}, None, "", test=1), "Entry.test"),
    (lambda: cljax.Batch(*[None] * 5)._replace(coefficient=1), "Batch.coefficient"),
    (lambda: cljax.Batch(*[None] * 5, coefficient=1), "Batch.coefficient"),
  ):
    with pytest.raises(UsageError, match=rf"^{name} \(.*test_porting\.py, line \d+\) is gone since 0\.2; "):
      call()
  rows = cljax.Batch(*[np.zeros(2)] * 6, np.ones(2))  # where the seventh field was the coefficient
  with pytest.raises(UsageError, match=r"^more \(.*test_porting\.py, line \d+\): has a group; their share"):
    replay.append(rows._replace(group=None), rows)
  with pytest.raises(ModuleNotFoundError, match=r"^cljax\.methods\.refresh is now cljax\.methods\.replay\.refresh$"):
    importlib.import_module("cljax.methods.refresh")
  for wrong in ("", "a b", "a=b", "er ", 3):
    with pytest.raises(UsageError, match=r"^method\.name: got .*; expected letters, digits and any of _@\.\+-/$"):
      methods.register(wrong, methods.METHODS["er"])
  with pytest.raises(AttributeError, match="'Batch' object has no attribute 'nothing'"):
    _ = cljax.Batch(*[None] * 5).nothing
