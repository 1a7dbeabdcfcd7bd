"""GSS-greedy against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves, near

HEAD = ("head/bias", "head/kernel")


def vector(params, x, y, names):
  slope = gradient(params, x, y)
  return np.concatenate([slope[n].ravel() for n in sorted(slope) if n in names])


def cosines(params, split, rows, pieces, names):
  """Each row's largest cosine with the gradients of the pieces, and that of all rows together."""
  of = lambda at: vector(params, split.x[at], split.y[at], names)
  others = [of(p) for p in pieces]
  cos = lambda g: max(g @ o / np.linalg.norm(g) / np.linalg.norm(o) for o in others)
  return np.array([cos(of([i])) for i in rows]), cos(of(rows))


@pytest.fixture(scope="module", params=["all", "classifier"])
def bench(request, class_stream, small_model):
  hyper = {"capacity": 20, "leaves": request.param, "beta": 0.6, "replay_batch": 16, "memory_strength": 1}
  made = Bench("gss", class_stream, small_model, hyper)
  return made, HEAD if request.param == "classifier" else (*HEAD, "hidden_0/bias", "hidden_0/kernel")


def test_gss_scores_rows_by_their_largest_cosine(bench):
  """Nothing stored: 0.1. Then, at the parameters behind their step, against the gradient of all stored rows; the third
  batch finds room for four."""
  bench, names = bench
  split = bench.stream.dataset.train
  two = bench.steps(bench.start(), 0, 2)
  first, second = (np.asarray(bench.rows(0, k)[0]) for k in (0, 1))
  memory = two.method_state.memory
  np.testing.assert_array_equal(memory.rows["id"][:8], first)
  np.testing.assert_allclose(memory.score, np.r_[np.full(8, 0.1), np.zeros(12)], rtol=1e-6)
  three, _, loss = bench.step(two, *bench.arguments(1, 0))
  memory = three.method_state.memory
  np.testing.assert_array_equal(memory.rows["id"][:16], np.r_[first, second])
  want, _ = cosines(two.params, split, second, [first], names)
  np.testing.assert_allclose(memory.score[8:16], want, rtol=2e-4, atol=1e-5)
  # The step: the mean over the current rows and 0.6 times that over all sixteen stored ones.
  (x, y), rows = batch_of(bench, 1, 0), np.r_[first, second]
  of = lambda x, y: cross_entropy(forward(two.params, x)[1], y).mean()
  np.testing.assert_allclose(float(loss), of(x, y) + 0.6 * of(split.x[rows], split.y[rows]), rtol=1e-5)
  slopes = gradient(two.params, x, y), gradient(two.params, split.x[rows], split.y[rows])
  near(three.params, {n: p - RATE * (slopes[0][n] + 0.6 * slopes[1][n]) for n, p in leaves(two.params).items()})
  four = bench.step(three, *bench.arguments(1, 1))[0].method_state.memory
  third = np.asarray(bench.rows(1, 0)[0])
  np.testing.assert_array_equal(four.rows["id"][16:], third[:4])
  want, _ = cosines(three.params, split, third[:4], [rows], names)
  np.testing.assert_allclose(four.score[16:], want, rtol=2e-4, atol=1e-5)
  assert int(four.count) == 20


def test_a_full_memory_opens_to_batches_below_the_threshold(bench):
  """The gate is the cosine of the whole batch's gradient; the rows that enter stand with cosines of their own; the
  memory stays full."""
  bench, _ = bench
  full = bench.steps(bench.steps(bench.start(), 0, 3), 1, 1)
  assert int(full.method_state.memory.count) == 20
  seen = np.asarray(full.method_state.memory.rows["id"])
  closed = bench.step(full, *bench.arguments(1, 1), threshold=-1.5)[0].method_state.memory
  assert_same(closed, full.method_state.memory)
  taken = 0
  for seed in range(6):
    other = full._replace(key=jax.random.key(seed))
    opened = bench.step(other, *bench.arguments(1, 1), threshold=1.5)[0].method_state.memory
    ids = np.asarray(opened.rows["id"])
    assert int(opened.count) == 20
    assert len(set(ids.tolist())) == 20
    assert set(ids.tolist()) <= {*seen.tolist(), *np.asarray(bench.rows(1, 0)[0]).tolist()}
    taken += (ids != seen).sum()
    assert ids[np.asarray(full.method_state.memory.score).argmin()] == seen[full.method_state.memory.score.argmin()]
  assert taken > 0


def test_a_batch_s_own_cosine_is_the_gate():
  """Against pieces of a task that the batch is not of: by hand, of three pieces, one of which is empty."""
  from cljax import models
  from cljax.core.types import Batch, Learner, Spec
  from cljax.methods.replay import gss
  from cljax.objectives import objective

  model = models.mlp((4, 4, 1), 4, hidden=(8,))
  params, state = model.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(11, 4, 4, 1)).astype(np.float32), rng.integers(0, 4, 11).astype(np.int32)
  each = lambda z, batch: (-jnp.take_along_axis(jax.nn.log_softmax(z), batch.y[:, None], 1)[:, 0], None)
  learned = objective.supervised("test", each, {}, "")
  shape, kind = (4, 4, 1), np.float32
  spec = Spec(4, 1, shape, kind, 3, 11, 11, 11, np.ones((1, 4), bool), objective=learned)

  def batch(at, weight):
    number = jnp.zeros(np.shape(at), jnp.int32)
    return Batch(jnp.asarray(x[at]), jnp.asarray(y[at]), jnp.asarray(weight, jnp.float32), number, number)

  pieces = batch(np.array([[3, 4, 5, 6], [7, 8, 0, 0], [0, 0, 0, 0]]), [[1, 1, 1, 1], [1, 1, 0, 0], [0] * 4])
  own, names = batch(np.arange(3), np.ones(3)), frozenset(leaves(params))
  learner = Learner(jnp.int32(0), jax.random.key(1), params, state, (), ())
  got = gss.alikeness(model, spec, learner, own, pieces, names, jax.random.key(2))
  split = type("Split", (), {"x": x, "y": y})
  want = cosines(params, split, np.arange(3), [[3, 4, 5, 6], [7, 8]], names)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-4)
  np.testing.assert_allclose(got[1], want[1], rtol=1e-4)
  assert abs(want[1] - want[0].mean()) > 0.02
  none = gss.alikeness(model, spec, learner, own, pieces._replace(weight=pieces.weight * 0), names, jax.random.key(2))
  np.testing.assert_allclose(none[0], 0.1)


def test_gss_forgets_rows_and_their_scores(bench):
  bench, _ = bench
  learner = bench.steps(bench.start(), 0, 3)
  stored = np.asarray(learner.method_state.memory.rows["id"])[:16]
  gone = jnp.zeros(bench.spec.num_rows, bool).at[stored[::2]].set(True)
  left = jax.jit(bench.parts.scrub)(learner, gone, jnp.zeros(4, bool)).method_state
  np.testing.assert_array_equal(left.memory.rows["id"][:8], stored[1::2])
  np.testing.assert_array_equal(left.memory.score[:8], learner.method_state.memory.score[1:16:2])
  assert not np.asarray(left.memory.rows["x"])[8:].any()
  assert not np.asarray(left.memory.score)[8:].any()
