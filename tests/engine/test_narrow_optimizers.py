"""Optimizers on float16 parameters: what optax computes in float32, rounded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import streams
from cljax.core.dtypes import lenient


@pytest.mark.parametrize("make", [optax.adam, optax.adamw, optax.rmsprop, optax.sgd], ids=lambda m: m.__name__)
def test_float16_is_seen_as_float32(make):
  """A gradient of 0 moves nothing, and one of 1e-4, whose square float16 does not have, as far as it should."""
  params = {"a": jnp.asarray([1.0, -2.0, 3.0], jnp.float16), "b": jnp.asarray([4.0], jnp.float32)}
  grads = {"a": jnp.asarray([0.0, 1e-4, -2.0], jnp.float16), "b": jnp.asarray([1e-4], jnp.float32)}
  whole = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32), tree)
  ours, theirs = lenient(make(0.01)), make(0.01)
  state, other = ours.init(params), theirs.init(whole(params))
  for _ in range(3):
    updates, state = ours.update(grads, state, params)
    wanted, other = theirs.update(whole(grads), other, whole(params))
    assert updates["a"].dtype == jnp.float16
    np.testing.assert_array_equal(updates["a"], wanted["a"].astype(jnp.float16))
    np.testing.assert_array_equal(updates["b"], wanted["b"])
    assert np.isfinite(np.asarray(updates["a"], np.float32)).all()


def test_scrub_of_float16_parameters_is_finite(dataset, small_model):
  """Its ascent starts where the gradient is exactly 0."""
  narrow = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float16), tree)
  model = small_model._replace(init=lambda key: (narrow(small_model.init(key)[0]), small_model.init(key)[1]))
  stream = streams.build(dataset, "class", tasks=2, forget="2:class=1")
  result = cljax.run(stream, model, "scrub", {"steps": 12}, training=cljax.Recipe(batch_size=8))
  for a in jax.tree.leaves(result.learner.params):
    assert a.dtype == jnp.float16
    assert np.isfinite(np.asarray(a, np.float32)).all()


@pytest.mark.parametrize("name", ["adam", "momentum", "rmsprop"])
def test_moments_of_float16_start_anew_as_they_began(dataset, small_model, name):
  """After a request the optimizer's state is a fresh one, of the same dtypes: the next task can be learned."""
  narrow = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float16), tree)
  model = small_model._replace(init=lambda key: (narrow(small_model.init(key)[0]), small_model.init(key)[1]))
  stream = streams.build(dataset, "class", tasks=2, forget="1:class=0")
  for training in (cljax.Recipe(batch_size=8), cljax.Recipe(batch_size=8, reset_per_task=True)):
    given = {"optimizer": name, "optimizer_options": {"learning_rate": 0.01}, "training": training}
    result = cljax.run(stream, model, forget="ssd", **given)
    moments = jax.tree.leaves(result.learner.opt_state.optimizer)
    assert {a.dtype for a in moments if a.ndim > 1 and jnp.issubdtype(a.dtype, jnp.floating)} == {jnp.dtype("float32")}
    assert result.alive.all()
