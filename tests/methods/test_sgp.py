"""SGP, the projector and the method, against NumPy in float64 that is written from the paper and the released code."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench
from by_hand import RATE, batch_of, gradient, leaves
from projecting_by_hand import ROWS, inputs_of, off, rows_of, widened

from cljax import engine, methods, models, projectors, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of

D, C = 6, 3
RNG = np.random.default_rng(3)
INPUTS = [RNG.normal(size=(5, D)) * [2, 1, 1, 0.5, 0.2, 0.1], RNG.normal(size=(5, D)) * [0.3, 2, 0.3, 1, 0.2, 1]]


def importance(sigma, alpha):
  return (alpha + 1) * sigma / (alpha * sigma + max(sigma))


def remembered(basis, held, x, level, alpha):
  """The paper's update of a layer's memory by rows ``x [n, d]``: the released code's, through the singular values of
  the projected representation."""
  new = widened(basis, x, level)
  r = basis.shape[1]
  if r == 0:
    sigma = np.linalg.svd(x.T, compute_uv=False)[: new.shape[1]]
    return new, importance(sigma, alpha)
  u, s, _ = np.linalg.svd(basis @ basis.T @ x.T, full_matrices=False)
  old = np.sqrt((basis.T @ u) ** 2 @ s**2)
  fresh = np.linalg.svd(x.T - basis @ (basis.T @ x.T), compute_uv=False)[: new.shape[1] - r]
  both = importance(np.concatenate([old, fresh]), alpha)
  return new, np.concatenate([np.clip(both[:r] + held, 0, 1), both[r:]])


def scaled_off(basis, held, a):
  return a - basis @ np.diag(held) @ basis.T @ a


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("alpha", [0.0, 1.5, 10.0])
def test_sgp_over_two_tasks(alpha):
  """The first task's importances, those of old directions clipped at 1 after the second, and the step."""
  with jax.enable_x64(True):
    g = {"a": {"kernel": draw(D, C), "bias": draw(C)}, "b": {"kernel": draw(2, 3, C, seed=1)}, "head": draw(C, 2)}
    tx, levels = projectors.sgp(skip=lambda path: path == "head"), {"a/kernel": 0.8, "b/kernel": 0.95}
    state = tx.init(g)
    memory = {p: (np.zeros((D, 0)), np.zeros(0)) for p in levels}
    some_at_one = False
    for task, x in enumerate(INPUTS):
      inputs = {"a/kernel": x, "b/kernel": x[::-1, ::-1], "ignored": x}
      state = projectors.sgp_extend(state, inputs, levels, alpha)
      for path, (m, held) in memory.items():
        memory[path] = remembered(m, held, inputs[path], levels[path], alpha)
        rank = memory[path][0].shape[1]
        assert int(state.ranks[path]) == rank > task
        np.testing.assert_allclose(state.importance[path][:rank], memory[path][1], atol=1e-9)
        np.testing.assert_array_equal(state.importance[path][rank:], 0)
        some_at_one |= task == 1 and (memory[path][1][: len(held)] == 1).sum() > 1
    assert some_at_one
    got, _ = tx.update(g, state)
    np.testing.assert_allclose(got["a"]["kernel"], scaled_off(*memory["a/kernel"], g["a"]["kernel"]), atol=1e-10)
    b = scaled_off(*memory["b/kernel"], g["b"]["kernel"].reshape(D, C)).reshape(2, 3, C)
    np.testing.assert_allclose(got["b"]["kernel"], b, atol=1e-10)
    np.testing.assert_array_equal(got["a"]["bias"], 0)
    np.testing.assert_array_equal(got["head"], g["head"])
    assert np.abs(memory["a/kernel"][0].T @ got["a"]["kernel"]).max() > 1e-3  # not GPM


def extended(x, threshold=1.0, alpha=10.0, max_rank=None, tasks=1):
  tx = projectors.sgp(max_rank, freeze_vectors=False)
  state = tx.init(jnp.zeros((x.shape[1], C)))
  for _ in range(tasks):
    state = projectors.sgp_extend(state, {"": jnp.asarray(x, jnp.float32)}, threshold, alpha)
  return tx, state


def test_importances_of_the_spec_s_singular_values():
  """5, 3, 1, .1 at alpha 10: 1, .943, .733, .183; the largest is always 1."""
  x = np.diag([5.0, 3.0, 1.0, 0.1, 0.0])
  state = extended(x)[1]
  np.testing.assert_allclose(state.importance[""], [1, 0.943, 0.733, 0.183, 0], atol=5e-4)
  for alpha in (0.0, 1.0, 100.0):
    assert float(extended(x, alpha=alpha)[1].importance[""].max()) == pytest.approx(1, abs=1e-6)
  np.testing.assert_allclose(extended(x, alpha=0.0)[1].importance[""], [1, 0.6, 0.2, 0.02, 0], atol=1e-6)
  np.testing.assert_allclose(extended(1e-30 * x)[1].importance[""], state.importance[""], atol=1e-6)


def test_importances_add_up_and_never_fall():
  """The same task again: twice as important, at most 1."""
  x = np.diag([5.0, 3.0, 1.0, 0.1, 0.0])
  one, two, many = (np.asarray(extended(x, tasks=n)[1].importance[""]) for n in (1, 2, 9))
  np.testing.assert_allclose(two, np.minimum(2 * one, 1), atol=1e-6)
  np.testing.assert_allclose(many[:4], 1, atol=1e-6)
  state = extended(x)[1]
  for held in (0 * x, np.diag([0.0, 0.0, 2.0, 0.0, 0.0])):
    later = projectors.sgp_extend(state, {"": jnp.asarray(held, jnp.float32)}, 1.0)
    want = one + np.float32([0, 0, 1, 0, 0]) * held.any()
    np.testing.assert_allclose(later.importance[""], np.minimum(want, 1), atol=1e-6)


def test_much_alpha_is_gpm():
  """With alpha growing every direction that has inputs is closed."""
  g = {"kernel": jnp.asarray(draw(D, C), jnp.float32), "bias": jnp.ones(C)}
  mine, theirs = projectors.sgp(), projectors.gpm()
  state, other = mine.init(g), theirs.init(g)
  gaps = []
  for alpha in (1.0, 1e3, 1e30):
    for x in INPUTS:
      rows = {"kernel": jnp.asarray(x, jnp.float32)}
      state, other = projectors.sgp_extend(state, rows, 0.9, alpha), projectors.gpm_extend(other, rows, 0.9)
    got, want = mine.update(g, state)[0], theirs.update(g, other)[0]
    np.testing.assert_array_equal(got["bias"], want["bias"])
    gaps.append(float(jnp.abs(got["kernel"] - want["kernel"]).max()))
    state, other = mine.init(g), theirs.init(g)
  assert gaps[0] > 1e-2 > gaps[1] > 1e-5 > gaps[2]


def test_what_sgp_has_not_seen_passes_to_the_bit():
  g = {"kernel": jnp.asarray(draw(D, C), jnp.float32), "bias": jnp.ones(C)}
  tx = projectors.sgp()
  state = tx.init(g)
  for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(tx.update(g, state)[0]), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
  nothing = projectors.sgp_extend(state, {"kernel": jnp.zeros((4, D))}, 1.0)
  assert int(nothing.ranks["kernel"]) == 0
  assert not np.any(nothing.importance["kernel"])
  np.testing.assert_array_equal(tx.update(g, nothing)[0]["kernel"], g["kernel"])
  free = projectors.sgp(freeze_vectors=False)
  np.testing.assert_array_equal(free.update(g, nothing)[0]["bias"], g["bias"])


def test_columns_of_sgp_in_blocks():
  """More columns than one block, the last one overlapping: no column is scaled twice."""
  tx = projectors.sgp(max_rank=150)
  basis = np.linalg.qr(draw(160, 150))[0].astype(np.float32)
  g, held = jnp.asarray(draw(160, 2, seed=1), jnp.float32), np.random.default_rng(2).uniform(size=150)
  update = jax.jit(tx.update)
  for rank in (0, 1, 64, 65, 128, 150):
    there = np.arange(150) < rank
    state = tx.init(g)._replace(
      bases={"": jnp.asarray(basis * there)}, importance={"": jnp.asarray(held * there, jnp.float32)},
      ranks={"": jnp.asarray(rank)}, tasks=jnp.asarray(1),
    )  # fmt: skip
    want = scaled_off(basis[:, :rank], held[:rank], np.asarray(g))
    np.testing.assert_allclose(update(g, state)[0], want, atol=1e-5)


def test_sgp_without_room_and_what_it_refuses():
  x = np.diag([5.0, 3.0, 1.0, 0.1, 0.0])
  state = extended(x, max_rank=2)[1]
  assert (int(state.ranks[""]), int(state.dropped[""]), state.bases[""].shape) == (2, 2, (5, 2))
  np.testing.assert_allclose(state.importance[""], [1, 0.943], atol=5e-4)
  chain = optax.chain(projectors.sgp(), optax.sgd(0.1)).init(jnp.zeros((5, C)))
  later = projectors.sgp_extend(chain, {"": jnp.asarray(x, jnp.float32)}, 1.0)
  assert int(later[0].ranks[""]) == 4
  for arguments, told in (
    (({}, 0.9), "layer_inputs: '' is missing"),
    (({"": jnp.ones((2, 4))}, 0.9), r"expected \[n, 5\]"),
    (({"": jnp.ones((2, 5))}, 1.5), "threshold: got 1.5"),
    (({"": jnp.ones((2, 5))}, {"other": 0.5}), "threshold: '' is missing"),
    (({"": jnp.ones((2, 5))}, 0.9, -1.0), "alpha: got -1.0"),
  ):
    with pytest.raises(UsageError, match=told):
      projectors.sgp_extend(state, *arguments)
  with pytest.raises(UsageError, match="no SGPState"):
    projectors.sgp_extend(optax.sgd(0.1).init(jnp.zeros((5, C))), {"": jnp.ones((2, 5))})
  with pytest.raises(UsageError, match="max_rank: got 0"):
    projectors.sgp(max_rank=0)
  with pytest.raises(UsageError, match="the updates lack the kernel"):
    projectors.sgp().update({"b": jnp.ones((5, C))}, projectors.sgp().init({"a": jnp.ones((5, C))}))


# The method


@pytest.fixture(scope="module")
def four(make_blobs):
  return streams.build(make_blobs(rows=ROWS), "class", tasks=4, validation=0.0)


@pytest.mark.parametrize(
  "hyper",
  [{"on": "update", "alpha": 2.0}, {"on": "gradient", "alpha": 10.0, "skip": "head"}, {"max_rank": 3, "alpha": 0.5}],
  ids=["update", "gradient", "few"],
)
def test_sgp_scales_steps_along_old_inputs(hyper, four, small_model):
  """``G - M diag(lambda) M^T G`` after two tasks, of energies .99, .994; biases stand still, but a skipped layer's."""
  level, step = 0.99, 0.004
  bench = Bench("sgp", four, small_model, {"threshold": level, "threshold_step": step, "samples": 14, **hyper})
  learner = bench.start()
  memory = {p: (np.zeros((v.shape[0], 0)), np.zeros(0)) for p, v in leaves(learner.params).items() if v.ndim == 2}
  skipped = [p for p in memory if hyper.get("skip") and p.startswith("head")]
  for task in (0, 1):
    for k in (0, 1):
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    inputs = inputs_of(learner.params, rows_of(four, task)[0])
    for p, held in memory.items():
      new = remembered(*held, inputs[p], level + step * task, hyper["alpha"])
      if hyper.get("max_rank"):
        m = new[0][:, : hyper["max_rank"]]
        now = importance(np.linalg.norm(inputs[p] @ m, axis=0), hyper["alpha"])
        before = np.pad(held[1], (0, m.shape[1] - len(held[1])))
        new = m, np.minimum(before + now, 1)
      memory[p] = new
    learner = bench.boundary("end_task", learner, task)
  after = bench.step(learner, *bench.arguments(2, 0))[0]
  g = gradient(learner.params, *batch_of(bench, 2, 0))
  want = {p: (g[p] if p in skipped else scaled_off(*memory[p], g[p])) if p in memory else 0 * g[p] for p in g}
  if skipped:
    want["head/bias"] = g["head/bias"]
  theta = leaves(learner.params)
  assert any(np.abs(off(memory[p][0], g[p]) - want[p]).max() > 2e-4 for p in memory)
  for p, value in leaves(after.params).items():
    np.testing.assert_allclose(value, theta[p] - RATE * want[p], atol=5e-6, err_msg=p)


def test_under_any_optimizer_sgp_moves_old_inputs_by_what_is_left(four, small_model):
  """Along direction i a step is ``1 - lambda_i`` of what Adam with weight decay makes of the gradient."""
  adamw = optax.adamw(5e-3, weight_decay=0.1)
  options = {"threshold": 0.995, "samples": 14, "alpha": 3.0}
  mine, plain = (Bench(n, four, small_model, o, optimizer=adamw) for n, o in (("sgp", options), ("finetune", {})))
  learner = mine.train(3, (0,))
  free = plain.start()._replace(params=learner.params, opt_state=plain.start().opt_state)
  free = free._replace(opt_state=free.opt_state._replace(optimizer=learner.opt_state.optimizer))
  moved = [b.step(l, *b.arguments(1, 0))[0] for b, l in ((mine, learner), (plain, free))]
  state = learner.opt_state.finalize
  for p in ("hidden_0/kernel", "head/kernel"):
    basis, left = np.asarray(state.bases[p], np.float64), 1 - np.asarray(state.importance[p], np.float64)
    ours, theirs = (leaves(m.params)[p] - leaves(learner.params)[p] for m in moved)
    np.testing.assert_allclose(basis.T @ ours, left[:, None] * (basis.T @ theirs), atol=2e-6)
    rank = int(state.ranks[p])
    assert left[:rank].max() > 0
  assert np.abs(theirs).max() > 1e-3


def test_absent_rows_count_for_nothing_in_sgp(four, small_model):
  """Rows asked for beyond a task's: the same bases and importances."""
  few, more = (Bench("sgp", four, small_model, {"samples": n, "threshold": 0.9}) for n in (ROWS, 14))
  states = [b.boundary("end_task", b.start(), 0).opt_state.finalize for b in (few, more)]
  for p in ("hidden_0/kernel", "head/kernel"):
    a, b = (np.asarray(s.bases[p]) * np.asarray(s.importance[p]) @ np.asarray(s.bases[p]).T for s in states)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_sgp_refuses_a_model_without_layer_inputs(four):
  spec = spec_of(four, 8)
  blind = Bench("sgp", four, models.mlp((4, 4, 1), 4)._replace(capture=None))
  with pytest.raises(UsageError, match="has no capture"):
    blind.boundary("end_task", blind.start(), 0)
  small = models.mlp((4, 4, 1), 4, hidden=(3,))
  with pytest.raises(UsageError, match="sgp: no kernel to project"):
    methods.make("sgp", small, spec, skip="kernel").finalize.init(small.init(jax.random.key(0))[0])
  with pytest.raises(UsageError, match=r"method\.alpha: got -1"):
    methods.make("sgp", small, spec, alpha=-1.0)


@pytest.mark.parametrize("name", ["sgp", "adam_nscl", "trgp"])
def test_requests_to_what_keeps_spaces_of_old_inputs_are_refused(name, dataset, small_model):
  """An edit of the parameters would leave them in the state; a replay makes it anew."""
  kind = "task" if methods.METHODS[name].access.task_id_at_test else "class"
  stream = streams.build(dataset, kind, tasks=2, forget="1:class=0")
  with pytest.raises(UsageError, match=f"forget: '{name} . ssd' keeps .*span.*; use forget.name='retrain'"):
    engine.prepare(stream, small_model, name, forget="ssd")
  engine.prepare(stream, small_model, name, forget="retrain")
