"""What a learner keeps as a copy of its parameters follows an edit: else the next task would pull back what is gone."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bench import assert_same

import cljax
from cljax import engine, regularizers, streams


def run(method, hyper, dataset, model, optimizer="momentum"):
  """Two tasks learned, then a class forgotten by a few strong steps; what the learner keeps before and after."""
  forget = {"steps": 5, "learning_rate": 0.5, "forget_weight": 1.0}
  stream = streams.build(dataset, "class", tasks=2, forget=[(2, cljax.Forget(classes=(1,)))])
  training = cljax.Recipe(batch_size=8, epochs=1)
  options = {"training": training, "optimizer": optimizer, "options": cljax.Options(chunk_steps=2)}
  both = engine.prepare(stream, model, method, hyper, forget="graddiff", forget_hyper=forget, **options)
  before = both.setup.stream._replace(events=both.setup.stream.events[:2])
  cut = both._replace(setup=both.setup._replace(stream=before))
  one = lambda result: jax.tree.map(lambda a: a[0], result.learner)
  return one(cut.run()), one(both.run())


@pytest.mark.parametrize("method", ["online_ewc", "si", "ewc"])
def test_anchors_follow_the_edit(method, dataset, small_model):
  before, after = run(method, {"strength": 1.0}, dataset, small_model)
  (old,), (new,) = regularizers.find(before.opt_state), regularizers.find(after.opt_state)
  moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)).max(), after.params, before.params)
  assert max(jax.tree.leaves(moved)) > 0.1
  if method == "ewc":  # an average over tasks: it keeps its distance
    gap = lambda s, l: jax.tree.map(lambda a, p: a - p, s.anchor, l.params)
    for a, b in zip(jax.tree.leaves(gap(old, before)), jax.tree.leaves(gap(new, after)), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5)
  else:
    assert_same(old.anchor, before.params)
    assert_same(new.anchor, after.params)
  assert_same(new.importance, old.importance)


def test_a_teacher_follows_and_momentum_starts_afresh(dataset, small_model):
  before, after = run("lwf", {}, dataset, small_model)
  part = lambda l: l.method_state["lwf"] if isinstance(l.method_state, dict) else l.method_state
  assert_same(part(before).params, before.params)
  assert_same(part(after).params, after.params)
  momentum = jax.tree.leaves(before.opt_state.optimizer)
  assert any(np.any(np.asarray(m)) for m in momentum)
  assert not any(np.any(np.asarray(m)) for m in jax.tree.leaves(after.opt_state.optimizer))


def test_a_tree_without_anchors_comes_back(dataset, small_model):
  state = {"a": np.ones(3)}
  assert regularizers.follow_edit(state, {"w": np.zeros(2)}, {"w": np.ones(2)}) == state


COPIES = {
  "reptile": ({"capacity": 20, "every": 4, "epsilon": 0.5}, lambda state: (state.own,)),
  "lcia": ({}, lambda state: (state.average, state.last_params)),
  "lines": ({"alpha": 0.5}, lambda state: (state,)),
  "heterogeneous_averaging": ({}, lambda state: (state,)),
  "hypernetwork": ({"inference": "entropy", "size": 3, "width": 4}, lambda state: (state.params,)),
}


@pytest.mark.filterwarnings("ignore:method.epsilon")
@pytest.mark.parametrize("method", COPIES)
def test_what_weights_are_averaged_with_follows(method, dataset, small_model):
  """By as much as the parameters were edited: the next average would bring back what was forgotten."""
  hyper, copies = COPIES[method]
  before, after = run(method, hyper, dataset, small_model, "sgd")
  edited = zip(*map(jax.tree.leaves, (after.params, before.params)), strict=True)
  moved = [np.asarray(a) - np.asarray(b) for a, b in edited]
  assert max(np.abs(m).max() for m in moved) > 0.1
  own = lambda learner: copies(learner.method_state[method])
  for old, new in zip(own(before), own(after), strict=True):
    for a, b, by in zip(jax.tree.leaves(old), jax.tree.leaves(new), moved, strict=True):
      np.testing.assert_allclose(b, np.asarray(a) + by, atol=1e-5)
