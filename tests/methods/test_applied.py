"""What projectors promise of the update that is applied, under every optimizer; and which leaves they leave alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import BATCH, Bench

import cljax
from cljax import methods, models, projectors, streams
from cljax.engine.setup import spec_of
from cljax.methods import heads

OPTIMIZERS = {
  "sgd": optax.sgd(0.1),
  "momentum": optax.sgd(0.05, momentum=0.9),
  "adam": optax.adam(5e-3),
  "adamw": optax.adamw(5e-3, weight_decay=0.1),
  "rmsprop": optax.rmsprop(5e-3),
}
STORED = 10


@pytest.fixture(scope="module")
def permuted(make_blobs):
  """Three permuted tasks; the first has as many rows as are stored, so that no draw decides which."""
  stream = streams.build(make_blobs(), "permuted", tasks=3, validation=0.0)
  return stream._replace(train=(stream.train[0][:STORED], *stream.train[1:]))


def stored_rows(bench):
  """The first task's rows as the model sees them, and their labels."""
  index = np.asarray(bench.stream.train[0])
  x = bench.stream.view.apply(bench.stream.view.tables, bench.data.x[index], jnp.zeros(len(index), jnp.int32))
  return x, np.asarray(bench.data.labels)[0][np.asarray(bench.data.y)[index]]


def through_two_tasks(bench, watch):
  """``watch(learner before, learner after)`` of each step after the first task, and of its own steps as the control."""
  learner = bench.start()
  out: list[list] = [[], []]
  for task in (0, 1, 2):
    learner = bench.boundary("start_task", learner, task)
    for k in range(6):
      after = bench.step(learner, *bench.arguments(task, k))[0]
      out[task > 0].append(watch(learner, after))
      learner = after
    learner = bench.boundary("end_task", learner, task)
  return np.asarray(out[0]), np.asarray(out[1])


WIDE = models.mlp((4, 4, 1), 4, hidden=(16,))
KEPT = {"threshold": 1.0, "samples": STORED}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["gpm", "cuber"])
def test_old_outputs_stay_under_any_optimizer(name, optimizer, permuted):
  """The head is shared, so it is projected too: the stored rows' logits are what they were, though weights move."""
  hyper = {**KEPT, "sufficient": 2.0} if name == "cuber" else KEPT
  bench = Bench(name, permuted, WIDE, hyper, optimizer=OPTIMIZERS[optimizer])
  x, _ = stored_rows(bench)
  flat = np.asarray(x).reshape(len(x), -1)

  def watch(before, after):
    moved = jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), before.params, after.params)
    first = moved["hidden_0"]
    inside = np.abs(flat @ first["kernel"] + first["bias"]).max()
    hidden = np.maximum(flat @ np.asarray(before.params["hidden_0"]["kernel"]) + before.params["hidden_0"]["bias"], 0)
    return inside, np.abs(hidden @ moved["head"]["kernel"] + moved["head"]["bias"]).max(), np.abs(first["kernel"]).max()

  control, held = through_two_tasks(bench, watch)
  assert held[:, :2].max() < 2e-5 * control[:, :2].max()
  assert held[:, 2].max() > 1e-3 * control[:, 2].max()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["ogd", "pca_ogd"])
def test_old_true_logits_stay_to_first_order_under_any_optimizer(name, optimizer, permuted, small_model):
  hyper = {"samples": STORED, **({"directions": STORED} if name == "pca_ogd" else {})}
  bench = Bench(name, permuted, small_model, hyper, optimizer=OPTIMIZERS[optimizer])
  x, y = stored_rows(bench)
  true = lambda params: small_model.apply(params, {}, x, train=False, key=None)[0].logits[jnp.arange(len(y)), y]
  jacobian = jax.jit(jax.jacrev(true))
  at = {}

  def watch(before, after):
    at.setdefault("first", before.params)
    moved = jax.tree.map(jnp.subtract, after.params, before.params)
    # The basis is of the parameters at the end of the first task: the seventh learner that is seen.
    at["seen"] = at.get("seen", 0) + 1
    if at["seen"] == 7:
      at["jacobian"] = jacobian(before.params)
    along = at.get("jacobian") or jacobian(before.params)
    change = sum(
      jnp.tensordot(j, m, m.ndim) for j, m in zip(jax.tree.leaves(along), jax.tree.leaves(moved), strict=True)
    )
    return float(jnp.abs(change).max()), float(max(jnp.abs(m).max() for m in jax.tree.leaves(moved)))

  control, held = through_two_tasks(bench, watch)
  assert held[:, 0].max() < 1e-4 * control[:, 0].max()
  assert held[:, 1].max() > 1e-3 * control[:, 1].max()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_coso_keeps_off_stored_directions_under_any_optimizer(optimizer, permuted, small_model):
  bench = Bench("coso", permuted, small_model, optimizer=OPTIMIZERS[optimizer])

  def watch(before, after):
    moved = np.asarray(after.params["hidden_0"]["kernel"]) - np.asarray(before.params["hidden_0"]["kernel"])
    is_mine = lambda node: isinstance(node, projectors.CoSOState)
    state = next(filter(is_mine, jax.tree.leaves(before.opt_state, is_leaf=is_mine)))
    bias = np.abs(np.asarray(after.params["hidden_0"]["bias"]) - np.asarray(before.params["hidden_0"]["bias"])).max()
    history = np.asarray(state.kernels["hidden_0/kernel"].history)
    return np.abs(moved @ history).max(), np.abs(moved).max(), bias

  _, held = through_two_tasks(bench, watch)
  assert held[:, 0].max() < 1e-5 * held[:, 1].max()
  assert held[:, 2].max() == 0


REFERENCES = {
  "agem": {"capacity": 2 * STORED, "reference_batch": STORED},
  "gem": {"capacity": 2 * STORED, "margin": 0.0, "ridge": 0.0},
  "er_agem": {"capacity": 2 * STORED, "replay_batch": STORED},
  "er_gem": {"capacity": 2 * STORED, "margin": 0.0, "ridge": 0.0, "reference_batch": STORED},
}


@pytest.fixture(scope="module")
def relabelled(make_blobs):
  """Two tasks that disagree: the second names the classes of the first otherwise."""
  stream = streams.build(make_blobs(), "label_permuted", tasks=2, validation=0.0)
  return stream._replace(train=(stream.train[0][:STORED], *stream.train[1:]))


@pytest.mark.parametrize(
  ("name", "optimizer"),
  [*(("agem", o) for o in OPTIMIZERS), ("gem", "adamw"), ("er_agem", "adam"), ("er_gem", "rmsprop")],
)
def test_on_the_update_no_step_raises_the_stored_loss(name, optimizer, relabelled, small_model):
  """``<u, g_k> <= 0`` for the update that is applied, to first order."""
  assert steepest(name, "update", optimizer, relabelled, small_model) < 1e-4


@pytest.mark.parametrize(("name", "optimizer"), [("agem", "momentum"), ("gem", "momentum")])
def test_on_the_gradient_an_optimizer_may_raise_the_stored_loss(name, optimizer, relabelled, small_model):
  """The published form promises it for the gradient: kept by SGD, and by no other optimizer."""
  assert steepest(name, "gradient", "sgd", relabelled, small_model) < 1e-4
  assert steepest(name, "gradient", optimizer, relabelled, small_model) > 1e-3


def steepest(name, on, optimizer, stream, model):
  """The greatest cosine of a step of the second task with the gradient of the stored rows' loss."""
  bench = Bench(name, stream, model, {**REFERENCES[name], "on": on}, optimizer=OPTIMIZERS[optimizer])
  x, y = stored_rows(bench)

  def loss(p):
    logits = model.apply(p, {}, x, train=False, key=None)[0].logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(y)).mean()

  gradient, turned = jax.jit(jax.grad(loss)), []
  learner = bench.boundary("start_task", bench.train(6, tasks=(0,)), 1)
  for k in range(8):
    after = bench.step(learner, *bench.arguments(1, k))[0]
    slope = jax.tree.leaves(gradient(learner.params))
    step = jax.tree.leaves(jax.tree.map(jnp.subtract, after.params, learner.params))
    inner = lambda a, b: sum(float(jnp.sum(u * v)) for u, v in zip(a, b, strict=True))
    turned.append(inner(slope, step) / np.sqrt(inner(slope, slope) * inner(step, step)))
    learner = after
  return max(turned)


def spec_for(dataset, kind, **fields):
  return spec_of(streams.build(dataset, kind, tasks=2, **fields), BATCH)


@pytest.mark.parametrize(
  ("kind", "fields", "own"),
  [
    ("task", {}, True),
    ("class", {"active": "task"}, True),
    ("task", {"active": "all"}, False),  # its rows push the other tasks' outputs down
    ("class", {}, False),
    ("class", {"active": "seen"}, False),
    ("domain", {}, False),
    ("domain", {"active": "task"}, False),  # one label table for all tasks
    ("permuted", {}, False),
    ("label_permuted", {"active": "task"}, False),
  ],
)
def test_the_default_of_skip_follows_the_stream(kind, fields, own, dataset):
  spec = spec_for(dataset, kind, **fields)
  model = models.mlp(spec.input_shape, spec.num_classes, hidden=(8,))
  assert heads.separate(spec) == own
  skip = heads.skipping(model, spec, "auto")
  assert {n for n in ("hidden_0/kernel", "head/kernel", "head/bias") if skip and skip(n)} == (
    {"head/kernel", "head/bias"} if own else set()
  )


def test_the_classifier_is_found_under_any_name(dataset):
  import flax.linen as nn

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      del train
      return nn.Dense(4, name="answers")(nn.relu(nn.Dense(4, name="head")(x.reshape(len(x), -1))))

  spec = spec_for(dataset, "task")
  assert heads.classifier(models.from_linen(Net(), spec.input_shape), spec) == {"answers/kernel", "answers/bias"}


def test_where_tasks_have_outputs_of_their_own_those_of_others_stand_still(task_stream, small_model):
  """Under adamw, whose decay needs no gradient, the first task's logits stay, head and all."""
  bench = Bench("gpm", task_stream, small_model, {"threshold": 1.0, "samples": 42}, optimizer=OPTIMIZERS["adamw"])
  learner = bench.train(6, tasks=(0,))
  index = np.asarray(task_stream.train[0])
  logits = lambda params: np.asarray(
    small_model.apply(params, {}, bench.data.x[index], train=False, key=None)[0].logits[:, :2]
  )
  before, learner = logits(learner.params), bench.boundary("start_task", learner, 1)
  head = np.asarray(learner.params["head"]["kernel"])
  for k in range(8):
    learner = bench.step(learner, *bench.arguments(1, k))[0]
  np.testing.assert_allclose(logits(learner.params), before, atol=1e-4)
  assert np.abs(np.asarray(learner.params["head"]["kernel"]) - head)[:, 2:].max() > 1e-3


def test_a_margin_has_no_place_on_the_update(class_stream, small_model):
  with pytest.raises(cljax.UsageError, match=r"method\.margin: got 0\.5; on='update' takes 0"):
    methods.make("gem", small_model, spec_of(class_stream, BATCH), on="update")


def test_coso_s_biases_go_with_their_kernels(class_stream, small_model):
  """Once a task is stored, a projected kernel's bias is held; that of a layer left alone takes its plain gradient."""
  bench = Bench("coso", class_stream, small_model, {"skip": "head"})
  first = bench.train(2, (0,))
  second = bench.step(first, *bench.arguments(1))[0]
  moved = lambda layer: float(np.abs(second.params[layer]["bias"] - first.params[layer]["bias"]).max())
  assert moved("hidden_0") == 0
  assert moved("head") > 0
