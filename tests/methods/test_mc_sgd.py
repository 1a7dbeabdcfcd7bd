"""MC-SGD against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, batch_of, gradient, leaves, near
from projecting_by_hand import nested, rows_of

from cljax import memory, streams
from cljax.methods.plasticity import mc_sgd

HYPER = {"rate": 0.02, "start": 0.25, "steps": 3, "points": 5, "capacity": 4}


@pytest.fixture(scope="module")
def four(make_blobs):
  """Four tasks of a single row each, so that no draw decides which rows are read."""
  return streams.build(make_blobs(rows=1), "class", tasks=4, validation=0.0)


def line(slope, anchor, at, points):
  """``d / d at sum_a L(anchor + a (at - anchor))`` by the chain rule."""
  total = dict.fromkeys(at, 0.0)
  for a in np.linspace(0, 1, points):
    g = slope({n: v + a * (at[n] - v) for n, v in anchor.items()})
    total = {n: t + a * g[n] for n, t in total.items()}
  return total


def connected(before, ended, old, new, rate=0.02, start=0.25, steps=3, points=5):
  """The paper's search, on all rows of both sides."""
  at = {n: v + start * (ended[n] - v) for n, v in before.items()}
  for _ in range(steps):
    slopes = [line(lambda p, rows=rows: gradient(nested(p), *rows), anchor, at, points)
              for rows, anchor in ((old, before), (new, ended))]  # fmt: skip
    at = {n: v - rate * (slopes[0][n] + slopes[1][n]) for n, v in at.items()}
  return at


@pytest.fixture(scope="module")
def run(four, small_model):
  """The learner when the third task begins, before its boundary and behind it."""
  bench = Bench("mc_sgd", four, small_model, HYPER)
  begun = bench.boundary("start_task", bench.train(2, (0, 1)), 2)
  learned = bench.steps(begun, 2, 4, met=(0, 1))
  return bench, begun, learned, bench.boundary("end_task", learned, 2)


def test_mc_sgd_searches_both_lines(run, four):
  """Behind the second task, which has one stored row beside its own; the first keeps what it learned, and steps
  within a task are plain."""
  bench = run[0]
  one = bench.boundary("start_task", bench.start(), 0)
  learned = bench.step(one, *bench.arguments(0, 0))[0]
  near(
    learned.params,
    {n: v - RATE * gradient(one.params, *batch_of(bench, 0, 0))[n] for n, v in leaves(one.params).items()},
  )
  ended = bench.boundary("end_task", learned, 0)
  assert_same(ended.params, learned.params)
  begun = bench.boundary("start_task", ended, 1)
  learned = bench.steps(begun, 1, 4, met=(0,))
  got = bench.boundary("end_task", learned, 1)
  want = connected(leaves(begun.params), leaves(learned.params), rows_of(four, 0), rows_of(four, 1))
  near(got.params, want, atol=1e-5)
  away = [
    max(np.abs(v - other[n]).max() for n, v in want.items()) for other in map(leaves, (begun.params, learned.params))
  ]
  assert min(away) > 0.01


def test_stored_rows_of_all_earlier_tasks_have_a_part(run, four):
  """Behind the third task two rows are stored, of which a batch has both."""
  _, begun, learned, got = run
  want = connected(leaves(begun.params), leaves(learned.params), rows_of(four, 0, 1), rows_of(four, 2))
  near(got.params, want, atol=1e-5)
  assert sorted(np.asarray(got.method_state.episodes.memory.rows["task"])[:3]) == [0, 1, 2]


def test_the_chain_factor_is_in_the_slope_of_a_line():
  """L = 3 p^2 / 2 - p + q^3 on the line from (-1, 0.5) to (2, 3): the derivative by differences of the sum over 11
  points, of which the sum of slopes without the factor is another; means are not divided by anything."""
  anchor, at = {"p": jnp.float32(-1), "q": jnp.float32(0.5)}, {"p": jnp.float32(2), "q": jnp.float32(3)}
  loss = lambda t: 1.5 * t["p"] ** 2 - t["p"] + t["q"] ** 3
  got = mc_sgd.line_slope(jax.grad(loss), anchor, at, 11)

  def total(p, q):
    each = [(-1 + a * (p + 1), 0.5 + a * (q - 0.5)) for a in np.linspace(0, 1, 11)]
    return sum(1.5 * u**2 - u + v**3 for u, v in each)

  want = {"p": (total(2 + 1e-5, 3) - total(2 - 1e-5, 3)) / 2e-5, "q": (total(2, 3 + 1e-5) - total(2, 3 - 1e-5)) / 2e-5}
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-5)
  without = sum(3 * (-1 + a * 3) - 1 for a in np.linspace(0, 1, 11))
  assert abs(without - want["p"]) > 1
  same = mc_sgd.line_slope(jax.grad(loss), at, at, 11)  # the line is a point: 11 L, of which the sum of a is 5.5
  np.testing.assert_allclose([same["p"], same["q"]], [5.5 * 5, 5.5 * 27], rtol=1e-6)


def test_the_search_begins_between_both_ends(run, four, small_model):
  """Without steps it is ``b + start (e - b)``."""
  _, begun, learned, _ = run
  bench = Bench("mc_sgd", four, small_model, {**HYPER, "steps": 0, "start": 0.4})
  got = bench.boundary("end_task", learned, 2)
  b, e = leaves(begun.params), leaves(learned.params)
  near(got.params, {n: v + 0.4 * (e[n] - v) for n, v in b.items()})


def test_without_stored_rows_training_is_plain(run, small_model, four):
  """Where all were deleted the parameters are those that training ended with; the deleted rows are erased."""
  bench, _, learned, _ = run
  named = jnp.ones(bench.spec.num_rows, bool)
  left = bench.parts.scrub(learned, named, jnp.zeros(4, bool))
  assert not np.asarray(left.method_state.episodes.memory.rows["x"]).any()
  assert_same(bench.boundary("end_task", left, 2).params, learned.params)
  again = bench.train(2, (0, 0))
  assert_near(again.params, Bench("finetune", four, small_model).train(2, (0, 0)).params)
  ring = memory.ring(4, 4, lambda rows: rows["slot"])
  assert float(ring.contents(again.method_state.episodes.memory)[1].sum()) == 1  # drawn anew, where it was


def test_between_tasks_no_older_parameters_are_kept(run):
  """A request that edits them would miss a copy of what a task began with."""
  bench, begun, learned, ended = run
  assert_same(begun.params, learned.method_state.before)
  assert_same(ended.params, ended.method_state.before)
  edited = ended._replace(params=jax.tree.map(lambda a: a + 0.5, ended.params))
  assert_same(edited.params, bench.parts.method.after_forget(edited, ended.params).method_state.before)
