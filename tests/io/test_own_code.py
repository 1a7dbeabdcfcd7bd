"""What the user wrote is part of a run's identity: what a function reaches, and nothing else."""

from __future__ import annotations

import functools
import importlib
import json
import sys

import numpy as np
import pytest
import small_config

import cljax
from cljax import methods
from cljax.cli import sweep, train
from cljax.io import own_code

HELPERS = """
import numpy as np
FACTOR = 0.25
TABLE = np.arange(3)
def pull(p):
  return FACTOR * p * TABLE.sum()
def unused(p):
  return 7 * p
class Scale:
  def __init__(self, by):
    self.by = by
  def __call__(self, p):
    return self.by * p
"""
FACTORY = """
import optax, cljax, helpers_of_mine as helpers
def inner(p):
  return helpers.pull(p)
def factory(model, spec, *, strength=1.0, scale=helpers.Scale(2)):
  return cljax.Method(terms={"pull": lambda key, params, *_: scale(inner(optax.tree.norm(params)))})
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """``mine(helpers, factory)``: the digest of the factory in modules of these texts."""
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setattr(sys, "dont_write_bytecode", True)

  def digest(helpers=HELPERS, factory=FACTORY) -> str:
    for name, text in (("helpers_of_mine", helpers), ("factory_of_mine", factory)):
      (tmp_path / f"{name}.py").write_text(text)
      sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return own_code.digest([importlib.import_module("factory_of_mine").factory])

  yield digest
  for name in ("helpers_of_mine", "factory_of_mine"):
    sys.modules.pop(name, None)


EDITS = {
  "a global number of another module": (HELPERS.replace("FACTOR = 0.25", "FACTOR = 1000"), FACTORY),
  "a global array": (HELPERS.replace("arange(3)", "arange(4)"), FACTORY),
  "a function of another module": (HELPERS.replace("FACTOR * p", "FACTOR + p"), FACTORY),
  "a method of a class": (HELPERS.replace("self.by * p", "self.by - p"), FACTORY),
  "an object's attribute": (HELPERS, FACTORY.replace("Scale(2)", "Scale(3)")),
  "a default": (HELPERS, FACTORY.replace("strength=1.0", "strength=2.0")),
  "a function beside it": (HELPERS, FACTORY.replace("helpers.pull(p)", "-helpers.pull(p)")),
  "the factory": (HELPERS, FACTORY.replace("scale(inner", "abs(inner")),
}


def test_what_it_reaches_counts_and_layout_does_not(mine):
  base = mine()
  for what, texts in EDITS.items():
    assert mine(*texts) != base, what
  assert mine() == base
  assert mine("# said\n" + HELPERS.replace("return FACTOR * p", "# and more\n  return FACTOR  *  p "), FACTORY) == base
  assert mine(HELPERS.replace("7 * p", "8 * p"), FACTORY) == base, "nobody calls it"


def test_what_comes_with_packages_is_known_by_their_versions():
  assert not any(own_code.digest([entry.factory]) for entry in methods.METHODS.values())
  assert own_code.digest([np.sum, json.dumps, 3, "text"]) == ""
  by = lambda n: own_code.digest([functools.partial(np.add, lambda x: n * x)])
  assert by(2) != ""
  assert by(2) != by(3), "what a function closes over"


CONFIG = small_config.text(
  """
import cljax, optax
from cljax.methods.registry import Entry, Option, register
FACTOR = 0.25
def factory(model, spec, *, nothing):
  return cljax.Method(terms={"pull": lambda key, params, learner, batch, outputs: FACTOR * optax.tree.norm(params)})
register("my/own", Entry(factory, {"nothing": Option(0.0)}, cljax.Access(), "here"))
"""
)


@pytest.fixture
def launched(tmp_path):
  """``launched(main, text, *flags)``: a launcher with a configuration file of that text, as a new process has it."""

  def call(main, text, *flags) -> int:
    methods.METHODS.pop("my/own", None)
    (tmp_path / "config.py").write_text(text)
    return main(["launch", f"--config={tmp_path}/config.py", "--compilation_cache=", *flags])

  yield call
  methods.METHODS.pop("my/own", None)


def test_an_edited_method_is_refused_in_train_and_made_again_in_a_sweep(launched, tmp_path, capsys):
  edited = CONFIG.replace("FACTOR = 0.25", "FACTOR = 1000")
  one, many = f"--workdir={tmp_path}/train", f"--workdir={tmp_path}/sweep"
  given = (one, "--config.method.name=my/own")
  assert launched(train.main, CONFIG, *given) == 0
  before = json.loads((tmp_path / "train/result.json").read_text())["params_sha256"]
  assert launched(train.main, CONFIG, *given) == 0
  capsys.readouterr()
  assert launched(train.main, edited, *given) == 2
  error = capsys.readouterr().err
  assert "the code of method 'my/own', or what it reaches, was edited; give another workdir, or --overwrite" in error
  assert len(error.splitlines()) == 1
  assert launched(train.main, edited, *given, "--overwrite") == 0
  after = json.loads((tmp_path / "train/result.json").read_text())["params_sha256"]
  assert after != before
  rows = lambda: {r["method"]: r for r in map(json.loads, (tmp_path / "sweep/rows.jsonl").read_text().splitlines())}
  assert launched(sweep.main, CONFIG, many, "--methods=my/own,finetune") == 0
  first = rows()
  stamp = lambda row: (tmp_path / "sweep/runs" / row["run"] / "result.json").stat().st_mtime_ns
  untouched = stamp(first["finetune"])
  capsys.readouterr()
  assert launched(sweep.main, edited, many, "--methods=my/own,finetune") == 0
  assert "my/own: its code was edited since" in capsys.readouterr().err
  second = rows()
  assert len((tmp_path / "sweep/rows.jsonl").read_text().splitlines()) == 2
  assert (first["my/own"]["params_sha256"], second["my/own"]["params_sha256"]) == (before[0], after[0])
  assert stamp(second["finetune"]) == untouched
  # The population of the row that is gone has gone with it, but for what it shares with others.
  left = {
    m["run"] for f in (tmp_path / "sweep/groups").glob("*/unit.json") for m in json.loads(f.read_text())["members"]
  }
  assert {r["run"] for r in second.values()} <= left
  assert first["my/own"]["run"] not in left


def test_a_method_that_comes_later_may_lack_an_option(launched, tmp_path, capsys):
  many = f"--workdir={tmp_path}/sweep"
  assert launched(sweep.main, CONFIG, many, "--methods=er", "--config.method.capacity=12") == 0
  assert launched(sweep.main, CONFIG, many, "--methods=ncm") == 0
  capsys.readouterr()
  assert launched(sweep.main, CONFIG, many, "--methods=er") == 2
  assert "overrides.method.capacity" in capsys.readouterr().err
  assert len((tmp_path / "sweep/rows.jsonl").read_text().splitlines()) == 2


def test_registered_by_name_it_counts_in_python_too(class_stream, small_model, tmp_path):
  def factory(model, spec, *, by):
    return cljax.Method(terms={"pull": lambda key, params, learner, batch, outputs: by * 0.5})

  from cljax.methods.registry import Entry

  entry = lambda by: Entry(functools.partial(factory, by=by), {}, cljax.Access(), "here")
  training = cljax.Recipe(batch_size=16)
  try:
    for by, said in ((1.0, None), (1.0, None), (2.0, "code.parts")):
      methods.METHODS["my/own"] = entry(by)
      go = lambda: cljax.run(class_stream, small_model, "my/own", training=training, workdir=str(tmp_path))
      if said is None:
        go()
      else:
        with pytest.raises(cljax.UsageError, match=said):
          go()
  finally:
    methods.METHODS.pop("my/own", None)
