"""Tables of results that differ in seeds, streams and requests, and accuracies over no rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from etils import epath
from made_sweeps import result

from cljax.cli.reporting import _analysis_text, _data
from cljax.cli.sweeps import _units
from cljax.evaluation import results
from cljax.io import files


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def placed(found: dict, **stream) -> dict:
  """The same result on a stream with other options."""
  return {**found, "config": {**found["config"], "stream": {**found["config"]["stream"], **stream}}}


def cells(table: str, column: str) -> list[str]:
  """A column of a table, by its heading."""
  head, line, *body = table.splitlines()
  starts = [0, *(i + 2 for i in range(len(line) - 1) if line[i : i + 2] == "  ")]
  at = next(i for i, s in enumerate(starts) if head[s:].strip().startswith(column))
  end = [*starts[1:], None][at]
  return [row[starts[at] : end].strip() for row in body[:-1]]


def test_the_footer_tells_the_seeds_of_all_lines(rng):
  three, one = result("er", 0.8, rng=rng), result("finetune", 0.3, seeds=(0,), rng=rng)
  table = results.table([three, one], ["er", "finetune"])
  assert table.splitlines()[-1] == "mean ± standard error over 1 to 3 seeds, in %"
  assert cells(table, "seeds") == ["3", "1"]
  table = results.table([three], ["er"])
  assert table.splitlines()[-1].startswith("mean ± standard error over 3 seeds")
  assert "seeds" not in table.splitlines()[0]
  assert results.table([one], ["finetune"]).splitlines()[-1] == "1 seed, in %"


def test_the_star_knows_the_stream(rng):
  easy = [placed(result("er", v, validation=v, rng=rng, x=i), tasks=2) for i, v in enumerate((0.9, 0.8))]
  hard = [placed(result("er", v, validation=v, rng=rng, x=i), tasks=4) for i, v in enumerate((0.3, 0.4))]
  table = results.table([*easy, *hard], list("abcd"))
  assert [line[0] for line in table.splitlines()[2:6]] == ["*", " ", " ", "*"]
  assert table.splitlines()[-1].endswith("* best of its method on its stream by validation accuracy")
  assert results.best_by_validation([*easy, *hard]) == {0, 3}
  assert "on its stream" not in results.table(easy, ["a", "b"])


def test_requests_are_shown_wherever_one_line_has_them(rng):
  plain = placed(result("er", 0.8, validation=0.8, rng=rng), forget="")
  asked = placed(result("er", 0.7, validation=0.7, rng=rng, forgets=True), forget="4:class=1")
  table = results.table([plain, asked], ["er forget=", "er forget=4:class=1"])
  assert cells(table, "forget, event 4") == ["-", "10.0 ± 0.0"]
  assert cells(table, "retain, event 4") == ["-", "80.0 ± 0.0"]
  assert "*" not in table, "accuracy without a request is no better than accuracy after one"


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_the_accuracy_on_no_rows_is_a_dash_and_in_no_mean(rng, nothing, tmp_path):
  asked = result("er", 0.7, rng=rng, forgets=True)
  asked = {**asked, "forgotten": [{"event": 4, "rows": 9, "forget": [0.1] * 3, "retain": [nothing] * 3}]}
  asked = json.loads(files.dumps(asked))
  assert cells(results.table([asked], ["er"]), "retain, event 4") == ["-"]
  text = results.summary(asked)
  assert [line.split()[-1] for line in text.splitlines() if "on those kept" in line] == ["-"]
  rows = results.rows(asked, run="er-1")
  assert [r["forgotten"][0]["retain"] for r in rows] == [None] * 3
  for run in (_data.from_result(asked), _data.from_rows(rows)):
    assert np.isnan(run.values["retain 4"]).all()
    np.testing.assert_allclose(run.values["forget 4"], 0.1)
  both = _units.merge(asked, {**asked, "seeds": [3, 4, 5]})
  assert both["forgotten"][0]["retain"] == [None] * 6
  line = _analysis_text._forgotten(
    {
      "score": {"name": "accuracy", "better": "higher"},
      "tasks": [],
      "forgotten": [{"event": 4, "rows": 9, "forget": 0.1, "retain": float("nan")}],
    }
  )
  assert line[0].endswith("and - of the rows that were kept.")


def test_json_nested_by_the_thousand_reads_as_none(tmp_path):
  for depth in (200, 2000, 200_000):
    (tmp_path / "result.json").write_text("[" * depth + "]" * depth)
    assert results.read(tmp_path / "result.json") is None
    (tmp_path / "lines.jsonl").write_text(
      '{"a": 1}\n{"a": ' + "[" * depth + "]" * depth + '}\n[1]\nnull\n\xff\n{"a": 2}\n'
    )
    assert files.read_lines(tmp_path / "lines.jsonl") == [{"a": 1}, {"a": 2}]
    assert _units.read_rows(epath.Path(tmp_path) / "lines.jsonl")[1] == 6
  assert files.loads('{"a": [[1, {"b": []}]]}') == {"a": [[1, {"b": []}]]}


def test_metrics_where_lower_is_better():
  """Against the definitions, by hand: tasks 0, 1, 0 learned, then a request; task 2 never learned."""
  kinds = [{"kind": "learn", "task": 0}, {"kind": "learn", "task": 1}, {"kind": "learn", "task": 0}, {"kind": "forget"}]
  error = [[9, 9, 9], [1, 8, 7], [4, 2, 6], [1.5, 3, 5], [2, 4, 6]]
  got = results.matrix_metrics([error, np.where(np.eye(5, 3) > 0, np.nan, error)], kinds, "lower")
  expected = {
    "acc": (1.5 + 3) / 2,
    "average_incremental_accuracy": (1 + (4 + 2) / 2 + (1.5 + 3) / 2) / 3,
    "bwt": 2 - 3,  # of task 1, which was not learned last: its error rose
    "forgetting": 3 - 2,
    "fwt": 9 - 8,  # of task 1, before it was learned
    "never_learned": 5,
    "acc_after_last_event": (2 + 4 + 6) / 3,
  }
  assert {k: v["values"] for k, v in got.items()} == {k: [pytest.approx(v), None] for k, v in expected.items()}
  higher = results.matrix_metrics([np.negative(error)], kinds)
  flips = ("acc", "average_incremental_accuracy", "never_learned", "acc_after_last_event")
  for k, v in higher.items():
    assert v["mean"] == pytest.approx(-expected[k] if k in flips else expected[k])
