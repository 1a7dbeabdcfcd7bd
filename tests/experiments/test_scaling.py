"""The benchmark of growth: what its figures rest on."""

from __future__ import annotations

import numpy as np
import pytest

import cljax
from cljax import engine, models
from cljax.core import tree
from experiments.benchmarks import _scaling_point as point
from experiments.benchmarks import scaling


def test_exponents_are_of_the_larger_sizes_and_what_is_faster_is_marked():
  sizes = (10.0, 100.0, 1000.0)
  assert scaling.exponent(sizes, [5.0 + 2.0 * s for s in sizes]) == pytest.approx(0.99, abs=0.01)
  values = {"step": [1e-4, 1e-4, 1e-3], "evaluation": [1e-3, 1e-2, 1e-1]}
  found = [{"axis": "tasks", "method": "er", "sizes": [10, 100, 1000], "along": sizes, "values": values}]
  (row,) = scaling.rows_of(found)
  assert row["step"] == "**1.00** (0.1 → 1 ms)"
  assert row["evaluation"].startswith("1.00 ("), "linear in the tasks by definition"
  assert scaling.marked(found) == ["step over tasks: er 1.00"]
  assert {m for _, methods in scaling.AXES.values() for m in methods} == set(scaling.METHODS)


def test_a_point_measures_the_run_that_it_names():
  size = point.Size(tasks=3, memory=6)
  stream = point.stream_of_noise(size.tasks, size.classes)
  assert sorted(np.concatenate(stream.train)) == list(range(3 * point.TRAIN))
  model = models.mlp((point.INPUTS,), size.classes, hidden=(size.width, size.width))
  real = engine.run(stream, model, "agem", {"capacity": 6}, training=cljax.Recipe(batch_size=point.BATCH))
  assert size.parameters == tree.size(real.learner.params)
  found = point.measured("agem", size, 1, {"capacity": 6})
  assert found["state bytes"] == real.state_bytes
  assert set(found) == set(scaling.QUANTITIES)
  assert all(v > 0 for v in found.values())
