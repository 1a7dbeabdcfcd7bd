"""Methods of curvature and of layer inputs' correlations against NumPy in float64: OWM, K-FAC EWC and NCL."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import BATCH, Bench, assert_near
from by_hand import KERNELS, RATE, backward, batch_of, forward, gradient, leaves, log_softmax
from projecting_by_hand import inputs_of

from cljax import engine, estimators, methods, models, regularizers, streams
from cljax.core import tree
from cljax.core.types import Learner, UsageError, Visit, rows_from_arrays
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods.projection.weights import mean_inputs

BIAS = {k: k.replace("kernel", "bias") for k in KERNELS}


def with_ones(rows):
  return np.concatenate([rows, np.ones((len(rows), 1))], 1)


@pytest.mark.parametrize(("on", "decay"), [("update", 0.1), ("gradient", 1.0)])
def test_owm_steps_through_the_inverse_of_all_batches_so_far(on, decay, class_stream, small_model):
  """Two steps in each of two tasks: ``theta <- theta - rate P [G; g]``, P of every batch up to the step's own, in the
  first task as in the second, with no update at a boundary. Rows of weight 0 are in no mean."""
  bench = Bench("owm", class_stream, small_model, {"alpha": 0.5, "decay": decay, "on": on})
  learner = bench.start()
  inverse = {p: np.eye(leaves(learner.params)[p].shape[0] + 1) for p in KERNELS}
  weight = np.ones(BATCH, np.int32)
  weight[:3] = 0
  for task in (0, 1):
    for k in (0, 1):
      x, y = (v[3:] for v in batch_of(bench, task, k))
      inputs, g, theta = inputs_of(learner.params, x), gradient(learner.params, x, y), leaves(learner.params)
      # the bench says of every step that it is the first of ten: progress is its number over ten
      alpha = 0.5 * decay ** (float(learner.step) / 10)
      learner = bench.step(learner, *bench.arguments(task, k, weight))[0]
      after = leaves(learner.params)
      for p in KERNELS:
        r = with_ones(inputs[p]).mean(0)
        inverse[p] += np.outer(r, r) / alpha
        both = np.linalg.solve(inverse[p], np.concatenate([g[p], g[BIAS[p]][None]]))
        np.testing.assert_allclose(after[p], theta[p] - RATE * both[:-1], atol=5e-6)
        np.testing.assert_allclose(after[BIAS[p]], theta[BIAS[p]] - RATE * both[-1], atol=5e-6)
    learner = bench.boundary("end_task", learner, task)


def test_owm_takes_the_mean_patch_of_every_place():
  """A convolution of 3x3 with padding on 4x4: 16 rows, each the mean over the batch of the patch there."""
  model = models.cnn((4, 4, 2), 3, widths=(2,))
  params, state = model.init(jax.random.key(0))
  x = np.random.default_rng(0).normal(size=(5, 4, 4, 2)).astype(np.float32)
  batch = rows_from_arrays(x, np.zeros(5, np.int32), weight=[1, 0, 1, 1, 0]).batch(0, 5)
  learner = Learner(jnp.int32(0), jax.random.key(0), params, state, (), ())

  class Spec:
    class objective:
      parts = None

  got = mean_inputs(model, Spec, learner, batch)
  first = next(p for p in got if p.endswith("kernel") and got[p].shape[1] == 18)
  padded = np.pad(x[[0, 2, 3]].mean(0), ((1, 1), (1, 1), (0, 0)))
  stride = int(4 / np.sqrt(len(got[first])))
  want = [padded[i : i + 3, j : j + 3].ravel() for i in range(0, 4, stride) for j in range(0, 4, stride)]
  np.testing.assert_allclose(got[first], np.stack(want), atol=1e-5)


def test_owm_holds_what_the_first_task_saw_under_any_optimizer(class_stream, small_model):
  """Behind AdamW, weight decay included: what the first layer makes of the first task's mean inputs stays, where in
  front of it AdamW moves it; weights move all the same."""
  optimizer = recipe.make_optimizer("adamw", learning_rate=0.01, weight_decay=0.1)
  moved = {}
  for on in ("update", "gradient"):
    bench = Bench("owm", class_stream, small_model, {"alpha": 1e-3, "on": on}, optimizer=optimizer)
    learner = before = bench.train(3, (0,))
    learner = bench.steps(learner, 1, 3, met=(0,))
    seen = np.stack(
      [with_ones(inputs_of(learner.params, batch_of(bench, 0, k)[0])[KERNELS[0]]).mean(0) for k in (0, 1)]
    )
    step = jax.tree.map(lambda a, b: np.float64(b) - np.float64(a), before.params, learner.params)["hidden_0"]
    both = np.concatenate([step["kernel"], step["bias"][None]])
    moved[on] = np.abs(seen @ both).max() / np.abs(both).max()
  assert moved["update"] < 0.02
  assert moved["gradient"] > 0.2


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dense(3, name="hidden_0")(x.reshape(x.shape[0], -1))
    return nn.Dense(4, name="head")(nn.relu(nn.LayerNorm(name="norm")(x)))


def factors_of(params, x, labels="exact"):
  """``{kernel: (A, G)}`` of the fixture's network in NumPy, the mean over rows and over the model's own labels."""
  p = np.exp(log_softmax(forward(params, x)[1]))
  inputs, count = inputs_of(params, x), p.shape[1]
  outputs = {n: 0 for n in inputs}
  for c in range(count):
    for i in range(len(x)):
      g = backward(params, x[[i]], p[[i]] - np.eye(count)[[c]])
      outputs = {n: o + p[i, c] / len(x) * np.outer(g[BIAS[n]], g[BIAS[n]]) for n, o in outputs.items()}
  return {n: (with_ones(a).T @ with_ones(a) / len(x), outputs[n]) for n, a in inputs.items()}


def both(tree, kernel):
  return np.concatenate([tree[kernel], tree[BIAS[kernel]][None]])


@pytest.mark.parametrize(("merge", "tasks"), [("kl", 1), ("kl", 2), ("additive", 2)])
def test_kfac_ewc_pulls_by_the_factors_of_every_task(merge, tasks, class_stream, small_model):
  """``theta <- theta - rate (g + strength L D R)`` in the task after, L and R of all rows of each task at its end."""
  bench = Bench("kfac_ewc", class_stream, small_model, {"strength": 0.02, "merge": merge})
  learner, kept = bench.start(), None
  for task in range(tasks):
    learner = bench.step(learner, *bench.arguments(task, 0))[0]
    x = class_stream.dataset.train.x[np.asarray(class_stream.train[task])]
    new = {p: (len(x) * a, g) for p, (a, g) in factors_of(learner.params, x).items()}
    kept = new if kept is None else {p: kronecker_sum(kept[p], new[p], merge) for p in new}
    learner = bench.boundary("end_task", learner, task)
  anchor = leaves(learner.params)
  for p, (left, right) in kept.items():
    state = learner.opt_state.penalty
    np.testing.assert_allclose(np.kron(state.inputs[p], state.outputs[p]), np.kron(left, right), rtol=2e-3, atol=2e-3)
  away = learner._replace(params=jax.tree.map(lambda v: v + 0.1, learner.params))
  after = leaves(bench.step(away, *bench.arguments(1, 1))[0].params)
  theta, g = leaves(away.params), gradient(away.params, *batch_of(bench, 1, 1))
  for p, (left, right) in kept.items():
    pulled = both(g, p) + 0.02 * left @ (both(theta, p) - both(anchor, p)) @ right
    np.testing.assert_allclose(both(after, p), both(theta, p) - RATE * pulled, atol=2e-4)


def test_kfac_ewc_holds_what_has_no_factors_by_the_diagonal(class_stream):
  """A norm's scale and bias: ``rows * F`` of the exact diagonal, and no kernel or its bias twice."""
  model = models.from_linen(Normed(), (4, 4, 1))
  bench = Bench("kfac_ewc", class_stream, model, {"strength": 0.02})
  learner = bench.boundary("end_task", bench.start(), 0)
  kfac, rest = regularizers.find(learner.opt_state.penalty)
  names = set(tree.paths(learner.params))
  assert set(kfac.anchor) | set(tree.by_path(rest.importance)) == names
  assert not set(kfac.anchor) & set(tree.by_path(rest.importance))
  index = np.asarray(class_stream.train[0])
  split = class_stream.dataset.train
  rows = rows_from_arrays(split.x[index], split.y[index])
  want = tree.by_path(estimators.fisher_diagonal(model, learner.params, learner.model_state, rows))
  for n, f in tree.by_path(rest.importance).items():
    np.testing.assert_allclose(f, len(index) * want[n], rtol=2e-3, atol=1e-5)
  assert any(np.asarray(f).any() for f in jax.tree.leaves(rest.importance))
  # What is pulled: strength times importance times the way, of these leaves alone.
  moved = jax.tree.map(lambda a: a + 0.5, learner.params)
  zero = jax.tree.map(jnp.zeros_like, learner.params)
  given = {"task": jnp.int32(0), "visit": Visit.in_order(1, 2)}
  made = methods.make("kfac_ewc", model, bench.spec, strength=0.02).penalty.update(
    zero, learner.opt_state.penalty, moved, **given
  )[0]
  pull = tree.by_path(made)
  for n, f in tree.by_path(rest.importance).items():
    np.testing.assert_allclose(pull[n], 0.02 * 0.5 * np.asarray(f), rtol=1e-4, atol=1e-7)


def test_kfac_ewc_reads_the_layers_of_a_model_that_is_told_the_task(task_stream):
  """Which layers there are is asked of the model as its steps call it."""
  told = []

  def capture(params, state, x, probe, *, task):
    told.append(task.shape)
    return plain.capture(params, state, x, probe)

  plain = models.mlp((4, 4, 1), 4, hidden=(8,))
  spec = spec_of(task_stream, 8)
  methods.make("kfac_ewc", plain._replace(by_task=True, capture=capture), spec)
  assert told == [(1,)]


def test_ncl_steps_in_the_metric_of_the_tasks_so_far(class_stream, small_model):
  """First ``theta - rate (g + strength / n theta)``; after a task ``theta - rate [(n Lambda)^-1 g + strength / n
  (theta - mu)]``, Lambda the merge of I / n and the mean factors: with momentum before the metric."""
  optimizer = recipe.make_optimizer("momentum", learning_rate=RATE, momentum=0.9)
  options = {"strength": 0.7, "fisher": "exact", "damping": 0.0, "data_size": 40}
  bench = Bench("ncl", class_stream, small_model, options, optimizer=optimizer)
  learner, trace = bench.start(), {p: 0.0 for p in KERNELS}
  eye = {
    p: (np.eye(leaves(learner.params)[p].shape[0] + 1), np.eye(leaves(learner.params)[p].shape[1])) for p in KERNELS
  }
  kept = {p: tuple(40**-0.5 * m for m in eye[p]) for p in KERNELS}
  anchor = {p: 0.0 for p in KERNELS}
  for task in (0, 1):
    for k in (0, 1):
      theta, g = leaves(learner.params), gradient(learner.params, *batch_of(bench, task, k))
      learner = bench.step(learner, *bench.arguments(task, k))[0]
      after = leaves(learner.params)
      for p, (left, right) in kept.items():
        trace[p] = 0.9 * trace[p] + both(g, p) + 0.7 * left @ (both(theta, p) - anchor[p]) @ right
        step = np.linalg.solve(left, trace[p]) @ np.linalg.inv(right) / 40
        np.testing.assert_allclose(both(after, p), both(theta, p) - RATE * step, atol=3e-5)
    x = class_stream.dataset.train.x[np.asarray(class_stream.train[task])]
    kept = {p: kronecker_sum(kept[p], f, "kl") for p, f in factors_of(learner.params, x).items()}
    anchor = {p: both(leaves(learner.params), p) for p in KERNELS}
    learner = bench.boundary("end_task", learner, task)


def kronecker_sum(old, new, merge):
  """The merge by inverses, in float64."""
  (left, right), (a, g) = old, new
  pi = np.sqrt(np.trace(left) * np.trace(g) / np.trace(right) / np.trace(a))
  e, f = left + pi * a, right + g / pi
  if merge == "additive":
    return e, f
  for _ in range(1000):
    es = [np.trace(np.linalg.pinv(f, 1e-9) @ m) / np.linalg.matrix_rank(f, 1e-9) for m in (right, g)]
    fs = [np.trace(np.linalg.pinv(e, 1e-9) @ m) / np.linalg.matrix_rank(e, 1e-9) for m in (left, a)]
    e, f = 0.7 * e + 0.3 * (es[0] * left + es[1] * a), 0.7 * f + 0.3 * (fs[0] * right + fs[1] * g)
  return e, f


def test_ncl_at_no_strength_learns_its_first_task_as_plain_descent(class_stream, small_model):
  """And the rows of the largest task stand for n where no size is given: the metric after it is that of as many."""
  free, plain = (Bench(*a) for a in (("ncl", class_stream, small_model, {"strength": 0.0}),
                                     ("finetune", class_stream, small_model)))  # fmt: skip
  assert_near(free.train(3, (0,)).params, plain.train(3, (0,)).params, 1e-6)
  prior = free.start().opt_state.penalty.inputs[KERNELS[1]]
  np.testing.assert_allclose(prior, np.eye(len(prior)) * max(map(len, class_stream.train)) ** -0.5, rtol=1e-6)


@pytest.mark.parametrize("name", ["owm", "kfac_ewc", "ncl"])
def test_requests_to_what_keeps_correlations_of_inputs_are_refused(name, dataset, small_model):
  """Of few rows their span is the rows': an edit of the parameters would leave them; a replay makes the state anew."""
  stream = streams.build(dataset, "class", tasks=2, forget="1:class=0")
  with pytest.raises(
    UsageError, match=f"forget: '{name} . ssd' keeps the correlations of .*; use forget.name='retrain'"
  ):
    engine.prepare(stream, small_model, name, forget="ssd")
  engine.prepare(stream, small_model, name, forget="retrain")
