"""Grids as lists of points, and configurations merged from several layers."""

from __future__ import annotations

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from cljax import UsageError
from cljax.cli import _config, _grid, _values
from cljax.cli._config import Override
from cljax.io import files


def test_product_zip_and_chain():
  a, b = _grid.sweep("method.a", [1, 2]), _grid.sweep("config.method.b", ["x", "y"])
  assert _grid.product([a, b]) == [
    {"method.a": 1, "method.b": "x"}, {"method.a": 1, "method.b": "y"},
    {"method.a": 2, "method.b": "x"}, {"method.a": 2, "method.b": "y"},
  ]  # fmt: skip
  assert _grid.zipit([a, b]) == [{"method.a": 1, "method.b": "x"}, {"method.a": 2, "method.b": "y"}]
  assert _grid.chainit([a, b]) == [{"method.a": 1}, {"method.a": 2}, {"method.b": "x"}, {"method.b": "y"}]
  assert _grid.zipit([_grid.fixed("method.c", 0), a]) == [
    {"method.c": 0, "method.a": 1},
    {"method.c": 0, "method.a": 2},
  ]
  with pytest.raises(UsageError, match="expected equal lengths"):
    _grid.zipit([a, _grid.sweep("method.c", [1, 2, 3])])
  with pytest.raises(UsageError, match=r"method\.a is varied twice"):
    _grid.product([a, a])


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_product_has_all_combinations_once(sizes):
  grid = _grid.product([_grid.sweep(f"method.k{i}", list(range(n))) for i, n in enumerate(sizes)])
  assert len(grid) == len({tuple(p.items()) for p in grid}) == np.prod(sizes)


def test_parse():
  assert _grid.parse("method.strength=[1,10.5]") == [{"method.strength": 1}, {"method.strength": 10.5}]
  assert _grid.parse('method.name=["er","ewc"]') == [{"method.name": "er"}, {"method.name": "ewc"}]


def test_layers_are_merged_in_order(config):
  file = _config.read_file(str(config))
  resolve = lambda **o: _config.resolve(file, [Override(k.replace("__", "."), v, True) for k, v in o.items()])
  assert resolve()["train"]["epochs"] == 2
  assert resolve(train__epochs="5")["train"]["epochs"] == 5
  assert resolve(method__name="er")["method"]["capacity"] == 20, "the file's method_defaults"
  assert resolve(method__name="er", method__capacity="7")["method"]["capacity"] == 7
  assert resolve(method__name="derpp")["method"]["capacity"] == 200, "the registry's"
  assert resolve()["model"]["hidden"] == (8,)
  assert "hidden" not in resolve(model__name="cnn")["model"], "fields of the file's model are of that model"
  assert resolve(model__hidden="16,8")["model"]["hidden"] == (16, 8)
  assert resolve(model__hidden="16")["model"]["hidden"] == (16,)
  assert resolve(stream__class_order="3")["stream"]["class_order"] == 3
  assert resolve(stream__class_order="[1,0]")["stream"]["class_order"] == [1, 0]
  assert resolve(optimizer__reset_per_task="true")["optimizer"]["reset_per_task"] is True
  assert resolve(optimizer__learning_rate="1")["optimizer"]["learning_rate"] == 1.0


def test_seeds():
  assert _values.parse_seeds("5") == [0, 1, 2, 3, 4]
  assert _values.parse_seeds("[3,7]") == _values.parse_seeds("3,7") == [3, 7]
  for bad in ("-1", "1.5", "[]", "3,-1", "x", "True"):
    with pytest.raises(UsageError, match="seeds: got"):
      _values.parse_seeds(bad)


def test_writers(tmp_path):
  log = files.JsonLines(tmp_path / "a" / "log.jsonl")
  for i in range(4):
    log.write({"i": i, "v": np.float32(i), "n": float("nan"), "a": np.arange(2)})
  log.close()
  with log.path.open("a") as f:
    f.write('{"torn')
  log.keep(lambda row: row["i"] != 1)
  log.write({"i": 9})
  log.close()
  rows = [json.loads(line) for line in log.path.read_text().splitlines()]
  assert [row["i"] for row in rows] == [0, 2, 3, 9]
  assert rows[1] == {"i": 2, "v": 2.0, "n": None, "a": [0, 1]}


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / "x.json"
  files.write_text(path, "old")
  with pytest.raises(UnicodeEncodeError):
    files.write_text(path, "\ud800")
  with pytest.raises(TypeError):
    files.write_bytes(path, "text")  # type: ignore[arg-type]
  assert path.read_text() == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["x.json"], "no temporary file is left"


def test_all_is_every_method_that_learns_or_a_family_or_what_stores_nothing():
  from cljax import methods

  made_in = {n: e.factory.__module__ for n, e in methods.METHODS.items()}
  learn = {n for n, m in made_in.items() if m.startswith("cljax.") and not m.startswith("cljax.methods.unlearning.")}
  names, drawn = _grid.named(["all"])
  assert set(names) == drawn == learn
  names, drawn = _grid.named(["er", "all:replay"])
  assert names[0] == "er"
  assert {"derpp", "icarl"} < drawn
  assert "er" not in drawn, "what is named is not left out in silence"
  assert "ewc" not in names
  assert {"ncm", "slda", "pass"} < set(_grid.named(["all:prototypes"])[0]), "a learner that can answer requests too"
  nothing, _ = _grid.named(["all:no_rows"])
  assert {"ewc", "finetune"} < set(nothing)
  assert all(not methods.METHODS[n].access.stores_data for n in nothing)
  both, _ = _grid.named(["all:penalties:no_task_data"])
  assert "si" in both
  assert "ewc" not in both
  assert _grid.named(["er", "ewc"]) == (["er", "ewc"], set())
  with pytest.raises(UsageError, match=r"methods: got 'all:reply'; allowed behind all: .*replay.*no_rows"):
    _grid.named(["all:reply"])
