"""GDumb against SGD in NumPy, and what its network is a function of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench, assert_same
from by_hand import gradient, leaves

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import gdumb

HYPER = {"capacity": 10, "passes": 3, "batch_size": 16, "learning_rate": 0.2}


def rate(at, high):
  """Cycles of 1, 2, 4, ... passes from ``high`` to a hundredth of it."""
  first, length = 0, 1
  while at >= first + length:
    first, length = first + length, 2 * length
  low = high / 100
  return low + (high - low) * (1 + np.cos(np.pi * (at - first) / length)) / 2


def test_restarted_rates_are_cosines():
  got = [float(gdumb.restart_rate(0.05, jnp.float32(p))) for p in range(40)]
  np.testing.assert_allclose(got, [rate(p, 0.05) for p in range(40)], rtol=1e-5)
  assert [p for p in range(40) if np.isclose(got[p], 0.05)] == [0, 1, 3, 7, 15, 31]


def test_gdumb_is_sgd_on_the_memory_alone(class_stream, small_model):
  """All ten stored rows are in each batch, so that no draw decides: momentum, decay, clipping and rates by hand; large
  inputs make gradients that are clipped."""
  bench = Bench("gdumb", class_stream, small_model, HYPER)
  learner = bench.steps(bench.start(), 0, 3)
  fresh = bench.boundary("end_task", learner._replace(method_state=empty(learner)), 0).params
  state, split = learner.method_state, class_stream.dataset.train
  stored = np.asarray(state.rows["id"])
  for scale in (1.0, 30.0):
    rows = {**state.rows, "x": scale * state.rows["x"]}
    after = bench.boundary("end_task", learner._replace(method_state=state._replace(rows=rows)), 0)
    theta, norms = leaves(fresh), []
    velocity = dict.fromkeys(theta, 0.0)
    for at in range(3):
      now = jax.tree.unflatten(jax.tree.structure(fresh), list(theta.values()))
      g = gradient(now, scale * split.x[stored], split.y[stored])
      norms.append(np.sqrt(sum((v**2).sum() for v in g.values())))
      for p in theta:
        velocity[p] = 0.9 * velocity[p] + g[p] * min(1, 10 / norms[-1]) + 1e-6 * theta[p]
        theta[p] = theta[p] - rate(at, 0.2) * velocity[p]
    assert (max(norms) > 10) == (scale > 1)
    for p, value in leaves(after.params).items():
      np.testing.assert_allclose(value, theta[p], rtol=2e-5, atol=2e-5, err_msg=p)


def empty(learner):
  """The memory without rows: what is trained on it is the fresh network."""
  state = learner.method_state
  return state._replace(count=jnp.zeros_like(state.count))


@pytest.mark.parametrize("optimizer", [optax.adamw(0.1, weight_decay=0.5), optax.sgd(0.1, momentum=0.9)])
def test_steps_of_gdumb_train_nothing(optimizer, class_stream, small_model):
  bench = Bench("gdumb", class_stream, small_model, HYPER, optimizer=optimizer)
  start = bench.start()
  moved = bench.steps(start, 0, 3)
  assert_same(moved.params, start.params)
  assert int(moved.step) == 3
  assert int(moved.method_state.count) == 10


def test_gdumb_is_a_function_of_the_stored_set_and_the_seed(class_stream, small_model):
  """The same rows in other slots, another number of steps, another network before: the same bits. Another seed: others.
  So an earlier row of accuracies knows nothing of what came after, nor a later one of what was trained before."""
  bench = Bench("gdumb", class_stream, small_model, {**HYPER, "batch_size": 4})
  learner = bench.steps(bench.start(), 0, 3)
  state = learner.method_state
  turned = state._replace(rows=jax.tree.map(lambda a: a[::-1], state.rows), group=state.group[::-1])
  other = learner._replace(
    method_state=turned, step=learner.step + 5, params=jax.tree.map(lambda a: 2 * a, learner.params)
  )
  one, two = (bench.boundary("end_task", l, 0) for l in (learner, other))
  assert_same(one.params, two.params)
  again = bench.boundary("end_task", learner._replace(key=jax.random.key(9)), 0)
  assert np.abs(np.asarray(again.params["head"]["kernel"] - one.params["head"]["kernel"])).max() > 1e-3


def test_gdumb_forgets_rows_at_once_and_their_trace_with_the_next_training(class_stream, small_model):
  """After a scrub the next training is that of a memory which never had the rows."""
  bench = Bench("gdumb", class_stream, small_model, {**HYPER, "batch_size": 4})
  learner = bench.steps(bench.start(), 0, 3)
  rows = learner.method_state.rows
  gone = np.asarray(rows["id"])[[1, 4, 5]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(learner, named, jnp.zeros(4, bool))
  kept = np.delete(np.arange(10), [1, 4, 5])
  state = left.method_state
  np.testing.assert_array_equal(state.rows["id"][:7], np.asarray(rows["id"])[kept])
  assert not np.asarray(state.rows["x"])[7:].any()
  # As if the slots behind held what was deleted: nothing there is read.
  dirty = state._replace(rows=jax.tree.map(lambda a, b: a.at[7:].set(b[:3]), state.rows, rows))
  one, two = (bench.boundary("end_task", left._replace(method_state=s), 0) for s in (state, dirty))
  assert_same(one.params, two.params)
  whole = bench.boundary("end_task", learner, 0)
  assert np.abs(np.asarray(whole.params["head"]["kernel"] - one.params["head"]["kernel"])).max() > 1e-4


def test_boxes_are_mixed_by_their_area():
  """Inside one box, cut at the border, the other picture; ``kept`` is the part of the area outside."""
  x, other = np.zeros((2, 9, 12, 1), np.float32), np.ones((2, 9, 12, 1), np.float32)
  mix = jax.jit(lambda key: gdumb.mix_boxes(key, x, other, 1.0))
  areas = []
  for seed in range(60):
    got, kept = jax.device_get(mix(jax.random.key(seed)))
    np.testing.assert_array_equal(got[0], got[1])
    inside = got[0, :, :, 0]
    np.testing.assert_allclose(kept, 1 - inside.mean(), atol=1e-6)
    rows, columns = inside.max(1), inside.max(0)
    np.testing.assert_array_equal(inside, rows[:, None] * columns[None])
    assert (np.diff(np.flatnonzero(rows)) == 1).all()
    assert (np.diff(np.flatnonzero(columns)) == 1).all()
    # The box before it is cut: sides sqrt(1 - lam), of which a corner may lie outside.
    lam = float(jax.random.uniform(jax.random.key(seed), (4,))[0])
    assert inside.mean() <= 1 - lam + 2 * np.sqrt(1 - lam) * (1 / 9 + 1 / 12) + 1 / 108
    _, row, column, _ = map(float, jax.random.uniform(jax.random.key(seed), (4,)))
    half = np.sqrt(1 - lam) / 2
    if half <= min(row, column) and max(row, column) <= 1 - half:  # nothing is cut
      assert abs(inside.mean() - (1 - lam)) <= 2 * half * (1 / 9 + 1 / 12) + 1 / 108
    areas.append((1 - lam, inside.mean()))
  assert np.corrcoef(np.transpose(areas))[0, 1] > 0.7


@pytest.mark.parametrize(
  ("mixed", "stored"),
  [
    (lambda key, a, b, alpha=1.0: (b, 0.0), lambda x: x),
    (lambda key, a, b, alpha=1.0: (a, 1.0), lambda x: x),
    (lambda key, a, b, alpha=1.0: (0 * a, 0.25), lambda x: 0 * x),
  ],
  ids=["the other one", "the own one", "nothing of either"],
)
def test_both_pictures_labels_count_by_their_part(mixed, stored, monkeypatch, class_stream, small_model):
  """``kept CE(y) + (1 - kept) CE(y')``: whole pictures of one kind, or of none, leave the loss that is not mixed,
  whoever is drawn for another."""
  hyper = {**HYPER, "batch_size": 10}
  learner = (bench := Bench("gdumb", class_stream, small_model, hyper)).steps(bench.start(), 0, 3)
  state = learner.method_state
  rows = {**state.rows, "x": stored(state.rows["x"])}
  plain = bench.boundary("end_task", learner._replace(method_state=state._replace(rows=rows)), 0)
  monkeypatch.setattr(gdumb, "mix_boxes", mixed)
  got = Bench("gdumb", class_stream, small_model, {**hyper, "cut_mix": True}).boundary("end_task", learner, 0)
  assert np.abs(np.asarray(plain.params["head"]["bias"])).max() > 1e-2
  for p, value in leaves(got.params).items():
    np.testing.assert_allclose(value, leaves(plain.params)[p], rtol=2e-5, atol=2e-6, err_msg=p)


def test_half_of_the_batches_are_mixed():
  """Not every one, as Mammoth has it."""
  x, other = jnp.zeros((1, 16, 16, 1)), jnp.ones((1, 16, 16, 1))
  kept = jax.vmap(lambda key: gdumb.mix_boxes(key, x, other)[1])(jax.random.split(jax.random.key(0), 1000))
  assert 0.45 < float((kept == 1).mean()) - 0.01 < 0.56


def test_gdumb_mixes_pictures_alone(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"method.cut_mix: got True, which mixes pictures; expected inputs \[H"):
    methods.make("gdumb", small_model, spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32)), cut_mix=True)
  bench = Bench("gdumb", class_stream, small_model, {**HYPER, "passes": 8, "cut_mix": True})
  learner = bench.steps(bench.start(), 0, 3)
  plain = Bench("gdumb", class_stream, small_model, {**HYPER, "passes": 8}).boundary("end_task", learner, 0)
  mixed = bench.boundary("end_task", learner, 0)
  assert np.isfinite(np.asarray(mixed.params["head"]["kernel"])).all()
  assert np.abs(np.asarray(mixed.params["head"]["kernel"] - plain.params["head"]["kernel"])).max() > 1e-3
