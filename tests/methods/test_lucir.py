"""LUCIR against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, forward, log_softmax

from cljax import models, streams
from cljax.core import tree
from cljax.methods.replay import lucir

HYPER = {"capacity": 12, "replay_batch": 12, "margin": 0.5, "rank": 0.7, "scale": 3.0}
LAST = "cosine/directions"


def unit(f, axis=-1):
  return f / np.linalg.norm(f, axis=axis, keepdims=True)


def features(params, x):
  return forward(params["network"], x)[0]


def cosines(params, x):
  return unit(features(params, x)) @ unit(np.asarray(params["cosine"]["directions"], np.float64)[..., 0], 0)


def stored(state):
  return np.asarray(state.rows["id"])[: int(state.count)]


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def trained(three):
  """A bench; the learner after one task and after two; in the second and the third at their beginning and a step on."""
  bench = Bench("lucir", three, models.mlp((4, 4, 1), 6, hidden=(8,)), HYPER)
  one = bench.train(3, (0,))
  begun = bench.boundary("start_task", one, 1)
  moved = bench.step(begun, *bench.arguments(1, 1))[0]
  two = bench.boundary("end_task", moved, 1)
  third = bench.boundary("start_task", two, 2)
  third = bench.step(third, *bench.arguments(2, 1))[0]
  return bench, one, begun, moved, two, third


def by_hand(bench, task, now, teacher, lam):
  """The loss of a step at ``now`` on the bench's first batch of a task."""
  split, memory = bench.stream.dataset.train, teacher.method_state.memory
  kept, count = stored(memory), len(bench.stream.train[task])
  share, s = len(kept) / (len(kept) + count), float(now.params["cosine"]["scale"])
  total = 0.0
  for part, (x, y) in ((1 - share, batch_of(bench, task, 0)), (share, (split.x[kept], split.y[kept]))):
    c = cosines(now.params, x)
    apart = 1 - (unit(features(now.params, x)) * unit(features(teacher.params, x))).sum(-1)
    total += part * (-log_softmax(s * c)[np.arange(len(y)), y] + lam * apart).mean()
  c, y = cosines(now.params, split.x[kept]), split.y[kept]
  new = c[:, 2 * task : 2 * task + 2]  # both are among the two hardest
  gap = np.maximum(0, 0.5 - c[np.arange(len(y)), y][:, None] + new).sum(-1)
  assert (gap > 0).any()
  return total + 0.7 * gap.mean()


def test_lucir_s_loss_has_the_weight_of_the_task_that_is_learned(trained):
  """lam = 5 sqrt(2 / 2) in the second task and 5 sqrt(4 / 2) in the third, not 0 and 5; a sum over two rivals."""
  bench, one, _begun, moved, two, third = trained
  for task, now, teacher, met, lam in ((1, moved, one, (0,), 5.0), (2, third, two, (0, 1), 5 * np.sqrt(2))):
    _, _, loss = bench.step(now, *bench.arguments(task, 0, met=met))
    np.testing.assert_allclose(float(loss), by_hand(bench, task, now, teacher, lam), rtol=2e-5)


def test_lucir_s_gradient_by_differences(trained):
  """Along a random direction, against the loss by hand; old directions are not moved at all, new ones and s are."""
  bench, one, _, moved, *_ = trained
  after = bench.step(moved, *bench.arguments(1, 0, met=(0,)))[0]
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - np.asarray(b)) / -RATE, after.params, moved.params)
  old = np.asarray(step["cosine"]["directions"])[:, :2]
  np.testing.assert_array_equal(old, 0)
  assert np.abs(step["cosine"]["directions"][:, 2:4]).min() > 0
  assert abs(float(step["cosine"]["scale"])) > 1e-3
  rng = np.random.default_rng(0)
  direction = jax.tree.map(lambda a: rng.normal(size=a.shape), step)
  direction["cosine"]["directions"][:, :2] = 0
  for h in (1e-6,):
    at = lambda t: by_hand(
      bench,
      1,
      moved._replace(params=jax.tree.map(lambda p, d: np.asarray(p, np.float64) + t * d, moved.params, direction)),
      one,
      5.0,
    )
    slope = (at(h) - at(-h)) / (2 * h)
  want = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
  np.testing.assert_allclose(want, slope, rtol=2e-3)


def test_new_directions_begin_at_the_means_of_their_features(trained):
  """At the mean norm of old ones; old ones stand; nothing of the network moves. A task that comes back keeps its
  own, and the first task those it was given."""
  bench, one, begun, *_, third = trained
  split = bench.stream.dataset.train
  before, after = (np.asarray(l.params["cosine"]["directions"], np.float64)[..., 0] for l in (one, begun))
  size = np.linalg.norm(before[:, :2], axis=0).mean()
  for c in (2, 3):
    rows = np.asarray(bench.stream.train[1])
    mean = unit(features(one.params, split.x[rows[split.y[rows] == c]])).mean(0)
    np.testing.assert_allclose(after[:, c], size * unit(mean), atol=2e-6)
  np.testing.assert_array_equal(after[:, [0, 1, 4, 5]], before[:, [0, 1, 4, 5]])
  assert_same(begun.params["network"], one.params["network"])
  start = bench.start()
  assert_same(bench.boundary("start_task", start, 0).params, start.params)
  assert_same(bench.boundary("start_task", third, 0, (0, 1, 2)).params, third.params)


def test_at_its_own_teacher_features_are_not_pulled(trained):
  """The first step behind a boundary: the same with any strength."""
  bench, _, begun, *_ = trained
  weak, strong = (bench.step(begun, *bench.arguments(1, 0, met=(0,)), strength=v) for v in (0.0, 50.0))
  np.testing.assert_allclose(weak[2], strong[2], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(weak[0].params), jax.tree.leaves(strong[0].params), strict=True):
    np.testing.assert_allclose(a, b, atol=5e-6)


def test_the_scale_of_features_counts_nowhere(trained):
  bench, *_, two, _ = trained
  x = jnp.asarray(bench.stream.dataset.test.x)
  larger = tree.map_named(lambda n, a: 3.0 * a if n.startswith("network/hidden_0") else a, two.params)
  predict = lambda params: bench.parts.predict(two._replace(params=params), x, jnp.int32(0))
  np.testing.assert_allclose(predict(larger), predict(two.params), atol=1e-5)
  s = float(two.params["cosine"]["scale"])
  np.testing.assert_allclose(predict(two.params), s * cosines(two.params, x), atol=1e-5)


def test_the_margin_is_of_old_rows_and_the_hardest_new_classes():
  """By loops; rows without weight, of new classes, and rivals that are not there take no part."""
  rng = np.random.default_rng(0)
  c, y = rng.uniform(-1, 1, (6, 5)), np.array([0, 1, 2, 0, 1, 3])
  rivals = np.tile([False, False, True, True, True], (6, 1))
  rivals[3, 2:4] = False
  weight, old = np.array([1, 1, 1, 1, 0, 1.0]), y < 2
  want = []
  for i in (0, 1, 3):
    hard = np.sort(c[i][rivals[i]])[::-1][:2]
    want.append(np.maximum(0, 0.3 - c[i, y[i]] + hard).sum())
  got = lucir.ranking(*(jnp.asarray(a) for a in (c, y, rivals, weight, old)), 0.3, 2)
  np.testing.assert_allclose(got, np.mean(want), rtol=1e-5)
  assert lucir.ranking(*(jnp.asarray(a) for a in (c, y, rivals, weight, old & False)), 0.3, 2) == 0
