"""A network of one's own under a name that configurations know: trained, swept, looked at, kept apart when changed."""

from __future__ import annotations

import json
import pathlib
import re

import jax
import pytest

import cljax
from cljax import UsageError, models
from cljax.cli import analyze, sweep, train, tune
from cljax.models.build import ZOO
from cljax.models.tuning import OPTIONS

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "own_model.md").read_text()
SMALL = ["--config.train.epochs=1", "--config.stream.tasks=2", "--config.stream.rows=60", "--compilation_cache="]


@pytest.fixture
def config(tmp_path):
  """The page's file; nobody knows its network before, nor after."""
  ZOO.pop("my_network", None)
  path = tmp_path / "my_network.py"
  path.write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
  yield path
  ZOO.pop("my_network", None)


def test_a_registered_network_is_trained_and_looked_at(config, tmp_path, capsys):
  given = ["train", f"--config={config}", f"--workdir={tmp_path / 'run'}", "--config.model.width=8", *SMALL]
  assert train.main(given) == 0, capsys.readouterr().err
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  assert result["config"]["model"] == {"name": "my_network", "width": 8, "dropout": 0.0, **OPTIONS}
  assert sum(a.size for a in jax.tree.leaves(cljax.load(tmp_path / "run").params)) == 64 * 8 + 8 + 8 * 10 + 10
  ZOO.pop("my_network")
  assert analyze.main(["analyze", str(tmp_path / "run"), "--rows=8", "--compilation_cache="]) == 0
  assert "my_network" in ZOO
  # Its source is part of what a run is, that of classes too.
  ZOO.pop("my_network")
  config.write_text(config.read_text().replace("nn.relu", "nn.tanh"))
  capsys.readouterr()
  assert train.main(given) == 2
  assert "the code of model 'my_network', or what it reaches, was edited" in capsys.readouterr().err


def test_a_file_with_annotations_that_are_text_has_networks_too(config, tmp_path, capsys):
  """Flax and dataclasses look them up in the module, which has to be one that Python knows."""
  config.write_text("from __future__ import annotations\n" + config.read_text().partition("\n")[2])
  given = ["train", f"--config={config}", f"--workdir={tmp_path / 'run'}", *SMALL]
  assert train.main(given) == 0, capsys.readouterr().err


def test_a_registered_network_s_options_are_swept(config, tmp_path, capsys):
  given = [f"--config={config}", f"--workdir={tmp_path / 'sweep'}", "--executor=local", "--workers=1", *SMALL]
  assert sweep.main(["sweep", *given, "--grid=model.width=[4,8]"]) == 0, capsys.readouterr().err
  rows = [json.loads(line) for line in (tmp_path / "sweep" / "rows.jsonl").read_text().splitlines()]
  assert len({r["run"] for r in rows}) == 2


def test_a_registered_network_is_tuned_and_its_file_is_read_once(config, tmp_path, capsys):
  given = [f"--config={config}", f"--workdir={tmp_path / 'tuned'}", "--methods=finetune", "--configurations=2", *SMALL]
  more = ["--search_seeds=1", "--seeds=1", "--first_tasks=1", "--config.stream.validation=0.3"]
  assert tune.main(["tune", *given, *more]) == 0, capsys.readouterr().err
  (row,) = json.loads((tmp_path / "tuned" / "tune.json").read_text())["methods"]
  assert [len(c["scores"]) for c in row["candidates"]] == [1, 1]
  assert row["tuned"]["mean"] is not None


def test_what_is_no_model_is_told(config, capsys, tmp_path):
  given = ["train", f"--workdir={tmp_path / 'run'}", *SMALL]
  source = config.read_text()
  config.write_text(
    source.replace("return models.from_linen(Net(num_classes, width, dropout), input_shape)", "return 3")
  )
  assert train.main([*given, f"--config={config}"]) == 2
  told = capsys.readouterr().err
  assert "my_network made int 3; expected cljax.Model" in told
  assert len(told.splitlines()) == 1
  with pytest.raises(UsageError, match=r"model: got 'my_net'; allowed: mlp.*my_network; did you mean my_network"):
    models.options("my_net")
  with pytest.raises(UsageError, match=r"model: got 'zzz'.*cljax\.models\.register adds one of yours"):
    models.options("zzz")


@pytest.mark.parametrize(
  ("name", "make", "said"),
  [
    ("mlp", lambda shape, n: None, "model.name: 'mlp' is already registered"),
    ("my net", lambda shape, n: None, "model.name: got 'my net'; expected letters"),
    (3, lambda shape, n: None, "model.name: got 3"),
    ("new", 3, "make: got 3; expected a function"),
    ("new", lambda shape: None, "make: has 1 parameters; expected"),
    ("new", lambda shape, n, width: None, "make: has width without a default"),
    ("new", lambda shape, n, **more: None, "make: has more without a default"),
    ("new", lambda shape, n, tuning="": None, "make: has the option 'tuning', which every model has"),
  ],
)
def test_what_can_not_be_registered(name, make, said):
  with pytest.raises(UsageError) as caught:
    models.register(name, make)
  assert str(caught.value).startswith(said)
  assert "new" not in ZOO
