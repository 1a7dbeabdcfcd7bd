"""The Fisher suite: rivals and library agree, an epoch is an epoch, and a table of tiny networks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core import tree
from experiments.benchmarks import _fisher_rivals as parts
from experiments.benchmarks import fisher

ROWS = 64
TINY = functools.partial(parts.workload, shape=(4, 4, 1))


@pytest.fixture(scope="module")
def work():
  return TINY("dense", ROWS, hidden=(5, 4))


def close(a, b):
  for name, u, v in zip(tree.paths(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(u, v, rtol=2e-4, atol=1e-7, err_msg=name)


def test_the_rivals_find_the_same_diagonal():
  work = TINY("dense", 32, hidden=(5,))
  for kind in ("empirical", "exact"):
    mine = parts.fisher(work, kind)(32)
    assert tree.norm(mine) > 1e-3
    close(mine, parts.one_at_a_time(work, 32, exact=kind == "exact")())
    if kind == "empirical":
      close(mine, parts.vmapped(work, 32)())


def test_an_epoch_takes_a_step_of_each_batch_of_the_count(work):
  run = parts.epoch(work)
  trained = run(32)
  order = np.random.default_rng(1).permutation(ROWS)[:32]
  loss = lambda p: parts.negative_log_likelihood(work, p, work.x[order], work.y[order])
  gradient = jax.jit(jax.grad(loss))(work.params)
  close(trained, jax.tree.map(lambda p, g: p - 1e-4 * g, work.params, gradient))
  assert tree.norm(jax.tree.map(jnp.subtract, run(64), trained)) > 1e-6


def test_operations_count_the_products_of_a_dense_network(work):
  kernels = 16 * 5 + 5 * 4 + 4 * 10
  assert parts.operations(work) == 2 * (2 * kernels + 5 * 4 + 4 * 10)
  assert parts.operations(work, "exact") == 2 * (2 * kernels + 9 * (5 * 4 + 4 * 10))


def test_exponents_are_slopes():
  assert np.isclose(fisher.exponent([1, 2, 4], [3, 12, 48]), 2.0)


def test_a_tiny_table(tmp_path, monkeypatch):
  sized = lambda kind, rows, hidden=(5, 4): TINY(kind, rows, hidden=hidden)
  grown = lambda *_: [
    {"axis": axis, "at": at, "parameters": 10 * at, "what": "empirical", "ms": 5.0 * at**2, "epochs": 1.0}
    for axis in ("rows", "width")
    for at in (2, 4)
  ]
  monkeypatch.setattr(fisher, "KINDS", ("empirical",))
  monkeypatch.setattr(fisher, "growth", grown)
  monkeypatch.setattr(fisher, "rivals", lambda work, rows, exact: {"batch-1 loop": (lambda: work.x + 0, 16)})
  monkeypatch.setattr(fisher, "engine_epoch", lambda work: fisher.clocked(lambda: work.x + 0))
  table = fisher.suite(lambda line: None, 3, {"dense": 64}, {"dense": 16}, make=sized)
  found = {row["what"]: row for row in table.rows}
  assert list(found) == ["epoch", "empirical", "batch-1 loop", "epoch, engine"]
  assert (found["epoch"]["epochs"], found["batch-1 loop"]["timed on"], found["empirical"]["target"]) == (1.0, 16, 1.0)
  assert found["epoch"]["of matmul rate"] > 0
  assert "Exponent of time in rows: empirical 2.00." in table.notes
  assert table.plot is not None
  table.plot(str(tmp_path / "plot.png"))
  assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
