"""Every method under settings of JAX that careful users make, and with parameters of half precision: traced, which is
where all of these fail, and one of each kind run."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import records
from bench import Bench

import cljax
from cljax import methods, models, streams
from cljax.engine import recipe

NAMES = sorted(methods.METHODS)
SETTINGS = {
  "strict": lambda: strict(),  # neither dtypes nor ranks are promoted
  "x64": lambda: jax.enable_x64(True),
  "bfloat16": contextlib.nullcontext,
  "float16": contextlib.nullcontext,
}


@contextlib.contextmanager
def strict():
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    yield


@pytest.mark.parametrize("parts", [("er", "ewc", "ssd"), ("gpm", "lwf")])
def test_a_whole_run_is_strict(parts, class_stream, small_model):
  """Steps, boundaries, evaluations, results and predictions, and a request, without a promoted dtype or rank."""
  request = (cljax.Forget(classes=(0,)),) if "ssd" in parts else ()  # gpm's bases answer none
  stream = class_stream._replace(events=(*class_stream.events[:2], *request))

  def both(model, spec):
    made = {n: methods.make(n, model, spec, **({"capacity": 8} if n == "er" else {})) for n in parts}
    return cljax.compose(**made)

  with strict():
    result = cljax.run(stream, small_model, both, training=cljax.Recipe(batch_size=8))
    assert np.isfinite(result.accuracy).all()
    assert np.isfinite(np.asarray(result.predict(stream.dataset.test.x[:3]))[:, :2]).any()


def half(model, dtype):
  cast = lambda a: a.astype(dtype)

  def init(key):
    params, state = model.init(key)
    return jax.tree.map(cast, params), state

  return model._replace(init=init)


def described(tree):
  return [(a.shape, a.dtype) for a in jax.tree.leaves(tree)]


def trace(name, stream, model):
  """Each hook keeps the learner's shapes and dtypes; returns the learner, abstract."""
  bench = Bench(name, stream, model)
  parts, data, where = bench.parts, bench.data, bench.where(0)
  learner = jax.eval_shape(parts.init, jax.random.key(0))
  rows = jnp.zeros(bench.spec.task_rows, jnp.int32)
  for hook in (parts.start_task, parts.end_task):
    if hook is not None:
      after = jax.eval_shape(hook, learner, jnp.asarray(True), data, where, rows, rows, jnp.int32(3))
      assert described(after) == described(learner)
  after, _, _ = jax.eval_shape(parts.step, learner, *bench.arguments(0))
  assert described(after) == described(learner)
  mine = np.asarray(stream.train[0], np.int32)
  request = bench.request(mine[:3], mine[3:])
  if parts.forget is not None:
    after, _ = jax.eval_shape(parts.forget, learner, *request)
    assert described(after) == described(learner)
  if parts.scrub is not None:
    assert described(jax.eval_shape(parts.scrub, learner, *request[4:6])) == described(learner)
  jax.eval_shape(parts.predict, learner, data.x[:3], jnp.int32(0))
  return learner


# What is traced in float16 is traced as in bfloat16: some entries are enough.
TRACED = [(s, n) for s in SETTINGS for n in (NAMES[::6] if s == "float16" else NAMES)]


@pytest.mark.parametrize(("setting", "name"), TRACED)
def test_every_method_traces(setting, name, dataset, small_model):
  stream = streams.build(dataset, "task", tasks=2, active="seen")
  model = records.network(name, small_model)
  with SETTINGS[setting]():
    learner = trace(name, stream, half(model, setting) if "float" in setting else model)
  if "float" in setting:
    assert {a.dtype for a in jax.tree.leaves(learner.params)} <= {jnp.dtype(setting), jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "momentum"])
def test_an_optimizer_that_is_not_ours(name, task_stream, small_model):
  """optax's Adam raises a float to an int count, which strict promotion refuses."""
  with strict():
    bench = Bench("finetune", task_stream, small_model, optimizer=recipe.make_optimizer(name, learning_rate=0.1))
    learner = jax.eval_shape(bench.parts.init, jax.random.key(0))
    after, _, _ = jax.eval_shape(bench.parts.step, learner, *bench.arguments(0))
  assert described(after) == described(learner)


@pytest.mark.parametrize(
  "pair", [("ewc", "ssd"), ("derpp", "graddiff"), ("agem", "unsir"), ("ncm", ""), ("supsup", "")]
)
def test_no_nan_on_the_way(pair, make_blobs):
  """A run with a request under ``jax_debug_nans``, which stops at the first NaN that any program gives."""
  kind = "task" if pair[0] == "supsup" else "class"
  stream = streams.build(make_blobs(rows=20), kind, tasks=2, forget="2:class=1" if pair[1] else "")
  make = lambda model, spec: cljax.compose(
    **{n: methods.make(n, model, spec, **records.arguments(n)) for n in pair if n}
  )
  with jax.debug_nans(True):
    result = cljax.run(stream, models.mlp((4, 4, 1), 4, hidden=(8,)), make, training=cljax.Recipe(batch_size=8))
  assert result.alive.all()
