"""RWalk and EWC++ against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, gradient, leaves

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.penalties import rwalk

HYPER = {"strength": 0.4, "decay": 0.7, "damping": 1e-4, "every": 2}


def in_unit(values):
  """Min-max over all weights of all layers."""
  low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
  return {p: (v - low) / (high - low) for p, v in values.items()}


def by_hand(bench, tasks, steps, score=True, damping=1e-4):
  """The learner behind the tasks, each step compared; and the anchor with its importance in NumPy."""
  learner = bench.start()
  fisher = {p: np.zeros_like(v) for p, v in leaves(learner.params).items()}
  path, importance, star = None, None, None
  for task in range(tasks):
    gathered = {p: np.zeros_like(v) for p, v in fisher.items()}
    gained, since = {p: 0.0 for p in fisher}, leaves(learner.params)
    for k in range(steps):
      before, g = leaves(learner.params), gradient(learner.params, *batch_of(bench, task, k))
      slope = dict(g)
      if star is not None:
        slope = {p: g[p] + 2 * 0.4 * importance[p] * (before[p] - star[p]) for p in g}
      learner = bench.step(learner, *bench.arguments(task, k))[0]
      after = leaves(learner.params)
      for p in g:
        np.testing.assert_allclose(after[p], before[p] - RATE * slope[p], atol=5e-6, err_msg=p)
        fisher[p] = 0.7 * fisher[p] + 0.3 * g[p] ** 2
        gained[p] = gained[p] - g[p] * (after[p] - before[p])
      if k % 2 or k == steps - 1:  # blocks of two; what is left at the boundary is one too
        for p in g:
          far = after[p] - since[p]
          gathered[p] = gathered[p] + np.maximum(gained[p], 0) / (0.5 * fisher[p] * far**2 + damping)
        gained, since = {p: 0.0 for p in fisher}, after
    path = gathered if path is None else {p: (path[p] + gathered[p]) / 2 for p in gathered}
    importance = in_unit(fisher)
    if score:
      more = in_unit(path)
      importance = {p: v + more[p] for p, v in importance.items()}
    learner, star = bench.boundary("end_task", learner, task), leaves(learner.params)
  return learner, star, importance, path


@pytest.mark.parametrize("score", [True, False])
def test_rwalk_pulls_by_fisher_and_path(score, class_stream, small_model):
  """Two tasks of three steps; the second is pulled to the end of the first, and what follows to that of the second."""
  hyper = HYPER if score else {"strength": 0.4, "decay": 0.7, "score": False}
  bench = Bench("rwalk", class_stream, small_model, hyper)
  learner, star, importance, path = by_hand(bench, 2, 3, score)
  held = learner.opt_state.penalty
  for p, v in leaves(held.importance).items():
    np.testing.assert_allclose(v, importance[p], rtol=1e-3, atol=1e-5, err_msg=p)
  assert max(v.max() for v in importance.values()) > (1.05 if score else 0.99)
  if score:
    for p, v in leaves(learner.method_state.score).items():
      np.testing.assert_allclose(v, path[p], rtol=2e-3, atol=1e-3, err_msg=p)
  away = bench.step(learner, *bench.arguments(0, 3, met=(0, 1)))[0]
  after = bench.step(away, *bench.arguments(1, 3, met=(0, 1)))[0]
  g, theta = gradient(away.params, *batch_of(bench, 1, 3)), leaves(away.params)
  pull = {p: 2 * 0.4 * importance[p] * (theta[p] - star[p]) for p in g}
  assert max(np.abs(v).max() for v in pull.values()) > 1e-3
  for p, v in leaves(after.params).items():
    np.testing.assert_allclose(v, theta[p] - RATE * (g[p] + pull[p]), atol=5e-6, err_msg=p)


def test_both_parts_of_rwalk_lie_in_the_unit_interval(class_stream, small_model):
  """Over all weights, not layer by layer: one weight of all has 0, one has 1."""
  learner = Bench("rwalk", class_stream, small_model, HYPER).train(4)
  state = learner.method_state
  for part in (state.fisher, state.score):
    found = [np.asarray(v) for v in jax.tree.leaves(rwalk.normalised(part))]
    assert min(v.min() for v in found) == 0
    np.testing.assert_allclose(max(v.max() for v in found), 1, rtol=1e-6)
    assert sorted(v.max() for v in found)[-2] < 0.999
  same = rwalk.normalised({"a": jnp.full(3, 2.0), "b": jnp.full((2, 2), 2.0)})
  assert all((np.asarray(v) == 0).all() for v in same.values())


def test_rwalk_averages_the_scores_of_tasks():
  """A task that gathers 2 each time leaves 2; the released sum would be 2, 4 and 7, the first one doubled."""
  one = {"w": jnp.float32([2.0])}
  state = rwalk.Walk((), (), (), one, {"w": jnp.zeros(1)}, jnp.int32(0), jnp.int32(0))
  for task, want in enumerate((2.0, 2.0, 2.0)):
    state = rwalk.averaged(state)
    assert float(state.score["w"][0]) == want
    assert float(state.gathered["w"][0]) == 0
    assert int(state.tasks) == task + 1
    state = state._replace(gathered=one)
  mixed = rwalk.averaged(state._replace(gathered={"w": jnp.float32([4.0])}))
  assert float(mixed.score["w"][0]) == 3.0


def test_only_what_lowered_the_loss_scores():
  """``relu``: a path that raised the loss counts nothing; by hand 0.06 / (0.2 * 0.6^2 / 2 + 0.01) after two steps."""
  state = rwalk.Walk(*({"w": jnp.zeros(2)} for _ in range(5)), jnp.int32(0), jnp.int32(0))._replace(
    fisher={"w": jnp.float32([0.2, 0.2])}
  )
  gradients, moves = ([-0.1, 0.1], [-0.1, 0.1]), ([0.2, 0.2], [0.4, 0.3])
  for g, u in zip(gradients, moves, strict=True):
    state = rwalk.walked(state, {"w": jnp.float32(g)}, {"w": jnp.float32(u)}, 1.0, 2, 0.01)
  np.testing.assert_allclose(state.gathered["w"], [0.06 / (0.5 * 0.2 * 0.36 + 0.01), 0], rtol=1e-5)
  assert int(state.steps) == 0
  np.testing.assert_array_equal(state.moved["w"], 0)
  np.testing.assert_array_equal(state.gained["w"], 0)


def test_rwalk_is_still_at_its_anchor(class_stream, small_model):
  """At theta* the penalty has no slope: a step there is that of plain SGD, whatever the strength."""
  bench = Bench("rwalk", class_stream, small_model, HYPER)
  learner = bench.train(3, (0,))
  weak, strong = (bench.step(learner, *bench.arguments(1), strength=v)[0].params for v in (0.0, 50.0))
  jax.tree.map(np.testing.assert_array_equal, weak, strong)
  moved = bench.step(learner, *bench.arguments(1))[0]
  weak, strong = (bench.step(moved, *bench.arguments(1, 1), strength=v)[0].params for v in (0.0, 1.0))
  assert not np.array_equal(weak["head"]["kernel"], strong["head"]["kernel"])


def test_ewc_plus_plus_keeps_no_path(class_stream, small_model):
  state = Bench("rwalk", class_stream, small_model, {"score": False}).train(2, (0,)).method_state
  assert jax.tree.leaves(state._replace(fisher=(), steps=(), tasks=())) == []
  assert max(np.asarray(v).max() for v in jax.tree.leaves(state.fisher)) > 0


def test_rwalk_refuses_what_has_no_meaning(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  for options, said in (
    ({"damping": 0.0}, "method.damping: got 0.0; expected a number above 0"),
    ({"decay": 1.5}, "method.decay: got 1.5; expected a number of at most 1"),
    ({"every": 0}, "method.every: got 0; expected an integer of at least 1"),
    ({"score": False, "every": 3}, "'rwalk' does not read with score=False"),
  ):
    with pytest.raises(UsageError, match=said):
      methods.make("rwalk", small_model, spec, **options)
