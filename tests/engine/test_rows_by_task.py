"""Rows are seen under their own task: heads and prompts of each task, on current, replayed and reference rows."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench
from by_hand import RATE, leaves
from flax import nnx

import cljax
from cljax import estimators, methods, models, objectives
from cljax.core.types import Batch, Rows, UsageError
from cljax.engine import prepare, recipe
from cljax.engine.step import FRESH, build
from cljax.methods.unlearning.entries import viewed

RNG = np.random.default_rng(5)
START = {
  "heads": {"w": RNG.normal(size=(2, 16, 4)) / 4},
}
OTHER = np.random.default_rng(1)  # tasks' gradients conflict
START["prompt"] = {"w": OTHER.normal(size=(16, 6)) / 4, "e": OTHER.normal(size=(2, 6)), "v": OTHER.normal(size=(6, 4))}


def flat(x):
  return x.reshape(x.shape[0], -1)


def heads(params, x, task):
  return jnp.einsum("bd,bdc->bc", flat(x), params["w"][task])


def prompt(params, x, task):
  return jnp.tanh(flat(x) @ params["w"] + params["e"][task]) @ params["v"]


def model_of(name):
  """'one': takes one task for all its rows, made into one that takes each row's by ``by_row``."""
  start = lambda of: lambda key: jax.tree.map(jnp.float32, START[of])
  if name == "one":
    alone = lambda params, x, task: flat(x) @ params["w"][task]
    return models.by_row(models.from_apply(start("heads"), alone), 2)
  return models.from_apply(start(name), {"heads": heads, "prompt": prompt}[name], by_task=True)


def slope(name, params, x, y, task, of):
  """Gradient of the mean cross-entropy of rows of these tasks, each over its classes ``of [T, C]``, in NumPy."""
  p, x = leaves(params), np.asarray(x, np.float64).reshape(len(x), -1)
  h = x if name != "prompt" else np.tanh(x @ p["w"] + p["e"][task])
  z = np.einsum("bd,bdc->bc", h, p["w"][task]) if name != "prompt" else h @ p["v"]
  z = np.where(of[task], z, -np.inf)
  d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
  d[np.arange(len(y)), y] -= 1
  d /= len(y)
  out = {k: np.zeros_like(v) for k, v in p.items()}
  if name != "prompt":
    np.add.at(out["w"], task, x[:, :, None] * d[:, None])
    return out
  back = (d @ p["v"].T) * (1 - h**2)
  out["v"], out["w"] = h.T @ d, x.T @ back
  np.add.at(out["e"], task, back)
  return out


def rows(bench, task, at):
  split = bench.stream.dataset.train
  return split.x[at], split.y[at], np.full(len(at), task)


def near(after, before, moved):
  start = leaves(before.params)
  for path, value in leaves(after.params).items():
    np.testing.assert_allclose(value, start[path] - RATE * moved[path], atol=2e-6, err_msg=path)


@pytest.mark.parametrize("name", ["heads", "prompt", "one"])
def test_a_replayed_row_s_loss_goes_into_its_own_task(name, task_stream):
  """ER: the mean over the current and the stored rows, each through its own task's parameters."""
  bench = Bench("er", task_stream, model_of(name), {"capacity": 40, "replay_batch": 20})
  one = bench.step(bench.start(), *bench.arguments(0, 0))[0]
  two = bench.step(one, *bench.arguments(1, 0))[0]
  parts = [rows(bench, t, np.asarray(bench.rows(t, 0)[0])) for t in (0, 1)]
  x, y, task = (np.concatenate(a) for a in zip(*parts, strict=True))
  want = slope(name, one.params, x, y, task, task_stream.classes_of_task)
  assert all(np.abs(want["w" if name != "prompt" else "e"][t]).max() > 1e-3 for t in (0, 1))
  near(two, one, want)


def seen_gradient(method):
  """The method, whose step is along its reference gradient (summed over constraints)."""
  of = lambda u, r: r if r.ndim == u.ndim else r.sum(0)
  update = lambda grads, state, params=None, *, references, **extra: (
    jax.tree.map(of, grads, references["memory"]), state
  )  # fmt: skip
  return method._replace(transform=optax.GradientTransformationExtraArgs(lambda params: (), update), averaged=None)


@pytest.mark.parametrize("name", ["heads", "prompt", "one"])
@pytest.mark.parametrize("method", ["agem", "gem"])
def test_a_reference_s_rows_go_through_their_own_task(name, method, task_stream):
  """The reference gradient is that of all stored rows of task 0, under its head, while task 1 is learned."""
  size, model = len(task_stream.train[0]), model_of(name)
  options = {"capacity": 2 * size, **({"reference_batch": 2 * size} if method == "agem" else {})}
  bench = Bench(method, task_stream, model, options)
  learner = bench.boundary("end_task", bench.start(), 0)
  made = seen_gradient(methods.make(method, model, bench.spec, **options))
  rule, training = recipe.make_optimizer("sgd", learning_rate=RATE), recipe.Recipe(batch_size=8)
  parts = build(method, made, model, bench.spec, rule, training, task_stream.view.apply, recipe.make_augment("none"))
  own = learner._replace(opt_state=learner.opt_state._replace(transform=()))
  after = jax.jit(parts.step)(own, *bench.arguments(1, 0))[0]
  at = np.asarray(task_stream.train[0])
  near(after, learner, slope(name, learner.params, *rows(bench, 0, at), task_stream.classes_of_task))


def test_agem_projects_on_the_gradient_of_rows_under_their_own_task(task_stream):
  """``g - <g, r> / <r, r> r``: through prompts of two tasks the gradients conflict."""
  size = len(task_stream.train[0])
  bench = Bench("agem", task_stream, model_of("prompt"), {"capacity": 2 * size, "reference_batch": 2 * size})
  learner = bench.boundary("end_task", bench.start(), 0)
  of = task_stream.classes_of_task
  g = slope("prompt", learner.params, *rows(bench, 1, np.asarray(bench.rows(1, 0)[0])), of)
  r = slope("prompt", learner.params, *rows(bench, 0, np.asarray(task_stream.train[0])), of)
  dot = lambda a, b: sum((a[k] * b[k]).sum() for k in a)
  assert dot(g, r) < 0
  want = {k: g[k] - dot(g, r) / dot(r, r) * r[k] for k in g}
  near(bench.step(learner, *bench.arguments(1, 0))[0], learner, want)


def test_rows_of_several_tasks_that_are_trained_at_once(task_stream):
  """joint: a step's rows go each through its own head."""
  bench = Bench("joint", task_stream, model_of("heads"))
  task = np.array([0, 1, 1, 0, 0, 1, 0, 1], np.int32)
  at = np.array([task_stream.train[t][i] for i, t in enumerate(task)], np.int32)
  start = bench.start()
  fresh = jnp.full(8, FRESH, jnp.int32)
  after = bench.step(start, bench.data, bench.where(1), jnp.asarray(True), jnp.asarray(at), jnp.asarray(task), fresh)[0]
  split = task_stream.dataset.train
  near(after, start, slope("heads", start.params, split.x[at], split.y[at], task, task_stream.classes_of_task))


def test_terms_and_teachers_see_each_row_s_task(task_stream):
  """er beside lwf: the teacher of a replayed row is asked under that row's task, so that it agrees with the learner
  right after a boundary, and the step is er's alone."""
  both = {"er": ("er", {"capacity": 40, "replay_batch": 20}), "lwf": ("lwf", {"strength": 5.0})}
  after = []
  for parts in (both, {"er": both["er"]}):
    bench = Bench(parts, task_stream, model_of("prompt"))
    learner = bench.step(bench.start(), *bench.arguments(0, 0, np.full(8, FRESH)))[0]
    learner = bench.boundary("end_task", learner, 0)
    after.append(leaves(bench.step(learner, *bench.arguments(1, 0))[0].params))
  for path, value in after[1].items():
    np.testing.assert_allclose(after[0][path], value, atol=1e-6, err_msg=path)


def mixed_rows(x, y, task, of):
  batch = Batch(*map(jnp.asarray, (x, y, np.ones(len(y), np.float32), np.arange(len(y)), task, of[task])))
  read = lambda start, size: jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, size), batch)
  return Rows(len(y), len(y), read)


@pytest.mark.parametrize("name", ["heads", "prompt", "one"])
def test_estimates_and_edits_over_rows_of_several_tasks(name, task_stream):
  """Fisher: of each row under its task; an edit's model gives each row its own head's logits."""
  split, of = task_stream.dataset.train, task_stream.classes_of_task
  at = np.concatenate([task_stream.train[t][:3] for t in (0, 1)])[[0, 3, 1, 4, 2, 5]]
  x, y, task = split.x[at], split.y[at], np.array([0, 1] * 3, np.int32)
  model = model_of(name)
  params, state = model.init(jax.random.key(0))
  one = lambda i: slope(name, params, x[i : i + 1], y[i : i + 1], task[i : i + 1], of)
  each = [one(i) for i in range(6)]
  given = mixed_rows(x, y, task, of)
  found = leaves(estimators.fisher_diagonal(model, params, state, given, kind="empirical", batch_size=3))
  for path, value in found.items():
    np.testing.assert_allclose(value, np.mean([e[path] ** 2 for e in each], 0), atol=1e-6, err_msg=path)
  found = leaves(estimators.fisher_diagonal(model, params, state, given, kind="batched", batch_size=6))
  whole = slope(name, params, x, y, task, of)
  for path, value in found.items():
    np.testing.assert_allclose(value, whole[path] ** 2, atol=1e-6, err_msg=path)
  bench_like = type("L", (), {"model_state": state})()
  logits = viewed(model, bench_like, jax.random.key(0))(params, given.batch(0, 6)).logits
  for i in range(6):
    alone = model.apply(params, state, jnp.asarray(x[i : i + 1]), train=False, key=None, task=jnp.int32(task[i]))[0]
    np.testing.assert_allclose(logits[i], alone.logits[0], atol=1e-6)


def test_each_task_is_evaluated_through_its_own_head(task_stream):
  """joint trains rows of both tasks in one step; the matrix is that of the learner's own heads, in NumPy."""
  training = cljax.Recipe(batch_size=8, epochs=2)
  result = cljax.run(task_stream, model_of("heads"), "joint", optimizer_options={"learning_rate": 0.1},
                     training=training)  # fmt: skip
  w, split = leaves(jax.tree.map(lambda a: a[0], result.learner.params))["w"], task_stream.dataset.test
  of = task_stream.classes_of_task
  for t, at in enumerate(task_stream.test):
    z = split.x[at].reshape(len(at), -1).astype(np.float64) @ w[t]
    right = np.where(of[t], z, -np.inf).argmax(-1) == split.y[at]
    np.testing.assert_allclose(result.accuracy[0, -1, t], right.mean())
    assert np.abs(w[t] - np.float32(START["heads"]["w"][t])).max() > 1e-2
    np.testing.assert_allclose(result.predict(split.x[at], 0, t)[:, of[t]], z[:, of[t]], atol=1e-5)


class LinenHeads(nn.Module):
  @nn.compact
  def __call__(self, x, task):
    assert task.shape == (x.shape[0],)
    w = self.param("w", nn.initializers.normal(1.0), (2, 16, 4))
    return jnp.einsum("bd,bdc->bc", nn.BatchNorm(use_running_average=True)(flat(x)), w[task])


class NNXHeads(nnx.Module):
  def __init__(self, rngs):
    self.w = nnx.Param(jax.random.normal(rngs.params(), (2, 16, 4)))

  def __call__(self, x, task):
    assert task.shape == (x.shape[0],)
    return jnp.einsum("bd,bdc->bc", flat(x), self.w[...][task])


@pytest.mark.parametrize("made", ["linen", "nnx"])
def test_modules_get_the_task_of_each_row(made):
  """A scalar is that of all rows."""
  build = {"linen": lambda: models.from_linen(LinenHeads(), (4, 4, 1), by_task=True),
           "nnx": lambda: models.from_nnx(NNXHeads, by_task=True)}[made]  # fmt: skip
  model = build()
  params, state = model.init(jax.random.key(1))
  x, task = jnp.float32(RNG.normal(size=(5, 4, 4, 1))), np.array([1, 0, 1, 1, 0])
  w = np.asarray(params["w"], np.float64)
  scale = 1 / np.sqrt(1 + 1e-5) if made == "linen" else 1.0
  z = np.einsum("bd,tdc->tbc", np.asarray(x, np.float64).reshape(5, -1) * scale, w)
  go = lambda task: model.apply(params, state, x, train=False, key=None, task=task)[0].logits
  np.testing.assert_allclose(go(jnp.asarray(task)), z[task, np.arange(5)], atol=1e-4)
  np.testing.assert_allclose(go(1), z[1], atol=1e-4)
  if made == "linen":
    assert set(estimators.layer_inputs(model, params, state, x, jnp.asarray(task))) == set()
  with pytest.raises(UsageError, match="task: this model reads the task of its rows; got None"):
    go(None)
  with pytest.raises(UsageError, match=r"task: has shape \(3,\); expected a scalar or one for each of 5 rows"):
    go(jnp.zeros(3, jnp.int32))


def test_by_row_hands_batch_norm_the_rows_of_each_task():
  """Two passes, each over the rows of its task, one behind the other; a single row is one pass."""

  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, task, train):
      h = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
      return h + (0 if task is None else task)

  model = models.by_row(models.from_linen(Norm(), (3,)), 2)
  assert model.by_task
  assert model.capture is None
  params, state = model.init(jax.random.key(0))
  x, task = np.float32(RNG.normal(size=(6, 3))), np.array([0, 1, 1, 0, 1, 0])
  mask = np.array([1, 1, 1, 1, 1, 0], np.float32)
  out, new = model.apply(params, state, jnp.asarray(x), train=True, key=None, task=jnp.asarray(task),
                         mask=jnp.asarray(mask))  # fmt: skip
  mean = np.zeros(3)
  for t in (0, 1):
    own = x[(task == t) & (mask > 0)].astype(np.float64)
    mean = 0.5 * mean + 0.5 * own.mean(0)
    here = (x[task == t] - own.mean(0)) / np.sqrt(own.var(0) + 1e-5) + t
    np.testing.assert_allclose(np.asarray(out.logits)[task == t], here, atol=1e-4)
  np.testing.assert_allclose(new["batch_stats"]["BatchNorm_0"]["mean"], mean, atol=1e-6)
  one, _ = model.apply(params, state, jnp.asarray(x[:1]), train=False, key=None, task=jnp.ones(1, jnp.int32))
  np.testing.assert_allclose(one.logits, x[:1] / np.sqrt(1 + 1e-5) + 1, atol=1e-5)


def test_what_cannot_be_told_is_refused(task_stream, class_stream):
  alone = models.from_apply(lambda key: {"w": jnp.float32(START["heads"]["w"])},
                            lambda params, x, task: flat(x) @ params["w"][task])  # fmt: skip
  with pytest.raises(UsageError, match="reads the task as one number, but this method's batches hold rows of several"):
    prepare(task_stream, alone, "agem", {"capacity": 8})
  prepare(task_stream, alone, "ewc", {})  # its rows are all of the current task
  either = lambda params, x, task=None: flat(x) @ params["w"][0 if task is None else task]
  optional = models.from_apply(lambda key: {"w": jnp.float32(START["heads"]["w"])}, either)
  for name, hyper in (("finetune", {}), ("er", {"capacity": 8})):
    with pytest.raises(UsageError, match="reads the task as one number, but this method"):
      prepare(task_stream, optional, name, hyper)
  prepare(class_stream, optional, "finetune", {})  # a stream that tells no task
  with pytest.raises(UsageError, match=r"model: reads the task of its rows, which this stream does not tell"):
    prepare(class_stream, model_of("heads"), "er", {"capacity": 8})
  for call in (
    lambda: models.from_apply(lambda key: {}, lambda params, x: x, by_task=True),
    lambda: models.from_linen(nn.Dense(2), (3,), by_task=True),
  ):
    with pytest.raises(UsageError, match=r"by_task: .* takes no 'task'"):
      call()
  with pytest.raises(UsageError, match="num_tasks: got 0; must be at least 1"):
    models.by_row(alone, 0)


def test_an_objective_s_own_passes_have_the_tasks_of_their_rows(task_stream):
  """Regression through heads, with er: another objective than classes sees the same rows."""
  spec = Bench("finetune", task_stream, model_of("heads")).spec
  made = objectives.chosen("regression", {})(None, spec, {})
  model, task = model_of("heads"), jnp.array([0, 1, 1])
  params, state = model.init(jax.random.key(0))
  batch = Batch(jnp.float32(RNG.normal(size=(3, 16))), jnp.zeros((3, 4)), jnp.ones(3), jnp.arange(3), task)
  apply = lambda key, params, b: model.apply(params, state, b.x, train=True, key=key, task=model.task_for(b.task))
  each = made.loss(None, apply, params, batch)[0]
  z = np.einsum("bd,bdc->bc", np.asarray(batch.x, np.float64), START["heads"]["w"][np.asarray(task)])
  np.testing.assert_allclose(each, 0.5 * (z**2).sum(-1), rtol=1e-5)


class Deep(nn.Module):
  """A hidden layer, and a head of each task that no layer of the capture owns."""

  @nn.compact
  def __call__(self, x, task):
    h = nn.relu(nn.Dense(8, name="hidden")(flat(x)))
    return jnp.einsum("bd,bdc->bc", h, self.param("heads", nn.initializers.normal(0.3), (2, 8, 4))[task])


@pytest.mark.parametrize(("method", "skip"), [("gpm", ""), ("gpm", "auto"), ("cuber", "")])
def test_projectors_leave_a_task_s_own_leaves_to_it(method, skip, task_stream):
  """Those of the other task stand still, under Adam with decay too; the hidden kernel stays off its old inputs."""
  model = models.from_linen(Deep(), (4, 4, 1), by_task=True)
  rule = recipe.make_optimizer("adamw", learning_rate=0.05)
  options = {"samples": 4, "threshold": 1.0, "skip": skip, **({"sufficient": 2.0} if method == "cuber" else {})}
  bench = Bench(method, task_stream, model, options, optimizer=rule)
  first = bench.boundary("end_task", bench.step(bench.start(), *bench.arguments(0, 0))[0], 0)
  learner = bench.boundary("start_task", first, 1)
  for k in range(2):
    learner = bench.step(learner, *bench.arguments(1, k))[0]
  before, after = leaves(first.params), leaves(learner.params)
  np.testing.assert_array_equal(after["heads"][0], before["heads"][0])
  np.testing.assert_array_equal(after["hidden/bias"], before["hidden/bias"])
  assert np.abs(after["heads"][1] - before["heads"][1])[:, 2:].min() > 1e-3  # its classes' own
  moved = after["hidden/kernel"] - before["hidden/kernel"]
  assert np.abs(moved).max() > 1e-3
  still = np.asarray(task_stream.dataset.train.x)[task_stream.train[0]].reshape(-1, 16) @ moved
  assert (np.abs(still).max(1) < 1e-4).sum() == 4  # the sampled rows
