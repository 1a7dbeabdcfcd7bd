"""Benchmarks: interleaving, paired ratios, and the record that a suite leaves."""

import json

import jax.numpy as jnp
import numpy as np

from experiments import benchmarks
from launch import benchmark


def test_rounds_are_interleaved_in_rotating_order():
  calls = []
  functions = {name: lambda name=name: calls.append(name) for name in "abc"}
  stats = benchmarks.paired(functions, repeats=4, warmup=2)
  assert ["".join(calls[i : i + 3]) for i in range(0, 18, 3)] == ["bca", "cab", "abc", "bca", "cab", "abc"]
  assert all(len(s.samples) == 4 for s in stats.values())


def test_ratios_are_paired_by_round():
  mine, base = (benchmarks.Stats(np.array(v)) for v in ([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]))
  assert benchmarks.ratio(mine, base) == (3.0, 2.5, 3.5)
  assert benchmarks.shown((3.0, 2.5, 3.5)) == "3.00 [2.50, 3.50]"
  assert (mine.median, mine.spread) == (6.0, (4.0, 23.0))


def test_a_suite_leaves_its_record(tmp_path, monkeypatch, capsys):
  class Suite:
    @staticmethod
    def suite(report, repeats):
      stats = benchmarks.paired({"one": lambda: jnp.ones(3) + 1}, repeats)
      report("timing")
      return benchmarks.Table("A title", [{"what": "one", "seconds": stats["one"].median}], ["A remark."])

  monkeypatch.setattr(benchmarks, "load", lambda name: Suite)
  arguments = ["benchmark", "--suite=transforms", "--repeats=3", f"--out={tmp_path}", "--compilation_cache="]
  assert benchmark.main(arguments) == 0
  record = json.loads((tmp_path / "transforms.json").read_text())
  assert record["rows"][0]["seconds"] > 0
  assert record["machine"]["cores"] >= 1
  assert record["command"] == "python -m launch.benchmark --suite=transforms --repeats=3"
  assert "A remark." in (tmp_path / "transforms.md").read_text()
  assert "| what | seconds |" in capsys.readouterr().out
  assert benchmark.main(["benchmark", "--suite=nothing"]) == 2
  assert "unknown 'nothing'" in capsys.readouterr().err
  assert benchmark.main(["benchmark", "--suite=transforms", "--repeats=1"]) == 2


def test_every_suite_is_a_module():
  for name in benchmarks.names():
    assert callable(benchmarks.load(name).suite)
