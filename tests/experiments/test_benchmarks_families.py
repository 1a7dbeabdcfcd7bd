"""The suite of families on a tiny model."""

from experiments.benchmarks import engine, families


def test_steps_of_methods_stand_beside_er_s():
  lines: list[str] = []
  case = engine.Case("mlp", 8, 32, 2, 0)
  table = families.suite(lines.append, 2, case, ("scr", "lwf", "prd"), (4, 4, 1), (8,), 32)
  assert table.rows[0]["method"] == "er"
  assert {r["method"] for r in table.rows} == {"er", "scr", "lwf", "prd"}
  assert table.rows[0]["over er"] == 1.0
  assert all(r["step ms"] > 0 for r in table.rows)
  assert lines == [f"{len(table.rows)} methods, 2 rounds"]
