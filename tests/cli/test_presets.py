"""Published settings: the table, the configurations made of it, and the cards that show both."""

import numpy as np
import pytest

from cljax import UsageError, methods, regularizers
from cljax.cli import _card, _config, _grid, presets
from cljax.cli.methods import main
from cljax.models import tuning

NAMES = list(presets.presets())
# What changes how a run is executed or kept, and none of its numbers.
WITHOUT_EFFECT = {
  "data.data_dir", "train.chunk_steps", "train.feed", "train.on_divergence", "train.presentations", "eval.block",
  "eval.ahead", "eval.every", "train.population_group", "eval.log", "eval.log_limit", "forget.name", "evaluators.names",
  *(f"model.{option}" for option in tuning.OPTIONS),  # by default nothing is tuned
}  # fmt: skip


def test_the_table_says_where_each_row_stands():
  rows = presets.rows()
  assert len(rows) == 604
  assert len({r["id"] for r in rows}) == 604
  assert all(r["config_source"] or r["result_source"] for r in rows)
  assert all(r["result_source"] for r in rows if r["accuracy"])
  found = [presets.published(r) for r in rows]
  assert all(0 < p.mean <= 100 for p in found if p)
  assert sum(p is not None for p in found) == sum(r["accuracy"] != "" for r in rows)
  assert all(isinstance(presets.options(r), dict) for r in rows)


def test_a_share_is_read_as_percent():
  row = next(r for r in presets.rows() if r["id"] == "agem_permuted_mnist")
  assert (row["metric"], row["accuracy"]) == ("final avg acc (0-1)", "0.81")
  found = presets.published(row)
  assert (found.mean, found.deviation, found.runs, found.is_final) == (81.0, None, None, True)
  steps = next(r for r in presets.rows() if r["metric"] == "avg over steps %" and r["accuracy"])
  assert not presets.published(steps).is_final


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_names_every_field_that_its_numbers_depend_on(name):
  """So that a default that moves does not move it."""
  file = _config.read_file(f"preset:{name}")
  given = {f"{s}.{k}" for s, fields in file.sections.items() for k in fields}
  whole = _config.resolve(file)
  read = lambda s, k: not _config.not_read(s, str(whole[s].get({"optimizer": "name", "stream": "kind"}.get(s, ""))), k)
  needed = {f"{s}.{k}" for s, fields in whole.items() if s != "checkpoint" for k in fields if read(s, k)}
  assert needed - given - WITHOUT_EFFECT == set()
  assert given <= needed


def test_published_names_are_ours_under_some_option():
  der = presets.find("rotated_mnist/der/200")
  assert (der.called, der.method, der.sections["method"]["beta"]) == ("der", "derpp", 0.0)
  assert der in presets.of_method("derpp")
  assert [p.name for p in presets.chosen("rotated_mnist", ["der"])] == [
    f"rotated_mnist/der/{n}" for n in (200, 500, 5120)
  ]
  assert all(p.called == "derpp" for p in presets.chosen("rotated_mnist", ["derpp"]))


def test_avalanche_s_settings_by_our_names():
  section = lambda name: presets.find(name).sections
  online = section("avalanche_split_mnist/er/1000")
  assert (online["model"]["hidden"], online["model"]["dropout"]) == ((512,), 0.5)
  assert (online["method"]["policy"], online["method"]["replay_batch"]) == ("class_balanced", 10)
  assert section("avalanche_split_mnist/mir/500")["stream"]["rows"] == 5000
  assert section("avalanche_permuted_mnist/mir/500")["stream"]["rows"] == 1000
  assert section("avalanche_permuted_mnist/agem")["method"]["capacity"] == 17 * 250
  assert section("avalanche_permuted_mnist/ewc")["method"]["strength"] == 2.0
  gdumb = section("avalanche_split_mnist/gdumb/4400")
  assert (gdumb["method"]["passes"], gdumb["train"]["epochs"]) == (10, 1)
  si = presets.find("avalanche_split_mnist_task/si")
  assert si.sections["optimizer"]["name"] == "adam"
  # Half lambda times Omega is what multiplies the squared way.
  assert si.sections["method"]["strength"] == 0.5
  assert (si.published.mean, si.published.digit) == (97.0, 1.0)


def test_options_are_the_sources_by_our_names():
  section = lambda name: presets.find(name).sections
  derpp = section("permuted_mnist/derpp/200")
  assert derpp["method"] == {
    "name": "derpp", "alpha": 1.0, "beta": 1.0, "capacity": 200, "policy": "reservoir", "replay_batch": 128,
    "insert": "every_pass",
  }  # fmt: skip
  assert (derpp["optimizer"]["learning_rate"], derpp["train"]["batch_size"], derpp["train"]["epochs"]) == (0.1, 128, 1)
  assert (derpp["stream"]["kind"], derpp["stream"]["tasks"], derpp["stream"]["validation"]) == ("permuted", 20, 0.0)
  assert section("split_mnist/er/5120")["method"]["replay_batch"] == 10
  assert section("rotated_mnist/agem/500")["optimizer"]["learning_rate"] == 0.3
  assert section("split_mnist/gem/200")["method"]["margin"] == 1.0
  assert section("split_mnist/si")["method"]["damping"] == 0.9
  assert section("permuted_mnist/finetune")["method"] == {"name": "finetune"}


@pytest.mark.parametrize("name", ["permuted_mnist/si", "split_mnist/si", "permuted_mnist/online_ewc"])
def test_strengths_pull_as_the_source_does(name):
  """Mammoth's ``get_penalty_grads``: 2 c Omega (theta - theta*), 2 e_lambda F (theta - theta*)."""
  preset = presets.find(name)
  theirs, mine = presets.options(preset.row), preset.sections["method"]
  rng = np.random.default_rng(0)
  anchor, moved, importance = rng.normal(size=(3, 5)).astype(np.float32)
  importance = abs(importance)
  scale = theirs.get("c", theirs.get("e_lambda"))
  if "c" in theirs:
    tx = regularizers.si(mine["strength"], mine["damping"])
  else:
    tx = regularizers.online_ewc(mine["strength"], mine["decay"])
  state = tx.init(anchor)._replace(importance=importance)
  pull, _ = tx.update(np.zeros(5, np.float32), state, moved)
  np.testing.assert_allclose(pull, 2 * scale * importance * (moved - anchor), rtol=1e-5)


def test_a_benchmark_is_a_sweep_over_its_settings():
  file = _config.read_file("preset:rotated_mnist", several=True)
  mine = presets.chosen("rotated_mnist")
  points = _grid.points([], [], file.module)
  assert len(points) == len(mine) == 27
  for preset, point in zip(mine, points, strict=True):
    whole = _config.resolve(file, [_config.Override(k, v) for k, v in point.items()])
    assert whole == _config.resolve(_config.read_file(f"preset:{preset.name}"))
  some = _grid.points(["train.epochs=[1,2]"], ["er/200", "finetune"], file.module)
  assert [p["method.name"] for p in some] == ["er", "er", "finetune", "finetune"]
  assert [p["train.epochs"] for p in some] == [1, 2, 1, 2]


def test_one_setting_is_a_sweep_over_seeds():
  file = _config.read_file("preset:permuted_mnist/derpp/200", several=True)
  assert _grid.points([], [], file.module) == [{}]
  assert _grid.points(["method.alpha=[0.5]"], [], file.module) == [{"method.alpha": 0.5}]


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("permuted_mnist/derpp/201", "unknown 'permuted_mnist/derpp/201'.*did you mean permuted_mnist/derpp/200"),
    ("permuted_mnist/derpp", "is several; allowed: permuted_mnist/derpp/200, permuted_mnist/derpp/500"),
    ("permuted_mnist", "is a benchmark; expected preset:permuted_mnist/METHOD"),
    ("", "expected BENCHMARK/METHOD.* a benchmark of permuted_mnist, rotated_mnist, "),
  ],
)
def test_names_that_are_none(name, message):
  with pytest.raises(UsageError, match=message):
    _config.read_file(f"preset:{name}")


def test_methods_that_a_benchmark_has_not():
  with pytest.raises(UsageError, match="permuted_mnist has no preset 'lwf'; allowed: finetune, online_ewc"):
    presets.chosen("permuted_mnist", ["lwf"])
  with pytest.raises(UsageError, match="benchmark: got 'mnist'; allowed: permuted_mnist"):
    presets.chosen("mnist")


def test_a_card_shows_formula_options_and_published_numbers(capsys):
  assert main(["methods", "derpp"]) == 0
  text = capsys.readouterr().out
  assert text.startswith("derpp: Buzzega et al. 2020\n")
  assert "``mean CE(current) + alpha MSE(f(x1), z1) + beta mean CE(x2, y2)``" in text
  line = next(x for x in text.splitlines() if x.strip().startswith("capacity "))
  assert line.split()[1:5] == ["200", "integers", "from", "1"]
  number = next(r for r in presets.rows() if r["id"] == "derpp_rotated_mnist_200")
  line = next(x for x in text.splitlines() if "preset:rotated_mnist/derpp/200" in x)
  assert f"{number['accuracy']} ± {number['std']} ({number['runs']} runs)" in line
  assert number["config_source"] in line
  assert "preset:permuted_mnist/derpp/200   no value at hand" in text  # the source of its number is not in the table
  assert number["result_source"] in text


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_every_method_has_a_card(name):
  text = _card.card(name, 5)
  assert all(f"\n  {option} " in text for option in methods.METHODS[name].options)
  assert "keeps between tasks: 5 bytes" in text


def test_a_card_of_no_method_is_one_line(capsys):
  assert main(["methods", "derp"]) == 2
  assert "unknown 'derp'; did you mean derpp" in capsys.readouterr().err
