"""O-LoRA against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of
from pairs_by_hand import NAME, forward, numbers, slopes, total

from cljax import models
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine import recipe
from cljax.methods.adapters import o_lora
from cljax.models import tuning

RANK = 3
HYPER = {"strength": 0.7, "norm_strength": 0.2, "rank": RANK}
PAIR = (f"{NAME}/lora_a", f"{NAME}/lora_b")


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """After a first task, at the start of a second, and one and two steps on."""
  bench = Bench("o_lora", class_stream, small_model, HYPER)
  start = bench.start()
  ended = bench.boundary("end_task", bench.steps(bench.boundary("start_task", start, 0), 0, 3), 0)
  begun = bench.boundary("start_task", ended, 1)
  one = bench.step(begun, *bench.arguments(1, 0))[0]
  two, _, loss = bench.step(one, *bench.arguments(1, 1))
  return bench, start, ended, begun, one, two, float(loss)


def test_o_lora_s_step_by_hand(trained):
  """The slope of cross-entropy, of the overlap with the first task's pair, and of both lengths."""
  bench, *_, one, two, loss = trained
  base, p = numbers(one)
  x, y = batch_of(bench, 1, 1)
  a, b = (p[n] for n in PAIR)
  g = slopes(base, p, x, y)
  overlap = a[0].T @ a[1]
  size = np.linalg.norm(a[1]), np.linalg.norm(b[1])
  own_a = g["kernel"] @ b[1].T + 0.7 * a[0] @ np.sign(overlap) + 0.2 * a[1] / size[0]
  own_b = a[1].T @ g["kernel"] + 0.2 * b[1] / size[1]
  new = numbers(two)[1]
  for name, slope in ((PAIR[0], own_a), (PAIR[1], own_b)):
    np.testing.assert_allclose((new[name][1] - p[name][1]) / -RATE, slope, rtol=2e-3, atol=2e-5)
    np.testing.assert_array_equal(new[name][0], p[name][0])
  for name in ("head/kernel", "head/bias"):
    np.testing.assert_allclose((new[name] - p[name]) / -RATE, g[name], rtol=2e-3, atol=2e-5)
  z = forward(base, p, x)[1]
  cross = (np.logaddexp.reduce(z, -1) - z[np.arange(len(y)), y]).mean()
  np.testing.assert_allclose(loss, cross + 0.7 * np.abs(overlap).sum() + 0.2 * sum(size), rtol=1e-5)


def test_a_pair_begins_without_effect_and_within_its_bound(trained):
  """B zero, A uniform within 1 / sqrt(d_in); before the first task there is none at all."""
  bench, start, ended, begun, *_ = trained
  assert not any(np.asarray(tree.leaf(start.params, n)).any() for n in PAIR)
  a, b = (np.asarray(tree.leaf(begun.params, n)) for n in PAIR)
  assert a.shape == (2, 16, RANK)
  assert not b[1].any()
  assert 0.2 < np.abs(a[1]).max() <= 0.25
  assert np.abs(a[1] - a[0]).max() > 0.01
  x = jnp.asarray(bench.stream.dataset.test.x)
  predict = lambda l: np.asarray(bench.parts.predict(l, x, jnp.int32(0)))
  np.testing.assert_array_equal(predict(begun), predict(ended))


def test_old_pairs_and_the_base_stand_to_the_bit(class_stream, small_model):
  """Under Adam with weight decay, over two tasks and a return to the first, whose pair then moves alone."""
  optimizer = recipe.make_optimizer("adamw", learning_rate=0.05, weight_decay=0.3)
  bench = Bench("o_lora", class_stream, small_model, HYPER, optimizer=optimizer)
  first, second, back = bench.train(tasks=(0,)), bench.train(tasks=(0, 1)), bench.train(tasks=(0, 1, 0))
  assert tree.digest(back.model_state["frozen"]) == tree.digest(bench.start().model_state["frozen"])
  for name in PAIR:
    one, two, three = (np.asarray(tree.leaf(l.params, name)) for l in (first, second, back))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(two[1], three[1])
    assert np.abs(two[1]).max() > 1e-3
    assert np.abs(three[0] - two[0]).max() > 1e-3


def test_moments_of_a_pair_begin_when_its_task_does(class_stream, small_model):
  """The slopes that it has while others learn are none of its optimizer's."""
  optimizer = recipe.make_optimizer("adamw", learning_rate=0.05)
  bench = Bench("o_lora", class_stream, small_model, HYPER, optimizer=optimizer)
  learner = bench.steps(bench.boundary("start_task", bench.train(tasks=(0,)), 1), 1, 2, met=(0,))
  stale = {n: v for n, v in tree.by_path(learner.opt_state.optimizer).items() if n.endswith(PAIR[1])}
  assert len(stale) == 2
  before = {n: v for n, v in tree.by_path(bench.train(tasks=(0,)).opt_state.optimizer).items() if n in stale}
  for name, moment in stale.items():
    assert (np.abs(np.asarray(moment)[0]) < np.abs(np.asarray(before[name])[0])).any()
    assert not np.asarray(before[name])[1].any()
    assert np.asarray(moment)[1].any()


def test_without_strengths_o_lora_is_low_rank_tuning_of_the_first_task(class_stream, small_model):
  """The same steps as of a network under :func:`cljax.models.tuning.lora` with the same factors."""
  bench = Bench("o_lora", class_stream, small_model, {"strength": 0.0, "norm_strength": 0.0, "rank": RANK})
  learner = bench.boundary("start_task", bench.start(), 0)
  plain = Bench("finetune", class_stream, tuning.lora(small_model, RANK))
  other = plain.start()
  shared = {**learner.params, "hidden_0": {"kernel": {n[-6:]: tree.leaf(learner.params, n)[0] for n in PAIR}}}
  other = other._replace(params=shared, model_state=learner.model_state)
  mine, its = bench.steps(learner, 0, 3), plain.steps(other, 0, 3)
  np.testing.assert_allclose(tree.leaf(mine.params, PAIR[0])[0], its.params["hidden_0"]["kernel"]["lora_a"], rtol=1e-5)
  np.testing.assert_allclose(mine.params["head"]["kernel"], its.params["head"]["kernel"], rtol=1e-5, atol=1e-7)


def test_overlap_is_zero_of_orthogonal_spaces_and_depends_on_bases():
  """Entry by entry: another basis of the same space has another sum of sizes, but the same sum of squares."""
  rng = np.random.default_rng(0)
  q, _ = np.linalg.qr(rng.normal(size=(6, 6)))
  a = jnp.asarray(np.stack([q[:, :2], q[:, 2:4], rng.normal(size=(6, 2))]), jnp.float32)
  every = jnp.ones(3, bool)
  value = lambda a, task, old, penalty="absolute": float(o_lora.overlap(a, task, jnp.asarray(old), penalty))
  assert value(a, 0, [False, True, False]) < 1e-5
  np.testing.assert_allclose(value(a, 2, [True, True, False]), np.abs(q[:, :4].T @ np.asarray(a[2])).sum(), rtol=1e-5)
  assert value(a, 2, [False, False, False]) == 0
  angle = np.pi / 5
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  turned = a.at[2].set(jnp.asarray(np.asarray(a[2]) @ turn, jnp.float32))
  both = [True, True, False]
  assert abs(value(turned, 2, both) / value(a, 2, both) - 1) > 0.01
  np.testing.assert_allclose(value(turned, 2, both, "square"), value(a, 2, both, "square"), rtol=1e-5)
  squares = np.square(np.asarray(a).transpose(0, 2, 1) @ np.asarray(a[2])).sum()
  np.testing.assert_allclose(value(a, 2, every, "square"), squares, rtol=1e-5)


def test_a_length_of_zero_has_no_slope():
  value, slope = jax.value_and_grad(o_lora.length)(jnp.zeros((2, 3)))
  assert value == 0
  assert not slope.any()
  np.testing.assert_allclose(o_lora.length(jnp.full((2, 3), 2.0)), np.sqrt(24), rtol=1e-6)


def test_squares_act_in_a_step(class_stream, small_model):
  """The other penalty is another step in a second task, and none in the first."""
  ends = {}
  for penalty in ("absolute", "square"):
    bench = Bench("o_lora", class_stream, small_model, {**HYPER, "penalty": penalty})
    first = bench.train(tasks=(0,), steps=2)
    ends[penalty] = first, bench.steps(bench.boundary("start_task", first, 1), 1, 2, met=(0,))
  assert_same(ends["absolute"][0].params, ends["square"][0].params)
  gap = np.abs(
    np.asarray(tree.leaf(ends["absolute"][1].params, PAIR[0]) - tree.leaf(ends["square"][1].params, PAIR[0]))
  )
  assert gap.max() > 1e-3


def test_merged_changes_are_the_sum_of_pairs(trained):
  """Folded into the network itself."""
  bench, *_, two, _ = trained
  network = o_lora.stacked(models.mlp((4, 4, 1), 4, hidden=(8,)), bench.spec, RANK, "", tuning.HEAD)
  params, state = network.plain(two.params, two.model_state)
  base, p = numbers(two)
  np.testing.assert_allclose(params["hidden_0"]["kernel"], base[NAME] + total(p), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(params["hidden_0"]["bias"], base["hidden_0/bias"])
  assert state == {}


def test_pairs_begin_by_how_many_tasks_were_met(class_stream, small_model):
  bench = Bench("o_lora", class_stream, small_model, HYPER)
  a = np.asarray(tree.leaf(bench.boundary("start_task", bench.start(), 0).params, PAIR[0]))
  b = np.asarray(tree.leaf(bench.boundary("start_task", bench.start(), 1, met=()).params, PAIR[0]))
  np.testing.assert_array_equal(a[0], b[1])
  assert not b[0].any()


@pytest.mark.parametrize(
  ("options", "said"),
  [({"layers": "conv"}, "method.layers: 'conv' finds no frozen leaf"), ({"trained": "tail"}, "method.trained: 'tail'")],
)
def test_what_finds_nothing_is_told_by_o_lora(options, said, class_stream, small_model):
  with pytest.raises(UsageError, match=said):
    Bench("o_lora", class_stream, small_model, options)


def test_convolutions_have_pairs_too(class_stream):
  bench = Bench("o_lora", class_stream, models.cnn((4, 4, 1), 4, widths=(3,)), HYPER)
  learner = bench.train(steps=1)
  assert tree.leaf(learner.params, "conv_0/kernel/lora_a").shape == (2, 9, RANK)
  assert np.abs(np.asarray(tree.leaf(learner.params, "conv_0/kernel/lora_b"))).max() > 0
