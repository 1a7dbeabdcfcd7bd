"""The suite of dear methods on a tiny model."""

from experiments.benchmarks import dear, engine


def test_each_method_is_told_over_finetune():
  case, lines = engine.Case("mlp", 8, 64, 8, 0), []
  entries = (dear.Entry("si", {}, 1.3), dear.Entry("wasserstein", {"refresh": 4}, 5.0, 4))
  table = dear.suite(lines.append, 2, (case, case._replace(batch=10, rows=80)), entries, (4, 4, 1), (8,), 32)
  assert [row["method"] for row in table.rows] == ["finetune", "si", "wasserstein (refresh=4)"] * 2
  assert [row["target"] for row in table.rows] == ["", "", "", "", 1.3, 5.0]
  assert all(row["over finetune"] == 1.0 for row in table.rows[::3])
  assert all(row["step ms"] > 0 for row in table.rows)
  assert len(lines) == 2
