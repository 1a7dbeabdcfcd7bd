"""Adam-NSCL, the projector and the method, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench
from by_hand import leaves
from projecting_by_hand import ROWS, inputs_of, rows_of

from cljax import methods, models, projectors, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of

D, C = 6, 3


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def null_of(x, threshold, floor=0.0):
  """``[d, k]``: by singular values of the inputs themselves, not of their covariance."""
  _, s, vt = np.linalg.svd(x, full_matrices=True)
  values = np.zeros(x.shape[1])
  values[: len(s)] = s**2
  least = max(values.min(), max(floor, 1e-12) * values.max())
  return vt[values <= threshold * least].T


INPUTS = [draw(8, D, seed=1) * [4, 2, 1, 0.6, 0.2, 0.1], draw(8, D, seed=2) * [0.3, 2, 0.3, 0.2, 0.2, 0.1]]


@pytest.mark.parametrize(
  ("threshold", "floor", "norm"), [(10.0, 0.0, "none"), (2.0, 0.02, "none"), (10.0, 0.0, "frobenius")]
)
def test_nscl_over_two_tasks(threshold, floor, norm):
  """The null space of all inputs so far, by the singular values of both tasks' rows; and the step in it."""
  with jax.enable_x64(True):
    u = {"a": {"kernel": draw(D, C), "bias": draw(C)}, "b": {"kernel": draw(2, 3, C, seed=3)}, "head": draw(C, 2)}
    tx = projectors.nscl(skip=lambda path: path == "head")
    state, seen, ranks = tx.init(u), [], []
    for task, x in enumerate(INPUTS):
      seen.append(x)
      given = {"a/kernel": x.T @ x, "b/kernel": x[:, ::-1].T @ x[:, ::-1], "ignored": x}
      state = projectors.nscl_extend(state, given, threshold, floor, norm)
      rows = np.concatenate(seen)
      v = {"a/kernel": null_of(rows, threshold, floor)}
      v["b/kernel"] = null_of(rows[:, ::-1], threshold, floor)
      for path, basis in v.items():
        k = basis.shape[1]
        ranks.append(k)
        assert int(state.ranks[path]) == k
        want = basis @ basis.T / (np.sqrt(k) if norm == "frobenius" else 1)
        np.testing.assert_allclose(state.projections[path], want, atol=1e-9)
      assert int(state.tasks) == task + 1
    assert 0 < min(ranks) < D
    got, _ = tx.update(u, state)
    scale = {p: np.sqrt(b.shape[1]) if norm == "frobenius" else 1 for p, b in v.items()}
    v = {p: b @ b.T / scale[p] for p, b in v.items()}
    np.testing.assert_allclose(got["a"]["kernel"], v["a/kernel"] @ u["a"]["kernel"], atol=1e-9)
    b = (v["b/kernel"] @ u["b"]["kernel"].reshape(D, C)).reshape(2, 3, C)
    np.testing.assert_allclose(got["b"]["kernel"], b, atol=1e-9)
    np.testing.assert_array_equal(got["a"]["bias"], 0)
    np.testing.assert_array_equal(got["head"], u["head"])


def extended(x, **options):
  state = projectors.nscl().init(jnp.zeros((x.shape[1], C)))
  return projectors.nscl_extend(state, {"": jnp.asarray(x.T @ x, jnp.float32)}, **options)


def test_the_released_norm_ties_the_step_to_the_dimension():
  """Of a null space of 3 dimensions the largest stretch is .577 = 1 / sqrt(3), where a projection's is 1."""
  x = np.diag([5.0, 4.0, 0.0, 0.0, 0.0])
  for norm, want in (("none", 1.0), ("frobenius", 0.577)):
    state = extended(x, norm=norm)
    assert int(state.ranks[""]) == 3
    assert np.linalg.norm(state.projections[""], 2) == pytest.approx(want, abs=1e-3)


def test_a_least_eigenvalue_of_rounding_is_no_measure():
  """12 rows of rank 3 in 9 dimensions, in float32: the null space has 6, whatever noise the least eigenvalue is."""
  for seed in range(6):
    x = draw(12, 3, seed=seed) @ draw(3, 9, seed=seed + 50)
    for scale in (1.0, 1e-12, 1e12):
      state = extended(scale * x)
      assert int(state.ranks[""]) == 6
      p = np.asarray(state.projections[""])
      np.testing.assert_allclose(p @ p, p, atol=1e-5)
      assert np.abs(x @ p).max() < 1e-4 * np.abs(x).max()
  x = np.diag([1.0, 0.3, 0.1, 0.03, 1e-3])
  ranks = [int(extended(x, floor=f).ranks[""]) for f in (0.0, 1e-3, 1e-2, 1.0)]
  assert ranks == [1, 3, 4, 5]  # eigenvalues 1, .09, .01, 9e-4, 1e-6, up to ten times the floor


def test_every_row_counts_not_the_mean():
  """Rows whose mean is zero: the released code's mean over the batch would leave the layer free."""
  x = np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, -2.0, 0, 0]])
  p = np.asarray(extended(x).projections[""])
  np.testing.assert_allclose(p, np.diag([0, 0, 1.0, 1.0]), atol=1e-6)
  mean = np.asarray(extended(x.mean(0, keepdims=True)).projections[""])
  np.testing.assert_allclose(mean, np.eye(4), atol=1e-6)


def test_what_nscl_has_not_seen_passes_to_the_bit():
  u = {"kernel": jnp.asarray(draw(D, C), jnp.float32), "bias": jnp.ones(C)}
  tx = projectors.nscl()
  state = tx.init(u)
  odd = {**u, "kernel": u["kernel"].at[0, 0].set(jnp.inf).at[1, 1].set(-0.0)}  # a product with I would spread the one
  for a, b in zip(jax.tree.leaves(odd), jax.tree.leaves(tx.update(odd, state)[0]), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
  nothing = projectors.nscl_extend(state, {"kernel": jnp.zeros((D, D))})
  np.testing.assert_allclose(tx.update(u, nothing)[0]["kernel"], u["kernel"], atol=1e-6)
  np.testing.assert_array_equal(projectors.nscl(freeze_vectors=False).update(u, nothing)[0]["bias"], u["bias"])
  np.testing.assert_array_equal(tx.update(u, nothing)[0]["bias"], 0)


def test_nscl_in_a_chain_and_what_it_refuses():
  chain = optax.chain(optax.adam(0.1), projectors.nscl()).init(jnp.zeros((5, C)))
  x = np.diag([5.0, 3.0, 0.0, 0.0, 0.0])
  later = projectors.nscl_extend(chain, {"": jnp.asarray(x.T @ x, jnp.float32)})
  assert int(later[1].ranks[""]) == 3
  good = {"": jnp.eye(5)}
  for arguments, told in (
    (({},), "covariances: '' is missing"),
    (({"": jnp.eye(4)},), r"covariances: '' is \(4, 4\); expected \[5, 5\]"),
    ((good, 0.5), "threshold: got 0.5"),
    ((good, 10.0, 1.5), "floor: got 1.5"),
    ((good, 10.0, 0.0, "spectral"), "norm: got 'spectral'"),
  ):
    with pytest.raises(UsageError, match=told):
      projectors.nscl_extend(chain, *arguments)
  with pytest.raises(UsageError, match="no NSCLState"):
    projectors.nscl_extend(optax.sgd(0.1).init(jnp.zeros((5, C))), good)
  with pytest.raises(UsageError, match="the updates lack the kernel"):
    projectors.nscl().update({"b": jnp.ones((5, C))}, projectors.nscl().init({"a": jnp.ones((5, C))}))


# The method


@pytest.fixture(scope="module")
def four(make_blobs):
  return streams.build(make_blobs(rows=ROWS), "class", tasks=4, validation=0.0)


def free_step(bench, plain, learner, task):
  """What the optimizer alone makes of a step, from the same moments."""
  start = plain.start()
  inner = start.opt_state._replace(optimizer=learner.opt_state.optimizer)
  free = start._replace(params=learner.params, opt_state=inner, step=learner.step)
  return plain.step(free, *plain.arguments(task, 0))[0], bench.step(learner, *bench.arguments(task, 0))[0]


@pytest.mark.parametrize(
  "hyper", [{"floor": 0.01}, {"floor": 0.003, "norm": "frobenius"}, {"threshold": 30.0, "floor": 0.001, "skip": "head"}]
)
def test_adam_nscl_steps_in_the_null_space_of_all_old_inputs(hyper, four, small_model):
  """Two tasks' inputs, each under the parameters of its end; then what Adam with weight decay makes, through V V^T."""
  adamw = optax.adamw(5e-3, weight_decay=0.1)
  bench, plain = (Bench(n, four, small_model, h, optimizer=adamw) for n, h in (("adam_nscl", hyper), ("finetune", {})))
  learner = bench.start()
  seen = {p: [] for p, v in leaves(learner.params).items() if v.ndim == 2}
  skipped = [p for p in seen if hyper.get("skip") and p.startswith("head")]
  for task in (0, 1):
    for k in (0, 1):
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    inputs = inputs_of(learner.params, rows_of(four, task)[0])
    for p in seen:
      seen[p].append(inputs[p])
    learner = bench.boundary("end_task", learner, task)
  free, after = free_step(bench, plain, learner, 2)
  theta, moved, got = (leaves(l.params) for l in (learner, free, after))
  for p in theta:
    u = moved[p] - theta[p]
    if p in seen and p not in skipped:
      v = null_of(np.concatenate(seen[p]), hyper.get("threshold", 10.0), hyper["floor"])
      assert 0 < v.shape[1] < len(v)
      u = v @ v.T @ u / (np.sqrt(v.shape[1]) if hyper.get("norm") else 1)
    elif not p.startswith("head") or not skipped:
      u = 0 * u
    np.testing.assert_allclose(got[p], theta[p] + u, atol=2e-6, err_msg=p)
  assert any(np.abs(got[p] - theta[p]).max() > 1e-4 for p in seen)


def test_old_inputs_in_adam_nscl_keep_what_layers_made_of_them(four):
  """Exactly so where inputs leave a null space: logits of the first task's rows after ten steps on others."""
  model = models.mlp((4, 4, 1), 4, hidden=(16,))
  bench = Bench("adam_nscl", four, model, {"threshold": 1.0}, optimizer=optax.adamw(5e-3, weight_decay=0.1))
  learner = bench.train(3, (0,))
  x = rows_of(four, 0)[0]
  logits = lambda l: np.asarray(model.apply(l.params, {}, jnp.asarray(x), train=False, key=None)[0].logits)
  before = logits(learner)
  after = bench.steps(learner, 1, 10, met=(0,))
  assert np.abs(np.asarray(after.params["hidden_0"]["kernel"] - learner.params["hidden_0"]["kernel"])).max() > 1e-3
  np.testing.assert_allclose(logits(after), before, atol=2e-4)


def test_adam_nscl_looks_at_all_rows_and_at_absent_ones_not(four, small_model):
  bench = Bench("adam_nscl", four, small_model)
  state = bench.boundary("end_task", bench.start(), 0).opt_state.finalize
  inputs = inputs_of(bench.start().params, rows_of(four, 0)[0])
  for p, x in inputs.items():
    np.testing.assert_allclose(state.covariances[p], x.T @ x, rtol=1e-4, atol=1e-4)


def test_where_adam_nscl_draws_the_line(four, small_model):
  """Just above and just below ``threshold * floor`` times the largest eigenvalue, of which the least is 0."""
  bench = Bench("adam_nscl", four, small_model)
  start = bench.start()
  x = inputs_of(start.params, rows_of(four, 0)[0])["hidden_0/kernel"]
  values = np.sort(np.append(np.linalg.svd(x, compute_uv=False) ** 2, np.zeros(16 - len(x))))
  middle = values[12]
  floor = middle / values[-1] / 10
  for share, want in ((0.85, 12), (1.15, 13)):
    assert (values <= share * middle).sum() == want
    for given in ({"floor": share * floor}, {"floor": floor, "threshold": 10 * share}):
      state = bench.boundary("end_task", start, 0, **given).opt_state.finalize
      assert int(state.ranks["hidden_0/kernel"]) == want


def test_adam_nscl_refuses_what_it_cannot_do(four, small_model):
  spec = spec_of(four, 8)
  blind = Bench("adam_nscl", four, models.mlp((4, 4, 1), 4)._replace(capture=None))
  with pytest.raises(UsageError, match="has no capture"):
    blind.boundary("end_task", blind.start(), 0)
  with pytest.raises(UsageError, match="nscl: no kernel to project"):
    methods.make("adam_nscl", small_model, spec, skip="kernel").finalize.init(blind.start().params)
  for options, told in (({"threshold": 0.5}, r"threshold: got 0\.5"), ({"norm": "l2"}, "norm: got 'l2'")):
    with pytest.raises(UsageError, match=told):
      methods.make("adam_nscl", small_model, spec, **options)
