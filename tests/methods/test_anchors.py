"""Methods that hold parameters or features, against independent NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves

from cljax import models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of


@pytest.fixture(scope="module")
def shared_labels(make_blobs):
  return streams.build(make_blobs(), "permuted", tasks=2, validation=0.0)


def test_l2_previous_pulls_to_the_last_boundary(class_stream, small_model):
  bench = Bench("l2_previous", class_stream, small_model, {"strength": 0.7})
  anchor = bench.train(steps=3, tasks=(0,))
  away, _, _ = bench.step(anchor, *bench.arguments(1, 0))
  after, _, _ = bench.step(away, *bench.arguments(1, 1))
  x, y = batch_of(bench, 1, 1)
  g, theta, star = gradient(away.params, x, y), leaves(away.params), leaves(anchor.params)
  for path, value in leaves(after.params).items():
    want = theta[path] - RATE * (g[path] + 2 * 0.7 * (theta[path] - star[path]))
    np.testing.assert_allclose(value, want, atol=2e-6, err_msg=path)


@pytest.mark.parametrize("normalise", ["none", "max"])
def test_hierarchical_integrates_the_path_and_weighs_layers(class_stream, small_model, normalise):
  """Omega from the gradients and movements of each step, the layers' softmax, and the pull that they make."""
  strength, damping = 3.0, 0.1
  hyper = {"strength": strength, "damping": damping, "normalise": normalise}
  bench = Bench("hierarchical", class_stream, small_model, hyper)
  start = learner = bench.start()
  path = {k: 0.0 for k in leaves(start.params)}
  for k in range(3):
    x, y = batch_of(bench, 0, k)
    g, before = gradient(learner.params, x, y), leaves(learner.params)
    learner, _, _ = bench.step(learner, *bench.arguments(0, k))
    path = {p: path[p] - g[p] * (v - before[p]) for p, v in leaves(learner.params).items()}
  first, star = leaves(start.params), leaves(learner.params)
  omega = {p: path[p] / ((star[p] - first[p]) ** 2 + damping) for p in path}
  norms = {m: np.sqrt(sum((v**2).sum() for p, v in omega.items() if p.startswith(m))) for m in ("head", "hidden_0")}
  if normalise == "max":
    norms = {m: n / max(norms.values()) for m, n in norms.items()}
  share = {m: np.exp(n) / sum(np.exp(v) for v in norms.values()) for m, n in norms.items()}
  anchor = bench.boundary("end_task", learner, 0)
  away, _, _ = bench.step(anchor, *bench.arguments(1, 0))
  after, _, _ = bench.step(away, *bench.arguments(1, 1))
  x, y = batch_of(bench, 1, 1)
  g, theta = gradient(away.params, x, y), leaves(away.params)
  assert abs(share["head"] - 0.5) > 1e-3  # else the layers' weights are not tried
  for p, value in leaves(after.params).items():
    weight = share[p.split("/")[0]] * omega[p]
    want = theta[p] - RATE * (g[p] + 2 * strength * weight * (theta[p] - star[p]))
    np.testing.assert_allclose(value, want, atol=2e-6, err_msg=p)


def test_hierarchical_takes_its_importance_from_the_general_tasks(make_blobs, small_model):
  """With ``general`` 1 the first task's importance, anchor and weights stay through the others; without, each adds."""
  stream = streams.build(make_blobs(rows=10), "class", tasks=4, validation=0.0)
  benches = [Bench("hierarchical", stream, small_model, {"strength": 1.0, "general": n}) for n in (0, 1, 2)]
  found = []
  for bench in benches:
    learner = bench.start()
    for task in (2, 0, 1):
      met = (2, 0, 1)[: len(found) % 3]
      learner = bench.step(learner, *bench.arguments(task, 0, met=met))[0]
      learner = bench.boundary("end_task", learner, task, met)
      state = learner.opt_state.penalty
      found.append((state.anchor, state.importance, state.layer_weight))
  same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
  every, one, two = found[:3], found[3:6], found[6:]
  assert_same(every[0], one[0])
  assert_same(every[:2], two[:2])
  assert_same(one[0], one[1])
  assert_same(one[0], one[2])
  assert_same(two[1], two[2])
  assert not same(every[0], every[1])
  assert not same(every[1], every[2])


def centers_by_hand(centers, h, y, rate):
  out = centers.copy()
  for c in range(len(centers)):
    rows = h[y == c]
    out[c] += rate * (rows - centers[c]).sum(0) / (1 + len(rows))
  return out


def test_center_loss_adds_half_the_squared_distance(shared_labels, small_model):
  """Centres by Wen's rule, and the loss of a class from the step after it was first seen."""
  bench = Bench("center_loss", shared_labels, small_model, {"strength": 0.4, "rate": 0.3})
  learner, centers, seen = bench.start(), np.zeros((4, 8)), np.zeros(4, bool)
  for k in range(3):
    x, y = batch_of(bench, 0, k)
    x = np.asarray(bench.stream.view.apply(bench.data.tables, jnp.asarray(x), jnp.zeros(len(y), jnp.int32)))
    h, z = forward(learner.params, x)
    distance = np.where(seen[y], 0.5 * ((h - centers[y]) ** 2).sum(-1), 0.0)
    learner, _, loss = bench.step(learner, *bench.arguments(0, k))
    np.testing.assert_allclose(float(loss), cross_entropy(z, y).mean() + 0.4 * distance.mean(), rtol=1e-5)
    centers, seen = centers_by_hand(centers, h, y, 0.3), seen | np.isin(np.arange(4), y)
    np.testing.assert_allclose(learner.method_state.centers, centers, atol=1e-5)


def test_center_loss_holds_centres_and_classifier_after_the_first_task(shared_labels, small_model):
  bench = Bench("center_loss", shared_labels, small_model)
  one = two = bench.train(steps=4, tasks=(0,))
  for k in range(4):
    two, _, _ = bench.step(two, *bench.arguments(1, k))
  before, after = leaves(one.params), leaves(two.params)
  for path in before:
    assert (before[path] == after[path]).all() == path.startswith("head")
  np.testing.assert_array_equal(one.method_state.centers, two.method_state.centers)
  assert np.asarray(one.method_state.rows).sum() == 4 * bench.spec.batch_size


def test_center_loss_refuses_what_it_cannot_hold(shared_labels, small_model):
  with pytest.raises(UsageError, match=r"method.head: 'top' matches no parameter"):
    Bench("center_loss", shared_labels, small_model, {"head": "top"}).start()

  def bare(params, state, x, **kwargs):
    out, state = small_model.apply(params, state, x, **kwargs)
    return out._replace(features=None), state

  model = small_model._replace(apply=bare)
  with pytest.raises(UsageError, match="needs a model that returns features"):
    jax.eval_shape(Bench("center_loss", shared_labels, model).parts.init, jax.random.key(0))


def test_center_loss_forgets_the_centre_of_a_class(shared_labels, small_model):
  bench = Bench("center_loss", shared_labels, small_model)
  learner = bench.train(steps=2, tasks=(0,))
  gone = jnp.arange(4) == 2
  state = bench.parts.scrub(learner, jnp.zeros(bench.spec.num_rows, bool), gone).method_state
  assert not np.asarray(state.centers)[2].any()
  assert np.asarray(state.rows)[2] == 0
  np.testing.assert_array_equal(
    np.asarray(state.centers)[[0, 1, 3]], np.asarray(learner.method_state.centers)[[0, 1, 3]]
  )


@pytest.mark.parametrize(("kind", "held"), [("domain", True), ("class", False), ("task", False)])
def test_center_loss_holds_no_classifier_that_new_classes_need(kind, held, dataset):
  """'auto' holds the classifier only where all tasks have the same classes, whatever the classifier's name."""
  stream = streams.build(dataset, kind, tasks=2, validation=0.0)
  bench = Bench("center_loss", stream, models.mlp((4, 4, 1), spec_of(stream, 8).num_classes, hidden=(8,)))
  first = bench.train(2, (0,))
  second = bench.step(first, *bench.arguments(1))[0]
  moved = np.abs(np.asarray(second.params["head"]["kernel"] - first.params["head"]["kernel"])).max() > 0
  assert moved != held
