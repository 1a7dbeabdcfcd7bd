"""Optimizers that are judged at other parameters than those they train: evaluation, boundaries, edits, files."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import streams
from cljax.engine import evaluation_parameters

TRAINING = cljax.Recipe(batch_size=8, epochs=2)
OPTIONS = cljax.Options(chunk_steps=4)
B1 = 0.9
OPTIMIZERS = {
  "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.5, b1=B1),
  "in a chain": lambda: optax.chain(optax.clip(1.0), optax.contrib.schedule_free_sgd(0.5, b1=B1)),
  "lookahead": lambda: optax.lookahead(optax.sgd(0.5), 7, 0.5),
}


def by_hand(name, model, stream):
  """The same training written out: final parameters to judge by, and those trained."""
  from cljax.core import tree
  from cljax.engine import schedule

  tx = OPTIMIZERS[name]()
  root = jax.random.key(0)
  params, _ = model.init(tree.fold(root, "model"))
  pair = optax.LookaheadParams.init_synced(params)
  state = tx.init(pair if name == "lookahead" else params)
  split, learned = stream.dataset.train, []

  @jax.jit
  def one(params, pair, state, x, y):
    def loss(p):
      out, _ = model.apply(p, {}, x, train=True, key=root, task=None, mask=None)
      return optax.softmax_cross_entropy_with_integer_labels(out.logits, y).mean()

    grads = jax.grad(loss)(pair.fast if name == "lookahead" else params)
    updates, state = tx.update(grads, state, pair if name == "lookahead" else params)
    if name == "lookahead":
      return params, optax.apply_updates(pair, updates), state
    return optax.apply_updates(params, updates), pair, state

  for at, event in enumerate(stream.events):
    plan = schedule.schedule(stream, learned, at, event.task, "current", TRAINING)
    index = schedule.rows(plan, 0, 0, plan.steps, plan.steps, np.zeros(len(plan.pairs.index), bool))[0]
    for rows in index:
      params, pair, state = one(params, pair, state, split.x[rows], split.y[rows])
    learned.append(event.task)
  if name == "lookahead":
    return pair.slow, pair.fast
  (inner,) = [s for s in jax.tree.leaves(state, is_leaf=is_schedule_free) if is_schedule_free(s)]
  return jax.tree.map(lambda y, z: (y - (1 - B1) * z) / B1, params, inner.z), params


def is_schedule_free(node):
  return isinstance(node, optax.contrib.ScheduleFreeState)


@pytest.fixture(scope="module")
def stream(dataset):
  return streams.build(dataset, "class", tasks=2, validation=0.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_evaluation_and_files_use_them(stream, small_model, name, tmp_path):
  arguments = {"optimizer": OPTIMIZERS[name], "training": TRAINING}
  result = cljax.run(stream, small_model, "finetune", options=OPTIONS, workdir=tmp_path, **arguments)
  judged, trained = by_hand(name, small_model, stream)
  near = lambda a, b: jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=2e-4, atol=2e-5), a, b)
  near(jax.tree.map(lambda a: a[0], result.learner.params), trained)
  x = stream.dataset.test.x
  logits = small_model.apply(judged, {}, x, train=False, key=None, task=None, mask=None)[0].logits
  off = small_model.apply(trained, {}, x, train=False, key=None, task=None, mask=None)[0].logits
  np.testing.assert_allclose(result.predict(x), logits, rtol=1e-3, atol=1e-4)
  assert np.abs(np.asarray(logits - off)).max() > 1e-2, "the two differ, so the test can fail"
  loaded = cljax.load(tmp_path, stream=stream, model=small_model, **arguments)
  near(jax.tree.map(lambda a: a[0], loaded.params), judged)
  np.testing.assert_array_equal(loaded.predict(x), result.predict(x))


def shifting(by):
  """Moves every parameter by ``by`` at the end of a task, and keeps what it saw."""

  def method(model, spec):
    del model, spec

    def end_task(key, learner, task):
      del key, task
      moved = jax.tree.map(lambda a: a + by, learner.params)
      return learner._replace(params=moved, method_state=learner.params)

    init = lambda key, learner: jax.tree.map(jnp.copy, learner.params)
    return cljax.Method(init=init, end_task=end_task, access=cljax.Access(task_boundaries=True))

  return method


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_boundary_sees_and_moves_them(stream, small_model, name):
  one = stream._replace(events=stream.events[:1])
  arguments = {"optimizer": OPTIMIZERS[name], "training": TRAINING, "options": OPTIONS}
  plain = cljax.run(one, small_model, "finetune", **arguments)
  still, moved = (cljax.run(one, small_model, shifting(by), **arguments) for by in (0.0, 0.25))
  first = lambda t: jax.tree.map(lambda a: np.asarray(a[0]), t)
  one_of = lambda r: first(jax.vmap(lambda l: evaluation_parameters.of(l.opt_state.optimizer, l.params))(r.learner))
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  same(first(still.learner.params), first(plain.learner.params))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first(still.learner.method_state), one_of(plain)
  )
  for of in (one_of, lambda r: first(r.learner.params)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b + 0.25, atol=1e-5), of(moved), of(plain))


@pytest.mark.parametrize("name", ["schedule_free", "lookahead"])
def test_an_edit_that_begins_the_optimizer_afresh(stream, small_model, name):
  """Forgetting edits what is judged, and training goes on from there."""
  asked = streams.with_forget(stream, "2:class=1")
  arguments = {"optimizer": OPTIMIZERS[name], "training": TRAINING, "options": OPTIONS}
  result = cljax.run(asked, small_model, "finetune", forget="gradient_ascent", forget_hyper={"steps": 2}, **arguments)
  one = jax.tree.map(lambda a: a[0], result.learner)
  judged = evaluation_parameters.of(one.opt_state.optimizer, one.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), judged, one.params)
  before = cljax.run(stream, small_model, "finetune", **arguments)
  earlier = jax.tree.map(lambda a: a[0], before.learner)
  start = evaluation_parameters.of(earlier.opt_state.optimizer, earlier.params)
  moved = max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(judged), jax.tree.leaves(start), strict=True))
  assert 0 < moved < 2


def test_two_that_say_so_are_refused(small_model):
  both = optax.chain(optax.contrib.schedule_free_sgd(0.5), optax.contrib.schedule_free_sgd(0.5))
  params = small_model.init(jax.random.key(0))[0]
  with pytest.raises(cljax.UsageError, match="more than one part"):
    evaluation_parameters.of(both.init(params), params)
