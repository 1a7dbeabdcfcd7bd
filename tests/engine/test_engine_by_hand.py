"""A whole run of a linear classifier in NumPy: full batches, so that no order of rows matters; saved and read back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import cljax
from cljax import models, streams
from cljax.core.method import Method
from cljax.core.types import Access

RNG = np.random.default_rng(5)
START = {"w": RNG.normal(size=(16, 4)) * 0.1, "b": RNG.normal(size=4) * 0.1}
RATE, MOMENTUM, EPOCHS = 0.2, 0.8, 3


@pytest.fixture(scope="module")
def stream(dataset):
  return streams.build(dataset, "class", tasks=2, validation=0.0)


@pytest.fixture(scope="module")
def linear():
  start = {k: jnp.asarray(v, jnp.float32) for k, v in START.items()}
  return models.from_apply(lambda key: start, lambda p, x: x.reshape(len(x), -1) @ p["w"] + p["b"])


def logits(p, x):
  return np.asarray(x, np.float64).reshape(len(x), -1) @ p["w"] + p["b"]


def slope(p, x, y):
  """The gradient of the mean cross-entropy."""
  d = (scipy.special.softmax(logits(p, x), -1) - np.eye(4)[y]) / len(y)
  return {"w": x.reshape(len(x), -1).T @ d, "b": d.sum(0)}


def accuracies(stream, p, met):
  """On each task: among the classes of the tasks ``met`` (all before the first) and of the task itself."""
  test, out = stream.dataset.test, []
  for t, rows in enumerate(stream.test):
    there = stream.classes_of_task[[*met, t] if met else [0, 1]].any(0)
    z = np.where(there, logits(p, test.x[rows]), -np.inf)
    out.append(np.mean(z.argmax(-1) == test.y[rows]))
  return out


def trained(stream, p, gradient, rate=1.0):
  """Parameters after each task of momentum SGD, from ``gradient(p, x, y)``; the momentum is carried over."""
  data, velocity, out = stream.dataset.train, {k: np.zeros_like(v) for k, v in p.items()}, []
  for rows in stream.train:
    for _ in range(EPOCHS):
      g = gradient(p, data.x[rows].astype(np.float64), data.y[rows])
      velocity = {k: MOMENTUM * velocity[k] + g[k] for k in p}
      p = {k: p[k] - rate * RATE * velocity[k] for k in p}
    out.append(p)
  return out


GIVEN = {
  "optimizer": "momentum",
  "optimizer_options": {"learning_rate": RATE, "momentum": MOMENTUM},
  "training": cljax.Recipe(batch_size=48, epochs=EPOCHS),
}


@pytest.fixture(scope="module")
def run(stream, linear, tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  return cljax.run(stream, linear, workdir=str(folder), seeds=2, **GIVEN), folder


def test_a_run_is_momentum_sgd_on_each_task_in_turn(stream, run):
  result, after = run[0], trained(stream, START, slope)
  for member in (0, 1):
    for k, v in after[1].items():
      np.testing.assert_allclose(result.learner.params[k][member], v, rtol=1e-4, atol=1e-5)
    want = [accuracies(stream, p, range(t)) for t, p in enumerate((START, *after))]
    np.testing.assert_allclose(result.accuracy[member], want, atol=1e-6)
  x = stream.dataset.test.x[:5]
  np.testing.assert_allclose(result.predict(x), logits(after[1], x), rtol=1e-4, atol=1e-4)
  assert result.steps == 2 * EPOCHS
  assert [e["task"] for e in result.events] == [0, 1]


def test_a_run_read_back_is_what_was_trained(stream, linear, run):
  after = trained(stream, START, slope)
  x = stream.dataset.test.x[:5]
  for number, event, p in ((None, 2, after[1]), (1, 1, after[0])):
    there = stream.classes_of_task[:event].any(0)
    loaded = cljax.load(run[1], number=number, stream=stream, model=linear, **GIVEN)
    for k, v in p.items():
      np.testing.assert_allclose(loaded.params[k][1], v, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
      loaded.predict(x, member=1), np.where(there, logits(p, x), -np.inf), rtol=1e-4, atol=1e-4
    )
    assert (loaded.position["event"], loaded.notes) == (event, ())


def test_parts_of_a_hybrid_add_up(stream, linear):
  """Two terms, of which one reads its own note on the batch; a gradient halved and an update tripled; own states."""

  def decay(key, params, learner, batch, outputs):
    assert batch.extra == {}
    return 0.15 * jnp.sum(params["w"] ** 2) * learner.method_state

  def shift(key, params, learner, batch, outputs):
    return batch.extra["by"] * jnp.sum(params["b"])

  def count(key, learner, info):
    return learner._replace(method_state=learner.method_state + info.batch.extra["by"])

  def note(key, learner, batch):
    return learner, batch._replace(extra={"by": jnp.float32(0.25)})

  def end(key, learner, task):
    return learner._replace(method_state=learner.method_state + 100)

  def factory(model, spec):
    return cljax.compose(
      first=Method(init=lambda key, learner: jnp.float32(2.0), terms={"t": decay}, transform=optax.scale(0.5)),
      second=Method(
        init=lambda key, learner: jnp.float32(0.0), terms={"t": shift}, prepare=note, after_step=count, end_task=end,
        finalize=optax.scale(3.0), penalty=optax.add_decayed_weights(0.1), access=Access(task_boundaries=True),
      ),
    )  # fmt: skip

  def gradient(p, x, y):
    g = slope(p, x, y)
    return {"w": 0.5 * (g["w"] + 0.6 * p["w"] + 0.1 * p["w"]), "b": 0.5 * (g["b"] + 0.25 + 0.1 * p["b"])}

  result = cljax.run(stream, linear, factory, **GIVEN)
  for k, v in trained(stream, START, gradient, rate=3.0)[1].items():
    np.testing.assert_allclose(result.learner.params[k][0], v, rtol=1e-4, atol=1e-5)
  state = jax.tree.map(float, jax.tree.map(lambda v: v[0], result.learner.method_state))
  assert state == {"first": 2.0, "second": 2 * (EPOCHS * 0.25 + 100)}
