"""launch.tune: ranges and rounds by hand, and one search from the command line, killed and gone on with."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import CljaxError
from cljax.cli import _config, tune
from cljax.cli.tuning import halving, ranges
from cljax.evaluation import results


def test_the_rule_is_ten_times_up_and_down_within_what_is_allowed():
  assert ranges._rule("k", 3.0, None, None) == ranges.Range("k", 0.3, 30.0, "log")
  assert ranges._rule("k", 3.0, 0.5, 20.0) == ranges.Range("k", 0.5, 20.0)  # both limits: all of it
  assert ranges._rule("k", 3.0, 1.0, None, [200.0]) == ranges.Range("k", 1.0, 200.0, "log")
  assert ranges._rule("k", 0.0, 0.0, None) is None  # off stays off
  near = ranges._rule("k", 0.999, 0.0, 1.0)
  assert (near.low, near.high, near.scale) == (pytest.approx(0.99), pytest.approx(0.9999), ranges.SCALES[2])
  assert [near.at(u) for u in (0.0, 0.5)] == [pytest.approx(0.99), pytest.approx(0.999)]


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1.5, 1e4), st.floats(0, 0.999), st.sampled_from(["linear", "log"]))
def test_points_lie_in_their_range(low, factor, u, scale):
  value = ranges.Range("k", low, low * factor, scale).at(u)
  assert low * (1 - 1e-3) <= value <= low * factor * (1 + 1e-3)
  by_hand = low + u * (low * factor - low) if scale == "linear" else np.exp(np.log(low) + u * np.log(factor))
  assert value == pytest.approx(by_hand, rel=1e-3)


def test_more_points_begin_with_the_same_ones():
  space = [ranges.Range("a.b", 0.01, 1.0, "log"), ranges.Range("a.c", values=(1, 2, 3))]
  for sampler in ("halton", "random"):
    few, many = (ranges.candidates(space, n, sampler, 5) for n in (4, 9))
    assert few == many[:4]
    assert few[0] == {}
    assert all(p not in many[:i] for i, p in enumerate(many))
  assert ranges.candidates(space, 9, "halton", 6) != many
  assert len(ranges.candidates([ranges.Range("a.c", values=(1, 2))], 9, "random", 0)) == 3  # no point stands twice
  assert ranges.candidates([], 4, "halton", 0) == [{}]


def test_rounds_by_hand():
  plan = halving.rungs(5, 2, 3)
  assert plan == [(5, 2), (3, 4), (2, 8)]
  assert halving.trained(plan) == 5 * 2 + 3 * 2 + 2 * 4


def made(validation, alive=None, better="higher"):
  """A result over two Learn events, of seeds 4, 5, ...: ``validation [S, 3, 2]``."""
  held = np.asarray(validation, float)
  return {
    "seeds": [4 + i for i in range(len(held))], "validation_matrix": held.tolist(),
    "events": [{"kind": "learn", "task": 0}, {"kind": "learn", "task": 1}],
    "alive": alive or [True] * len(held), "scores": {"s": None}, "main": "s", "better": {"s": better},
  }  # fmt: skip


def test_the_best_have_the_highest_validation_score_or_the_lowest():
  row = lambda a, b: [[9, 9], [9, 9], [a, b]]
  results = [made([row(1, 2), row(3, 4)]), made([row(5, 0), row(4, 1)]), made([row(8, 8), row(8, 8)], [True, False])]
  assert halving.score(results[0], [4, 5]) == 2.5
  assert halving.score(results[0], [5]) == 3.5
  assert halving.score(results[0], [6]) is None  # a seed that has not run
  assert halving.score(results[2], [4, 5]) is None  # one that diverged
  assert halving.best(results, [4, 5], 2) == [0, 1]  # equal: the earlier one
  assert halving.best(results, [4], 3) == [2, 1, 0]
  lower = [{**r, "better": {"s": "lower"}} for r in results]
  assert halving.best(lower, [4], 2) == [0, 1]
  assert halving.best([None, {k: v for k, v in results[0].items() if k != "validation_matrix"}], [4], 2) == []


def test_what_is_searched_is_read_and_what_is_given_is_not_searched(config):
  file = _config.read_file(str(config))
  resolved = _config.resolve(file, [_config.Override("method.name", "si")])
  assert [r.key for r in ranges.of(resolved)][:2] == ["optimizer.learning_rate", "method.strength"]
  assert "method.strength" not in [r.key for r in ranges.of(resolved, ["method.strength"])]
  own = ranges.parse("method.strength=1..5")
  assert own == ranges.Range("method.strength", 1.0, 5.0)
  assert ranges.of(resolved, [], {own.key: own})[1] == own


def test_a_range_between_whole_numbers_takes_whole_numbers_of_an_integer(config):
  file = _config.read_file(str(config))
  resolved = _config.resolve(file, [_config.Override("method.name", "er")])
  asked = [ranges.parse(t) for t in ("method.capacity=50..200", "train.epochs=1..40", "optimizer.learning_rate=1..9")]
  rate, capacity, epochs = ranges.of(resolved, [], {r.key: r for r in asked})
  assert (rate.at(0.5), capacity.at(0.5), epochs.at(0.5)) == (5.0, 125, 6)
  assert [type(r.at(0.3)) for r in (rate, capacity, epochs)] == [float, int, int]
  assert capacity.text() == "method.capacity: 50 to 200, linear, whole"
  half = ranges.parse("method.capacity=50.5..200")
  assert ranges.of(resolved, [], {half.key: half})[1].at(0.0) == 50.5  # refused where it is tried, as it was


SEARCH = ("--methods=finetune,si", "--configurations=3", "--search_seeds=1", "--rungs=2", "--seeds=2")


def test_a_search_sees_no_row_that_is_reported(command, tmp_path, capsys):
  """Chosen by validation rows of the first tasks, reported on the others and on other seeds; killed, it goes on to the
  same numbers; with more configurations only the new ones run."""
  given = command(*SEARCH, "--first_tasks=2", f"--workdir={tmp_path}")
  asked = []
  with pytest.raises(CljaxError):  # stopped when the third chunk begins
    tune.run(given, lambda: asked.append(0) or len(asked) > 2)
  assert not (tmp_path / "tune.json").exists()
  assert tune.main(given) == 0
  content = json.loads((tmp_path / "tune.json").read_text())
  assert content["protocol"]["seeds"] == [2, 3]
  assert content["protocol"]["search"] == {"stream.order": "(0, 1)"}
  found = {r["config"]["method"]["name"]: [] for r in searched(tmp_path)}
  for r in searched(tmp_path):
    found[r["config"]["method"]["name"]].append(r)
  for row in content["methods"]:
    assert [len(c["scores"]) for c in row["candidates"]] == [2] * len(row["candidates"])
    for candidate in row["candidates"]:
      (mine,) = [r for r in found[row["method"]] if fits(candidate["point"], r["config"])]
      assert mine["events"] == [{"kind": "learn", "task": 0}, {"kind": "learn", "task": 1}]
      matrix = np.asarray(mine["validation_matrix"])
      for seeds, score in zip(([2], [2, 3]), candidate["scores"], strict=True):
        at = [mine["seeds"].index(s) for s in seeds if s in mine["seeds"]]
        if score is not None:
          assert score == pytest.approx(matrix[at, 2, :2].mean())
    first, second = zip(*(c["scores"] for c in row["candidates"]), strict=True)
    kept = [i for i, v in enumerate(second) if v is not None]
    assert sorted(kept) == sorted(np.argsort([-v for v in first], kind="stable")[:2])
    assert row["chosen"] == max(kept, key=lambda i: (second[i], -kept.index(i)))
    for key, i in (("as_it_stands", 0), ("tuned", row["chosen"])):
      (report,) = [r for r in reports(tmp_path) if r["config"]["method"]["name"] == row["method"]
                   and fits(row["candidates"][i]["point"], r["config"])]  # fmt: skip
      last = np.asarray(report["accuracy_matrix"])[:, 5, 2:]
      np.testing.assert_allclose(row[key]["values"], last.mean(-1))
      assert row[key]["seeds"] == [0, 1]
  assert "| si | " in capsys.readouterr().out
  before = {p: p.read_bytes() for p in (tmp_path / "search" / "runs").glob("*/result.json")}
  assert tune.main([*given, "--configurations=4"]) == 0
  after = {p: p.read_bytes() for p in (tmp_path / "search" / "runs").glob("*/result.json")}
  assert len(after) == len(before) + 2
  unchanged = [p for p in before if before[p] == after[p]]
  assert len(unchanged) >= len(before) - 2  # one more of each method may have gone on to the second seed
  again = json.loads((tmp_path / "tune.json").read_text())
  for a, b in zip(content["methods"], again["methods"], strict=True):
    assert [c["scores"][0] for c in a["candidates"]] == [c["scores"][0] for c in b["candidates"]][:3]


def searched(workdir):
  return [results.read(p) for p in (workdir / "search" / "runs").glob("*/result.json")]


def reports(workdir):
  return [results.read(p) for p in (workdir / "report" / "runs").glob("*/result.json")]


def fits(point, config):
  default = {"optimizer.learning_rate": 0.1, "method.strength": 0.1}
  mine = {k: config[k.split(".")[0]].get(k.split(".")[1]) for k in default}
  return all(mine[k] in (None, point.get(k, default[k])) for k in default)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--methods=er"], "first_tasks: give either --first_tasks=K"),
    (["--methods=er", "--first_tasks=2", "--search=stream.seed=1"], "first_tasks: give either"),
    (["--methods=er", "--search=stream.validation=0.3"], "search: stream.validation make no other stream"),
    (["--methods=er", "--search=stream.tasks=5"], "search: stream.tasks make no other stream"),
    (["--methods=er,er", "--first_tasks=2"], "methods: expected names, each once"),
    (["--methods=er", "--first_tasks=5"], "first_tasks: got 5; expected 1 to 4, of 5 tasks"),
    (["--methods=er", "--search=method.capacity=3"], "search: got 'method.capacity=3'; expected stream.FIELD"),
    (["--methods=er", "--first_tasks=2", "--range=method.strength=1..2"], "range: method.strength is no option of er"),
    (["--methods=er", "--first_tasks=2", "--range=method.capacity=9"], "expected KEY=LOW..HIGH or KEY=[VALUE,...]"),
    (["--methods=er", "--first_tasks=2", "--range=method.capacity=5..2"], "expected two numbers LOW..HIGH"),
    (["--methods=nobody", "--first_tasks=2"], "unknown 'nobody'"),
    (["--methods=er", "--first_tasks=2", "--config.stream.validation=0"], "stream.validation: got 0; a search"),
    (["--methods=er", "--first_tasks=2", "--config.stream.forget=1:class=1"], "stream.forget: a search prefers"),
    (
      ["--methods=si", "--first_tasks=2", "--config.method.strength=2", "--range=method.strength=1..9"],
      "range: method.strength is also given as --config.method.strength",
    ),
  ],
)
def test_refusals(flags, message, command, tmp_path, capsys):
  assert tune.main(command(*flags, f"--workdir={tmp_path}")) == 2
  assert message in capsys.readouterr().err
  assert not list(tmp_path.iterdir())
