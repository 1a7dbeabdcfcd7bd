"""InfLoRA against NumPy in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of
from pairs_by_hand import NAME, forward, numbers, slopes

from cljax import models
from cljax.core import tree
from cljax.core.types import UsageError, rows_from_arrays
from cljax.engine import recipe
from cljax.methods.adapters import inflora

RANK = 3
HYPER = {"rank": RANK, "threshold": 0.8, "last_threshold": 1.0}
PAIR = (f"{NAME}/lora_a", f"{NAME}/lora_b")


def inputs(bench, task):
  split = bench.stream.dataset.train
  return split.x[np.asarray(bench.stream.train[task])].reshape(-1, 16).astype(np.float64)


def span(learner):
  state = learner.method_state
  return np.asarray(state.bases[NAME], np.float64)[:, : int(state.ranks[NAME])]


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """At the start of a first task, at its end, at the start of a second and a step on, and at its end."""
  bench = Bench("inflora", class_stream, small_model, HYPER)
  begun = bench.boundary("start_task", bench.start(), 0)
  ended = bench.boundary("end_task", bench.steps(begun, 0, 3), 0)
  second = bench.boundary("start_task", ended, 1)
  one = bench.step(second, *bench.arguments(1, 0))[0]
  two = bench.step(one, *bench.arguments(1, 1))[0]
  return bench, begun, ended, second, one, two, bench.boundary("end_task", two, 1)


def fewest(energies, share, total):
  return int(np.argmax(np.cumsum(energies) >= share * total) + 1)


def test_the_span_is_the_fewest_directions_of_inputs_by_hand(trained):
  """Singular values of the inputs themselves, squared once: .8 of the first task's energy, .9 of the second's, of
  which what the first one's span holds is there already."""
  bench, _, ended, *_, last = trained
  x = inputs(bench, 0)
  _, s, vt = np.linalg.svd(x, full_matrices=False)
  count = fewest(s**2, 0.8, (s**2).sum())
  assert 1 < count < 16
  m = span(ended)
  assert m.shape == (16, count)
  np.testing.assert_allclose(m @ m.T, vt[:count].T @ vt[:count], atol=1e-4)
  x = inputs(bench, 1)
  rest = x - x @ m @ m.T
  _, s, vt = np.linalg.svd(rest, full_matrices=False)
  there = (x**2).sum() - (rest**2).sum()
  more = fewest(np.r_[there + s[0] ** 2, s[1:] ** 2], 0.9, (x**2).sum())
  assert 0 < more < fewest(np.r_[there + s[0] ** 2, s[1:] ** 2], 0.999, (x**2).sum())
  new = span(last)
  assert new.shape == (16, count + more)
  np.testing.assert_allclose(new.T @ new, np.eye(count + more), atol=1e-5)
  np.testing.assert_allclose(new @ new.T, m @ m.T + vt[:more].T @ vt[:more], atol=1e-4)


def test_rows_of_a_pair_are_principal_and_off_the_span(trained):
  """By the singular vectors of the inputs less their part in the span, over sqrt(3); B zero."""
  bench, begun, ended, second, *_ = trained
  for learner, task, m in ((begun, 0, np.zeros((16, 0))), (second, 1, span(ended))):
    a, b = (np.asarray(tree.leaf(learner.params, n), np.float64)[task] for n in PAIR)
    x = inputs(bench, task)
    _, _, vt = np.linalg.svd(x - x @ m @ m.T, full_matrices=False)
    np.testing.assert_allclose(a @ a.T, vt[:RANK].T @ vt[:RANK] / 3, atol=1e-4)
    np.testing.assert_allclose(a.T @ a, np.eye(RANK) / 3, atol=1e-5)
    assert np.abs(m.T @ a).max(initial=0) < 1e-5
    assert not b.any()
  x = jnp.asarray(bench.stream.dataset.test.x)
  predict = lambda l: np.asarray(bench.parts.predict(l, x, jnp.int32(0)))
  np.testing.assert_array_equal(predict(second), predict(ended))


def test_inflora_s_step_by_hand(trained):
  """``B -= rate A^T G``; A stands, and so does the old pair."""
  bench, *_, one, two, _ = trained
  base, p = numbers(one)
  x, y = batch_of(bench, 1, 1)
  g, new = slopes(base, p, x, y), numbers(two)[1]
  a, b = PAIR
  np.testing.assert_array_equal(new[a], p[a])
  np.testing.assert_array_equal(new[b][0], p[b][0])
  np.testing.assert_allclose((new[b][1] - p[b][1]) / -RATE, p[a][1].T @ g["kernel"], rtol=2e-3, atol=2e-5)
  np.testing.assert_allclose((new["head/kernel"] - p["head/kernel"]) / -RATE, g["head/kernel"], rtol=2e-3, atol=2e-5)
  assert np.abs(new[b][1] - p[b][1]).max() > 1e-4


def test_what_lies_in_the_span_keeps_its_hidden_values(class_stream, small_model):
  """Under Adam with weight decay; what does not, moves. The base and A stand to the bit."""
  optimizer = recipe.make_optimizer("adamw", learning_rate=0.05, weight_decay=0.3)
  bench = Bench("inflora", class_stream, small_model, HYPER, optimizer=optimizer)
  first = bench.train(tasks=(0,))
  both, back = bench.train(tasks=(0, 1)), bench.train(tasks=(0, 1, 0))
  m, x = span(first), inputs(bench, 0)
  (base, p), (frozen, q) = numbers(first), numbers(both)
  for name, leaf in base.items():
    np.testing.assert_array_equal(frozen[name], leaf)
  inside = x @ m @ m.T
  np.testing.assert_allclose(forward(frozen, q, inside)[0], forward(base, p, inside)[0], atol=1e-4)
  assert np.abs(forward(frozen, q, x)[0] - forward(base, p, x)[0]).max() > 1e-3
  again = numbers(back)[1]
  np.testing.assert_array_equal(again[PAIR[0]], q[PAIR[0]])
  np.testing.assert_array_equal(again[PAIR[1]][1], q[PAIR[1]][1])
  assert np.abs(again[PAIR[1]][0] - q[PAIR[1]][0]).max() > 1e-3


def test_the_released_code_squares_twice_and_is_one_short(class_stream, small_model):
  """Of fourth powers of singular values a share takes fewer directions, less one in the first task."""
  bench = Bench(
    "inflora", class_stream, small_model, {**HYPER, "threshold": 0.9995, "last_threshold": 0.9, "energy": "released"}
  )
  begun = bench.boundary("start_task", bench.start(), 0)
  ended = bench.boundary("end_task", begun, 0)
  _, s, vt = np.linalg.svd(inputs(bench, 0), full_matrices=False)
  count = fewest(s**4, 0.9995, (s**4).sum())
  assert 2 < count < fewest(s**2, 0.9995, (s**2).sum())
  m = span(ended)
  assert m.shape == (16, count - 1)
  np.testing.assert_allclose(m @ m.T, vt[: count - 1].T @ vt[: count - 1], atol=1e-3)
  second = bench.boundary("start_task", ended, 1)
  x = inputs(bench, 1)
  u, _, _ = np.linalg.svd(x.T @ x - m @ m.T @ x.T @ x)  # left vectors of the projected second moments
  a = np.asarray(tree.leaf(second.params, PAIR[0]), np.float64)[1]
  np.testing.assert_allclose(a @ a.T, u[:, :RANK] @ u[:, :RANK].T / 3, atol=1e-3)
  later = bench.boundary("end_task", second, 1)
  rest = np.linalg.svd(x.T @ x - m @ m.T @ x.T @ x, compute_uv=False) ** 2
  whole = (np.linalg.svd(x, compute_uv=False) ** 4).sum()
  need = fewest(np.r_[whole - rest.sum() + rest[0], rest[1:]], 0.9995 + (0.9 - 0.9995) / 2, whole)
  assert span(later).shape == (16, count - 1 + need)


def test_directions_run_out():
  """Where fewer are left than the rank, the pair's other rows are zero; a full span takes none."""
  rng = np.random.default_rng(0)
  q, _ = np.linalg.qr(rng.normal(size=(5, 5)))
  basis = jnp.asarray(np.c_[q[:, :4], np.zeros((5, 1))], jnp.float32)
  x = rng.normal(size=(30, 5))
  moment = jnp.asarray(x.T @ x / (x**2).sum(), jnp.float32)
  a = np.asarray(inflora.rows_of_pair(basis, moment, 3))
  np.testing.assert_allclose(np.abs(a[:, 0]), np.abs(q[:, 4]) / np.sqrt(3), atol=1e-5)
  assert not a[:, 1:].any()
  assert inflora.rows_of_pair(basis, moment, 7).shape == (5, 7)
  full = jnp.asarray(q, jnp.float32)
  assert not np.asarray(inflora.rows_of_pair(full, moment, 3)).any()
  assert int(inflora.extended(full, jnp.int32(5), moment, 1.0, False)[1]) == 5
  grown, rank = inflora.extended(basis, jnp.int32(4), moment, 1.0, False)
  assert int(rank) == 5
  np.testing.assert_allclose(np.abs(np.asarray(grown[:, 4])), np.abs(q[:, 4]), atol=1e-5)
  assert int(inflora.extended(basis, jnp.int32(4), jnp.zeros((5, 5)), 1.0, False)[1]) == 4


def test_moments_are_of_all_rows_that_are_there(class_stream, small_model):
  bench = Bench("inflora", class_stream, small_model, HYPER)
  network = inflora.stacked(small_model, bench.spec, RANK, "", "head")
  rng = np.random.default_rng(0)
  x = rng.normal(size=(70, 4, 4, 1)).astype(np.float32)
  rows = rows_from_arrays(x, np.zeros(70, np.int32), weight=np.r_[np.ones(66), np.zeros(4)])
  found = inflora.second_moments(network, bench.spec, bench.start(), rows, [NAME])[NAME]
  flat = x[:66].reshape(66, -1).astype(np.float64)
  np.testing.assert_allclose(found, flat.T @ flat / (flat**2).sum(), rtol=1e-4, atol=1e-6)


def test_convolutions_and_wrong_patterns(class_stream, small_model):
  bench = Bench("inflora", class_stream, models.cnn((4, 4, 1), 4, widths=(3,)), HYPER)
  learner = bench.train(steps=1)
  assert learner.method_state.bases["conv_0/kernel"].shape == (9, 9)
  assert np.abs(np.asarray(tree.leaf(learner.params, "conv_0/kernel/lora_b"))).max() > 0
  with pytest.raises(UsageError, match=r"method.layers: 'conv' finds no frozen leaf"):
    Bench("inflora", class_stream, small_model, {"layers": "conv"})
