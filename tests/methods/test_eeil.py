"""EEIL against NumPy in float64."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, backward, batch_of, cross_entropy, forward, leaves, log_softmax, near

from cljax import models, streams

HYPER = {"capacity": 12, "replay_batch": 12, "strength": 0.6, "passes": 2, "rate": 0.05}
HEADS = [[0, 1], [2, 3], [4, 5]]


def stored(state):
  return np.asarray(state.rows["id"])[: int(state.count)]


def held(z, old, heads):
  """Each row's KL at T = 2, summed over heads, without T^2; and its slope in the logits."""
  total, d = np.zeros(len(z)), np.zeros_like(z)
  for head in heads:
    q, p = log_softmax(old[:, head] / 2), log_softmax(z[:, head] / 2)
    total += (np.exp(q) * (q - p)).sum(-1)
    d[:, head] += (np.exp(p) - np.exp(q)) / 2
  return total, d


def loss_and_slope(params, x, y, teachers):
  """The mean loss of rows, and its gradient; ``teachers`` are pairs of parameters and heads."""
  z = forward(params, x)[1]
  total, d = cross_entropy(z, y), np.exp(log_softmax(z)) - np.eye(6)[y]
  for teacher, heads in teachers:
    more, slope = held(z, forward(teacher, x)[1], heads)
    total, d = total + 0.6 * more, d + 0.6 * slope
  return total.mean(), backward(params, x, d / len(y))


@pytest.fixture(scope="module")
def trained(make_blobs):
  """A bench of batches as large as the memory; after two tasks; a step into the third; and after it."""
  stream = streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)
  bench = Bench("eeil", stream, models.mlp((4, 4, 1), 6, hidden=(8,)), HYPER, rows=12)
  two = bench.train(2, (0, 1))
  begun = bench.step(bench.boundary("start_task", two, 2), *bench.arguments(2, 1))[0]
  return bench, two, begun, bench.boundary("end_task", begun, 2)


def test_eeil_distils_each_old_task_s_outputs_by_themselves(trained):
  """Two heads of two classes, not one of four; the mean over the union of rows and exemplars."""
  bench, two, begun, _ = trained
  after, _, loss = bench.step(begun, *bench.arguments(2, 0))
  split, kept = bench.stream.dataset.train, stored(two.method_state.memory)
  share = len(kept) / (len(kept) + len(bench.stream.train[2]))
  teachers = [(two.params, HEADS[:2])]
  new = loss_and_slope(begun.params, *batch_of(bench, 2, 0), teachers)
  old = loss_and_slope(begun.params, split.x[kept], split.y[kept], teachers)
  np.testing.assert_allclose(float(loss), (1 - share) * new[0] + share * old[0], rtol=1e-5)
  want = {n: -RATE * ((1 - share) * new[1][n] + share * old[1][n]) for n in new[1]}
  near(jax.tree.map(lambda a, b: a - b, after.params, begun.params), want)
  z, old = (forward(l.params, split.x[kept])[1] for l in (begun, two))
  both, one = (held(z, old, heads)[0].mean() for heads in (HEADS[:2], [[0, 1, 2, 3]]))
  assert abs(one - both) > 0.03 * both


def test_eeil_is_trained_on_balanced_exemplars_when_a_task_ends(trained):
  """Two passes, each one batch of all twelve: SGD with momentum; the new classes held to the network before it."""
  bench, two, begun, end = trained
  split, kept = bench.stream.dataset.train, stored(end.method_state.memory)
  assert np.bincount(split.y[kept]).tolist() == [2] * 6
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), begun.params)
  velocity = {n: 0.0 for n in leaves(params)}
  for _ in range(2):
    teachers = [(two.params, HEADS[:2]), (begun.params, HEADS[2:])]
    slope = loss_and_slope(params, split.x[kept], split.y[kept], teachers)[1]
    velocity = {n: 0.9 * velocity[n] + slope[n] for n in slope}
    flat = {n: a - 0.05 * velocity[n] for n, a in leaves(params).items()}
    params = {l: {k: flat[f"{l}/{k}"] for k in params[l]} for l in params}
  near(end.params, flat, atol=5e-6)
  assert_same(end.method_state.teacher.params, end.params)


def test_the_first_task_has_no_balanced_training_and_the_first_step_no_pull(trained):
  bench, two, *_ = trained
  start = bench.steps(bench.start(), 0, 1)
  assert_same(bench.boundary("end_task", start, 0).params, start.params)
  begun = bench.boundary("start_task", two, 2)
  some = [bench.step(begun, *bench.arguments(2, 0), strength=v) for v in (0.0, 50.0)]
  np.testing.assert_allclose(some[0][2], some[1][2], rtol=1e-5)
  for a, b in zip(*(jax.tree.leaves(s[0].params) for s in some), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
