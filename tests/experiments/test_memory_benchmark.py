"""The memory suite: its buffers are full and stay so, its copies copy, and a tiny table."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments.benchmarks import _memory_programs as programs
from experiments.benchmarks import memory

CAPACITY = 60


@pytest.mark.parametrize("policy", sorted(programs.POLICIES))
def test_every_step_writes_into_a_full_buffer_and_draws_from_it(policy):
  made, state = programs.full(policy, "64 float32", CAPACITY)
  assert np.asarray(made.contents(state)[1]).all()
  run = programs.add_and_sample(policy, "64 float32", CAPACITY, 40)
  _, state, pending = run()
  rows, weight = made.contents(state)
  assert np.asarray(weight).all()
  assert len(np.unique(np.asarray(rows["x"])[:, 0])) > 1, "rows that were zeros have been replaced"
  stored = {np.asarray(row).tobytes() for row in rows["x"]}
  assert all(np.asarray(row).tobytes() in stored for row in pending["x"])


def test_the_floor_writes_and_reads_whole_rows():
  run = programs.row_copies("784 uint8", CAPACITY, 1)
  store, pending = run()
  np.testing.assert_array_equal(store["x"][: programs.BATCH], programs.rows("784 uint8", programs.BATCH)["x"])
  np.testing.assert_array_equal(pending["x"], store["x"][: programs.BATCH])
  copied = programs.whole_copy("784 uint8", CAPACITY)()
  assert jax.tree.leaves(copied)[-1].shape == (CAPACITY,)


def test_a_tiny_table(tmp_path, monkeypatch):
  monkeypatch.setattr(programs, "POLICIES", {"reservoir": programs.POLICIES["reservoir"]})
  table = memory.suite(lambda line: None, 3, {"64 float32": (40, CAPACITY)}, (), {"reservoir": 2}, hidden=(4,))
  assert [(row["policy"], row["capacity"]) for row in table.rows] == [("reservoir", 40), ("reservoir", CAPACITY)]
  assert all(row["add + sample us"] > 0 and row["of a step"] > 0 for row in table.rows)
  assert table.rows[0]["buffer MB"] == pytest.approx((40 * (64 + 3) * 4 + 8) / 1e6)
  assert table.plot is not None
  table.plot(str(tmp_path / "plot.png"))
  assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
