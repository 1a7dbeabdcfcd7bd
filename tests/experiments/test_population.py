"""The population suite: what its clock counts, and a table of a tiny model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments.benchmarks import population


def test_rounds_count_what_each_run_trained():
  order = []

  def made(n: int) -> Any:
    clock = SimpleNamespace(seconds={"train": 7.0, "eval": 0.0})

    def run():
      order.append(n)
      clock.seconds["train"] += float(n)
      clock.seconds["eval"] += 100.0

    return SimpleNamespace(setup=SimpleNamespace(clock=clock), run=run)

  stats = population.rounds({n: made(n) for n in (1, 2, 4)}, repeats=3)
  assert {n: s.samples.tolist() for n, s in stats.items()} == {n: [float(n)] * 3 for n in (1, 2, 4)}
  assert order[3:] == [1, 2, 4, 2, 4, 1, 4, 1, 2], "after one round that warms up"


def test_a_tiny_table(tmp_path, monkeypatch):
  monkeypatch.setitem(population.STEPS, "mlp", 2)
  table = population.suite(lambda line: None, 3, kinds=("mlp",), seeds=(1, 2), shape=(2, 2, 1), hidden=(2,))
  one, two = table.rows
  assert (one["gain"], one["all over one"], one["seeds"], two["seeds"]) == (1.0, 1.0, 1, 2)
  assert np.isclose(two["seed-step ms"], two["step ms"] / 2)
  assert np.isclose(two["gain"] * two["all over one"], 2.0, rtol=1e-6)
  assert table.plot is not None
  table.plot(str(tmp_path / "plot.png"))
  assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
