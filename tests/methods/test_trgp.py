"""TRGP: its memory, its regions, the weights that a task sees and its steps, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, leaves
from projecting_by_hand import ROWS, inputs_of, nested, off, rows_of

from cljax import methods, models, projectors, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of

D, C = 6, 3


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def needed(memory, x, level):
  """``(memory [d, r], span [d, s])``: old and new directions by falling energy until the level is reached."""
  u, s, _ = np.linalg.svd(x.T - memory @ (memory.T @ x.T), full_matrices=False)
  found = [(np.sum((x @ m) ** 2), "old", m) for m in memory.T]
  found += [(e**2, "new", v) for e, v in zip(s, u.T, strict=True) if e > 1e-9]
  found.sort(key=lambda f: -f[0])
  taken, reached = [], 0.0
  for f in found:
    if reached >= level * np.sum(x**2) - 1e-12:
      break
    taken.append(f)
    reached += f[0]
  fresh = [m for _, kind, m in taken if kind == "new"]
  return np.stack([*memory.T, *fresh], 1) if fresh else memory, np.stack([m for *_, m in taken], 1)


INPUTS = [
  draw(8, D, seed=1) * [4, 2, 0.1, 0.1, 0.1, 0.1], draw(8, D, seed=2) * [3, 0.2, 2, 0.1, 0.1, 0.1],
  draw(8, D, seed=3) * [0.2, 2, 0.2, 1, 0.1, 0.1],
]  # fmt: skip


def test_trgp_s_memory_over_three_tasks():
  """Spans of tasks take old directions and new ones; the memory grows by the new."""
  with jax.enable_x64(True):
    state, memory, old_left_out = projectors.gpm().init({"kernel": jnp.zeros((D, C))}), np.zeros((D, 0)), 0
    for task, x in enumerate(INPUTS):
      state, own = projectors.trgp_extend(state, {"kernel": x, "ignored": x}, 0.93)
      before = memory.shape[1]
      memory, span = needed(memory, x, 0.93)
      mine = np.asarray(state.bases["kernel"])
      mask = np.asarray(own["kernel"])
      assert (int(state.ranks["kernel"]), int(state.tasks)) == (memory.shape[1], task + 1)
      np.testing.assert_allclose(mine @ mine.T, memory @ memory.T, atol=1e-9)
      np.testing.assert_allclose(mine[:, mask] @ mine[:, mask].T, span @ span.T, atol=1e-9)
      assert memory.shape[1] > before
      old_left_out += before - mask[:before].sum()
      assert not mask[memory.shape[1] :].any()
    assert old_left_out > 0
    assert mask[:before].any()


def test_the_first_new_direction_is_kept():
  """One new direction beside an old one: the released ``sel_index > r_pre`` would leave it out of the memory."""
  eye = np.eye(4)
  state = projectors.gpm().init(jnp.zeros((4, C)))
  state, _ = projectors.trgp_extend(state, {"": jnp.asarray(eye[:1])}, 1.0)
  state, own = projectors.trgp_extend(state, {"": jnp.asarray(eye[[0, 2]])}, 1.0)
  assert int(state.ranks[""]) == 2
  np.testing.assert_allclose(np.abs(state.bases[""][:, :2]), eye[:, [0, 2]], atol=1e-6)
  np.testing.assert_array_equal(own[""], [True, True, False, False])
  g = jnp.ones((4, C))
  np.testing.assert_allclose(projectors.gpm().update(g, state)[0], eye[[1, 3]].sum(0)[:, None] * np.ones(C), atol=1e-6)
  _, own = projectors.trgp_extend(state, {"": jnp.asarray(eye[2:3])}, 1.0)
  np.testing.assert_array_equal(own[""], [False, True, False, False])


def test_trgp_without_room_and_what_its_memory_refuses():
  state = projectors.gpm(max_rank=1).init(jnp.zeros((4, C)))
  state, own = projectors.trgp_extend(state, {"": jnp.eye(4)[:3] * jnp.array([[3.0], [2.0], [1.0]])}, 1.0)
  assert (int(state.ranks[""]), int(state.dropped[""])) == (1, 2)
  np.testing.assert_array_equal(own[""], [True])
  nothing, own = projectors.trgp_extend(state, {"": jnp.zeros((3, 4))}, 1.0)
  assert not own[""].any()
  assert int(nothing.ranks[""]) == 1
  tiny, own = projectors.trgp_extend(projectors.gpm().init(jnp.zeros((4, C))), {"": 1e-30 * jnp.eye(4)[:2]}, 1.0)
  assert int(tiny.ranks[""]) == own[""].sum() == 2
  with pytest.raises(UsageError, match="threshold: got"):
    projectors.trgp_extend(state, {"": jnp.eye(4)}, 1.5)
  with pytest.raises(UsageError, match="no GPMState"):
    projectors.trgp_extend(optax.sgd(0.1).init(jnp.zeros((4, C))), {"": jnp.eye(4)})


def test_regions_are_the_spans_that_take_most_of_the_gradient():
  basis, spans = jnp.eye(D)[:, :4], jnp.asarray([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]], bool)
  g = jnp.asarray(np.array([3.0, 2.0, 1.0, 0.1, 0.0, 2.0])[:, None] * np.ones(C))
  shares = np.array([3.0, np.sqrt(5), 0.1, np.sqrt(14.01)]) / np.sqrt(18.01)
  regions = lambda open_, count, sufficient: projectors.trust_regions(
    basis, spans, g, jnp.asarray(open_), count, sufficient
  ).tolist()
  assert regions([True] * 4, 3, 0.5) == [3, 0, 1]
  assert regions([True, True, True, False], 2, 0.0) == [0, 1]
  assert regions([True, True, True, False], 3, shares[1] - 1e-4) == [0, 1, -1]
  assert regions([True, True, True, False], 3, shares[1] + 1e-4) == [0, -1, -1]
  assert regions([False] * 4, 2, 0.0) == [-1, -1]
  assert projectors.trust_regions(basis, spans, 0 * g, jnp.ones(4, bool), 2, 0.0).tolist() == [-1, -1]


def test_weights_are_scaled_inside_each_span():
  """``W + sum_k (S_k Q_k S_k^T W - S_k S_k^T W)`` with ``Q = I + R``; of spans that overlap each adds its own."""
  with jax.enable_x64(True):
    basis = np.linalg.qr(draw(D, 4))[0]
    w, r = draw(D, C, seed=1), draw(2, 4, 4, seed=2)
    spans = np.array([[1, 1, 0, 0], [0, 1, 0, 1]], bool)
    want = w.copy()
    for mask, scale in zip(spans, r, strict=True):
      s, q = basis[:, mask], np.eye(2) + scale[np.ix_(mask, mask)]
      want += s @ q @ s.T @ w - s @ s.T @ w
    np.testing.assert_allclose(projectors.rescaled(w, basis, spans, r), want, atol=1e-12)
    np.testing.assert_array_equal(projectors.rescaled(w, basis, spans, 0 * r), w)
    np.testing.assert_array_equal(projectors.rescaled(w, basis, spans & False, r), w)


# The method


@pytest.fixture(scope="module")
def told(make_blobs):
  return streams.build(make_blobs(rows=ROWS), "task", tasks=2, validation=0.0)


def seen_gradient(theta, name, w, x, y, own):
  """The loss's slope in each leaf, the kernel ``name`` being ``w``, under the task's own softmax."""
  seen = {**theta, name: w}
  z = np.where(own, forward(nested(seen), x)[1], -np.inf)
  d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
  d[np.arange(len(y)), y] -= 1
  return backward(nested(seen), x, d / len(y))


@pytest.mark.parametrize("sufficient", [0.1, 2.0], ids=["a region", "none"])
@pytest.mark.parametrize("on", ["update", "gradient"])
def test_trgp_learns_inside_old_spans_what_it_may_not_change(sufficient, on, told, small_model):
  """The second task's R learns ``S^T D W^T S`` of the slope D of what it sees; W moves off the memory by what is left
  of ``D + S R^T S^T D``; the first task answers as before. Without a region it is GPM."""
  name = "hidden_0/kernel"
  hyper = {"threshold": 0.97, "threshold_step": 0.0, "sufficient": sufficient, "samples": 2 * ROWS, "on": on}
  bench = Bench("trgp", told, small_model, hyper)
  learner = bench.boundary("start_task", bench.start(), 0)
  for k in (0, 1):
    learner = bench.step(learner, *bench.arguments(0, k))[0]
  assert not np.any(learner.params["scales"][name])  # the first task has nobody to trust
  x, _ = rows_of(told, 0)
  memory, span = needed(
    np.zeros((16, 0)), inputs_of({k: v for k, v in learner.params.items() if k != "scales"}, x)[name], 0.97
  )
  learner = bench.boundary("start_task", bench.boundary("end_task", learner, 0), 1)
  x = np.float32((x.reshape(len(x), -1) @ span @ span.T).reshape(x.shape))  # what is held of its inputs
  mine = np.flatnonzero(told.classes_of_task[0])
  answers = lambda learner, t: np.asarray(bench.parts.predict(learner, jnp.asarray(x), jnp.int32(t)))[:, mine]
  old = answers(learner, 0)
  np.testing.assert_array_equal(learner.model_state["regions"][name], [[-1, -1], [0 if sufficient < 1 else -1, -1]])
  basis = np.asarray(learner.model_state["bases"][name], np.float64)
  mask = np.asarray(learner.model_state["spans"][name])[0]
  np.testing.assert_allclose(basis[:, mask] @ basis[:, mask].T, span @ span.T, atol=1e-5)
  np.testing.assert_allclose(answers(learner, 1), old, atol=1e-5)  # R begins at 0
  s, trusts = basis * mask, sufficient < 1
  r = np.zeros((16, 16))
  for k in (0, 1, 2):
    theta = leaves({n: v for n, v in learner.params.items() if n != "scales"})
    w, (x1, y1) = theta[name], batch_of(bench, 1, k)
    slope = seen_gradient(theta, name, w + s @ r @ s.T @ w, x1, y1, told.classes_of_task[1])
    down = slope[name]
    want = {n: 0.0 * v for n, v in slope.items()}  # biases are held
    want |= {n: slope[n] for n in ("head/kernel", "head/bias")}  # its own
    want[name] = off(memory, down + s @ r.T @ (s.T @ down))
    if trusts:
      r = r - RATE * s.T @ down @ (s.T @ w).T
    after = bench.step(learner, *bench.arguments(1, k))[0]
    got = np.asarray(after.params["scales"][name])
    np.testing.assert_allclose(got[1, 0], r, atol=2e-5)
    np.testing.assert_array_equal(got[0], 0)
    np.testing.assert_array_equal(got[1, 1], 0)
    for n, value in leaves({n: v for n, v in after.params.items() if n != "scales"}).items():
      np.testing.assert_allclose(value, theta[n] - RATE * want[n], atol=2e-5, err_msg=n)
    learner = after
  assert (np.abs(r).max() > 1e-3) == trusts
  np.testing.assert_allclose(answers(learner, 0), old, atol=1e-4)
  assert (np.abs(answers(learner, 1) - old).max() > 1e-2) == trusts


def test_what_a_task_trusts_and_its_scales_stay_its_own(told, small_model):
  """Under adamw another task's R stands still; a task that comes back keeps its span and regions, and goes on."""
  name, adamw = "hidden_0/kernel", optax.adamw(5e-3, weight_decay=0.1)
  bench = Bench("trgp", told, small_model, {"sufficient": 0.0, "samples": 2 * ROWS}, optimizer=adamw)
  learner = bench.boundary("end_task", bench.train(3, (0, 1)), 1, (0,))
  first = learner.model_state
  mine = np.asarray(learner.params["scales"][name])
  assert np.abs(mine[1, 0]).max() > 1e-3
  again = bench.boundary("start_task", learner, 0, (0, 1))
  np.testing.assert_array_equal(again.model_state["regions"][name], first["regions"][name])
  again = bench.boundary("end_task", bench.steps(again, 0, 4, met=(0, 1)), 0, (0, 1))
  np.testing.assert_array_equal(again.params["scales"][name][1], mine[1])
  np.testing.assert_array_equal(again.model_state["spans"][name], first["spans"][name])
  assert np.asarray(first["spans"][name]).any(1).all()
  back = bench.boundary("start_task", again, 1, (0, 1))
  np.testing.assert_array_equal(back.model_state["regions"][name], [[-1, -1], [0, -1]])
  more = bench.steps(back, 1, 2, met=(0, 1))
  assert np.abs(np.asarray(more.params["scales"][name][1]) - mine[1]).max() > 1e-4


def test_trgp_s_thresholds_grow_and_its_columns_are_few(told, small_model):
  """Level .2 and then .2 + .8: the second task's span reaches all of its inputs; at most ``max_rank`` columns."""
  hyper = {"threshold": 0.2, "threshold_step": 0.8, "samples": 2 * ROWS, "regions": 1}
  state = Bench("trgp", told, small_model, hyper).train(2).model_state
  spans = np.asarray(state["spans"]["hidden_0/kernel"])
  assert spans[0].sum() == 1
  assert spans[1].sum() > 10
  assert state["regions"]["hidden_0/kernel"].shape == (2, 1)
  few = Bench("trgp", told, small_model, {**hyper, "max_rank": 3}).train(2)
  assert np.asarray(few.model_state["spans"]["hidden_0/kernel"]).shape == (2, 3)
  assert few.params["scales"]["hidden_0/kernel"].shape == (2, 1, 3, 3)


def test_where_trgp_draws_the_line_of_trust(told, small_model):
  """Just below and just above the share of the new task's gradient that lies in the first one's span."""
  name, bench = "hidden_0/kernel", Bench("trgp", told, small_model, {"samples": 2 * ROWS})
  learner = bench.train(2, (0,))
  theta = leaves({n: v for n, v in learner.params.items() if n != "scales"})
  g = seen_gradient(theta, name, theta[name], *rows_of(told, 1), told.classes_of_task[1])[name]
  state = learner.model_state
  s = np.asarray(state["bases"][name], np.float64)[:, np.asarray(state["spans"][name])[0]]
  share = np.linalg.norm(s.T @ g) / np.linalg.norm(g)
  assert 0.02 < share < 0.98
  for factor, want in ((0.97, 0), (1.03, -1)):
    begun = bench.boundary("start_task", learner, 1, (0,), sufficient=factor * share)
    assert begun.model_state["regions"][name][1].tolist() == [want, -1]


def test_trgp_refuses_what_it_cannot_do(told, small_model):
  spec = spec_of(told, 8)
  listed = models.from_apply(lambda key: [jnp.ones((16, 4))], lambda p, x: x.reshape(len(x), -1) @ p[0])
  with pytest.raises(UsageError, match="'trgp' needs a model whose parameters are a dict"):
    methods.make("trgp", listed, spec).model.init(jax.random.key(0))
  blind = Bench("trgp", told, small_model._replace(capture=None))
  with pytest.raises(UsageError, match="has no capture"):
    blind.boundary("end_task", blind.start(), 0)
  with pytest.raises(UsageError, match=r"method\.regions: got 0"):
    methods.make("trgp", small_model, spec, regions=0)
