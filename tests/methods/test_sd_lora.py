"""SD-LoRA against NumPy in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of
from pairs_by_hand import NAME, numbers, slopes

from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine import recipe
from cljax.methods.adapters import sd_lora

RANK = 3
HYPER = {"rank": RANK, "begin": 0.6}
A, B, S = (f"{NAME}/lora_{part}" for part in ("a", "b", "scale"))


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """Before a first task's end and behind it, at the start of a second, and one and two steps on."""
  bench = Bench("sd_lora", class_stream, small_model, HYPER)
  last = bench.steps(bench.boundary("start_task", bench.start(), 0), 0, 3)
  ended = bench.boundary("end_task", last, 0)
  begun = bench.boundary("start_task", ended, 1)
  one = bench.step(begun, *bench.arguments(1, 0))[0]
  return bench, last, ended, begun, one, bench.step(one, *bench.arguments(1, 1))[0]


def logits(bench, learner):
  return np.asarray(bench.parts.predict(learner, jnp.asarray(bench.stream.dataset.test.x), jnp.int32(0)))


def answers(base, p, x):
  """``relu(x (W + sum_k s_k A_k B_k) + b) V + c``, old pairs divided by their norms here as well."""
  delta = sum(p[S][k] * p[A][k] @ p[B][k] for k in range(2))
  h = np.maximum(x.reshape(len(x), -1).astype(np.float64) @ (base[NAME] + delta) + base["hidden_0/bias"], 0)
  return h @ p["head/kernel"] + p["head/bias"]


def weighed(p):
  """The same factors with the scales in B, as the plain sum has them."""
  return {**p, B: p[B] * p[S][:, None, None]}


def test_sd_lora_s_step_by_hand(trained):
  """Slopes of the current pair times its scale, and of every scale; old directions stand."""
  bench, *_, one, two = trained
  base, p = numbers(one)
  x, y = batch_of(bench, 1, 1)
  np.testing.assert_allclose(logits(bench, one), answers(base, p, bench.stream.dataset.test.x), rtol=1e-4, atol=1e-5)
  g, new = slopes(base, weighed(p), x, y), numbers(two)[1]
  scale = p[S][1]
  moved = lambda name: (new[name] - p[name]) / -RATE
  np.testing.assert_allclose(moved(A)[1], scale * g["kernel"] @ p[B][1].T, rtol=2e-3, atol=2e-5)
  np.testing.assert_allclose(moved(B)[1], scale * p[A][1].T @ g["kernel"], rtol=2e-3, atol=2e-5)
  np.testing.assert_allclose(
    moved(S), [(g["kernel"] * (p[A][k] @ p[B][k])).sum() for k in range(2)], rtol=2e-3, atol=2e-5
  )
  np.testing.assert_allclose(moved("head/kernel"), g["head/kernel"], rtol=2e-3, atol=2e-5)
  for name in (A, B):
    np.testing.assert_array_equal(new[name][0], p[name][0])
  assert np.abs(moved(S)).min() > 1e-4


def test_the_function_goes_on_at_the_border(trained, class_stream, small_model):
  """Unit directions, and a scale that took their sizes; the released code's jump is an option."""
  bench, last, ended, begun, *_ = trained
  p, q = numbers(last)[1], numbers(ended)[1]
  for name in (A, B):
    np.testing.assert_allclose(np.linalg.norm(q[name][0]), 1, rtol=1e-5)
    np.testing.assert_allclose(q[name][0] * np.linalg.norm(p[name][0]), p[name][0], rtol=1e-4, atol=1e-7)
  size = np.linalg.norm(p[A][0]) * np.linalg.norm(p[B][0])
  np.testing.assert_allclose(q[S][0], p[S][0] * size, rtol=1e-5)
  np.testing.assert_allclose(logits(bench, ended), logits(bench, last), rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(logits(bench, begun), logits(bench, ended))
  jumping = Bench("sd_lora", class_stream, small_model, {**HYPER, "border": "released"})
  there = jumping.boundary("end_task", last, 0)
  r = numbers(there)[1]
  np.testing.assert_allclose(r[S], [0.6, 0], rtol=1e-6)
  for name in (A, B):
    np.testing.assert_allclose(r[name], q[name], rtol=1e-6)
  assert np.abs(logits(bench, there) - logits(bench, last)).max() > 1e-2


def test_a_scaled_pair_begins_without_effect(trained):
  bench, _, _, begun, *_ = trained
  p, start = numbers(begun)[1], numbers(bench.start())[1]
  assert not any(start[n].any() for n in (A, B, S))
  np.testing.assert_allclose(p[S][1], 0.6, rtol=1e-6)
  assert not p[B][1].any()
  assert 0.2 < np.abs(p[A][1]).max() <= 0.25


def test_sizes_of_factors_against_each_other_do_not_count():
  """``c A`` and ``B / c`` part into the same directions and scale; zero factors stay, without NaN."""
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4, 2), (2, 3)))
  one, other = sd_lora.parted(a, b, 0.5), sd_lora.parted(3 * a, b / 3, 0.5)
  for x, y in zip(one, other, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5)
  np.testing.assert_allclose(one[2] * one[0] @ one[1], 0.5 * a @ b, rtol=1e-5, atol=1e-6)
  for left, right in ((a, jnp.zeros((2, 3))), (jnp.zeros((4, 2)), b)):
    same = sd_lora.parted(left, right, 0.5)
    for x, y in zip(same, (left, right, 0.5), strict=True):
      np.testing.assert_array_equal(x, y)


def test_base_and_old_directions_stand_to_the_bit(class_stream, small_model):
  """Under Adam with weight decay; a task that comes back goes on with its pair and its scale."""
  optimizer = recipe.make_optimizer("adamw", learning_rate=0.05, weight_decay=0.3)
  bench = Bench("sd_lora", class_stream, small_model, HYPER, optimizer=optimizer)
  one, two = bench.train(tasks=(0,)), bench.train(tasks=(0, 1))
  again = bench.boundary("start_task", two, 0, met=(0, 1))
  (base, p), (same, q), r = numbers(one), numbers(two), numbers(again)[1]
  for name, leaf in base.items():
    np.testing.assert_array_equal(same[name], leaf)
  for name in (A, B):
    np.testing.assert_array_equal(q[name][0], p[name][0])
  assert abs(q[S][0] - p[S][0]) > 1e-3
  for name, leaf in q.items():
    np.testing.assert_array_equal(r[name], leaf)
  back = numbers(bench.train(tasks=(0, 1, 0)))[1]
  np.testing.assert_array_equal(back[A][1], q[A][1])
  assert np.abs(back[A][0] - q[A][0]).max() > 1e-3


def test_moments_of_old_pairs_fade_while_others_learn(class_stream, small_model):
  """Adam's means of a pair that stands are multiplied by 0.9 a step: no slope of another task is added to them."""
  bench = Bench(
    "sd_lora", class_stream, small_model, HYPER, optimizer=recipe.make_optimizer("adamw", learning_rate=0.05)
  )
  one = bench.train(tasks=(0,))
  two = bench.steps(bench.boundary("start_task", one, 1), 1, 2, met=(0,))
  means = lambda l: {n: np.asarray(v) for n, v in tree.by_path(l.opt_state.optimizer).items() if "mu/" in n}
  before, after = means(one), means(two)
  for name in (A, B):
    (at,) = [n for n in before if n.endswith(name)]
    assert np.abs(before[at][0]).max() > 1e-4
    np.testing.assert_allclose(after[at][0], 0.81 * before[at][0], rtol=1e-5)
    assert np.abs(after[at][1]).max() > 1e-6


def test_what_finds_nothing_is_told_by_sd_lora(class_stream, small_model):
  with pytest.raises(UsageError, match=r"method.layers: 'conv' finds no frozen leaf"):
    Bench("sd_lora", class_stream, small_model, {"layers": "conv"})
  assert tree.paths(Bench("sd_lora", class_stream, small_model, {"trained": ""}).start().params)[0].startswith(
    "head/ke"
  )
