"""LAE against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from bench import Bench, assert_same
from by_hand import batch_of
from prompts_by_hand import cross_entropy, moved, slopes_agree
from stacks_by_hand import base_of, f64, features, stands

from cljax.methods.pretrained import lae

HYPER = {"rank": 3, "decay": 0.8, "frozen": 0.0}
UP = "hidden_0/adapter/up"


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """The first task's end; the start of the second; one and two steps on."""
  bench = Bench("lae", class_stream, small_model, HYPER)
  first = bench.train(steps=3, tasks=(0,))
  begun = bench.boundary("start_task", first, 1)
  one = bench.step(begun, *bench.arguments(1, 0))[0]
  return bench, first, begun, one, bench.step(one, *bench.arguments(1, 1))[0]


def predict(bench, learner, x):
  return np.asarray(bench.parts.predict(learner, jnp.asarray(x), jnp.int32(0)))


def logits(learner, params, x):
  head = params["linear"]
  return features(base_of(learner), params, 0, x) @ f64(head["kernel"]) + f64(head["bias"])


def answers(learner, x, seen):
  """By a loop over both parts: softmax over what was seen, the larger of each class."""
  both = []
  for parts in (learner.params["stack"], learner.method_state.parts):
    z = logits(learner, {**learner.params, "stack": parts}, x)
    both.append(scipy.special.softmax(np.where(seen, z, -np.inf), -1))
  with np.errstate(divide="ignore"):
    return np.log(np.maximum(*both))


def test_lae_s_step_by_hand(trained):
  """Over the task's classes alone; other tasks' outputs stand."""
  bench, _, _, one, two = trained
  x, y = batch_of(bench, 1, 1)
  mask = np.array([False, False, True, True])
  loss = lambda p: cross_entropy(logits(one, p, x), y, mask).mean()
  slopes_agree(moved(two.params, one.params), loss, one.params, 5e-3)
  np.testing.assert_array_equal(two.params["linear"]["kernel"][:, :2], one.params["linear"]["kernel"][:, :2])
  assert np.abs(np.asarray(two.params["stack"][UP] - one.params["stack"][UP])).max() > 1e-4


def test_the_mean_is_the_parts_through_the_first_task_and_then_lags(trained):
  """The authors' begins with the second task. A port's begins with the network, so that it has gone a tenth of a
  thousandth of the way at each step of the first task too: there both would differ here."""
  bench, first, begun, one, two = trained
  assert_same(first.method_state.parts, first.params["stack"])
  assert_same(begun.method_state.parts, first.params["stack"])
  assert np.abs(np.asarray(first.params["stack"][UP] - bench.start().params["stack"][UP])).max() > 1e-4
  mean = {n: f64(a) for n, a in first.params["stack"].items()}
  for learner in (one, two):
    mean = {n: 0.8 * m + 0.2 * f64(learner.params["stack"][n]) for n, m in mean.items()}
    for name, value in mean.items():
      np.testing.assert_allclose(learner.method_state.parts[name], value, rtol=1e-5, atol=1e-7)
  assert np.abs(mean[UP] - np.asarray(two.params["stack"][UP])).max() > 1e-5


def test_lae_answers_by_the_larger_of_both(trained):
  """The maximum and not the mean, of softmaxes over all labels that rows have had."""
  bench, first, *_, two = trained
  x = bench.stream.dataset.test.x
  seen = np.array([True, True, False, False])
  np.testing.assert_allclose(predict(bench, first, x)[:, :2], answers(first, x, seen)[:, :2], rtol=1e-3, atol=1e-4)
  assert np.isneginf(predict(bench, first, x)[:, 2:]).all()
  got = predict(bench, two, x)
  np.testing.assert_allclose(got, answers(two, x, np.ones(4, bool)), rtol=1e-3, atol=1e-4)
  assert (np.exp(got).sum(-1) > 1 + 1e-4).any()
  assert np.isfinite(predict(bench, bench.start(), x)).all()


def test_the_larger_is_taken_class_by_class():
  first, second = np.float32([[2, 0, 1], [0, 0, 5]]), np.float32([[0, 3, 9], [1, 0, 5]])
  got = np.asarray(lae.better(jnp.asarray(first), jnp.asarray(second), jnp.asarray([True, True, False])))
  for i, (a, b) in enumerate(zip(first, second, strict=True)):
    p, q = (np.exp(z[:2]) / np.exp(z[:2]).sum() for z in (a, b))
    np.testing.assert_allclose(np.exp(got[i, :2]), np.maximum(p, q), rtol=1e-5)
  assert np.isneginf(got[:, 2]).all()


def test_without_decay_both_answers_are_one(trained, class_stream, small_model):
  bench = trained[0]
  learner = bench.train(decay=0.0)
  assert_same(learner.method_state.parts, learner.params["stack"])
  x = class_stream.dataset.test.x
  want = scipy.special.log_softmax(logits(learner, learner.params, x), -1)
  np.testing.assert_allclose(predict(bench, learner, x), want, rtol=1e-3, atol=1e-4)


def test_the_classifier_learns_alone_at_first(trained, class_stream, small_model):
  """For a share of the planned steps (ten here) of each task but the first; Adam's moments and decay move no part then,
  and no slope of those steps is among the moments behind."""
  adam, hyper = optax.adamw(0.05, weight_decay=0.5), {**HYPER, "frozen": 0.2}
  bench = Bench("lae", class_stream, small_model, hyper, optimizer=adam)
  first = bench.train(steps=3, tasks=(0,))
  assert np.abs(np.asarray(first.params["stack"][UP])).max() > 1e-2
  learner = bench.boundary("start_task", first, 1)
  for k in range(3):
    new = bench.step(learner, *bench.arguments(1, k))[0]
    assert np.abs(np.asarray(new.params["linear"]["kernel"] - learner.params["linear"]["kernel"])).max() > 1e-3
    gap = max(np.abs(np.asarray(a - learner.params["stack"][n])).max() for n, a in new.params["stack"].items())
    assert (gap == 0) == (k < 2), k
    learner = new
  again = bench.boundary("start_task", learner, 0, met=(0, 1))
  held = bench.steps(again, 0, 1, met=(0, 1))
  assert_same(held.params["stack"], learner.params["stack"])
  plain = Bench("lae", class_stream, small_model, hyper, optimizer=optax.sgd(0.1, momentum=0.9))
  warm = plain.steps(plain.boundary("start_task", plain.start(), 1, met=(0,)), 1, 2, met=(0,))
  trace = [a for a in jax.tree.leaves(warm.opt_state.optimizer) if a.shape == warm.params["stack"][UP].shape]
  assert trace
  assert not any(np.asarray(a).any() for a in trace)


def test_a_share_of_steps_is_a_number_of_steps(trained):
  """Three fifths of five epochs are three, although 0.6 is a little more in float32."""
  bench, first, *_ = trained
  where = bench.where(1)._replace(steps=jnp.int32(50))
  rows = jnp.zeros(bench.spec.task_rows, jnp.int32)
  begun = bench.call("start_task", first, jnp.asarray(True), bench.data, where, rows, rows, jnp.int32(3), frozen=0.6)
  for state in (begun.opt_state.transform, begun.opt_state.finalize[0]):
    assert (int(state.step), float(state.until)) == (0, 30.0)


def test_the_network_under_lae_stands_to_the_bit(class_stream, small_model):
  bench = Bench("lae", class_stream, small_model, HYPER, optimizer=optax.adamw(0.05, weight_decay=0.5))
  stands(bench.start(), bench.train(tasks=(0, 1, 0)))


def test_after_a_request_the_parts_take_the_mean_s_place(trained):
  """Until the next step, of whose parts the mean is made anew; a class that goes whole is not answered."""
  bench, *_, two = trained
  gone = jnp.arange(4) == 1
  left = bench.parts.scrub(two, jnp.zeros(bench.spec.num_rows, bool), gone)
  edited = left._replace(params={**left.params, "stack": jax.tree.map(lambda a: a + 0.1, left.params["stack"])})
  x = bench.stream.dataset.test.x
  z = logits(edited, edited.params, x)
  want = scipy.special.log_softmax(np.where([True, False, True, True], z, -np.inf), -1)
  got = predict(bench, edited, x)
  assert np.isneginf(got[:, 1]).all()
  np.testing.assert_allclose(got[:, [0, 2, 3]], want[:, [0, 2, 3]], rtol=1e-3, atol=1e-4)
  new = bench.step(edited, *bench.arguments(1, 2))[0]
  for name, leaf in new.method_state.parts.items():
    np.testing.assert_allclose(leaf, new.params["stack"][name], rtol=1e-6)
  assert not bool(new.method_state.stale)
  later = bench.step(new, *bench.arguments(1, 3))[0]
  want = 0.8 * f64(new.params["stack"][UP]) + 0.2 * f64(later.params["stack"][UP])
  np.testing.assert_allclose(later.method_state.parts[UP], want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["lora", "ssf", "bitfit"])
def test_lae_s_parts_are_of_any_kind(class_stream, small_model, kind):
  """Their mean too; the network stands."""
  bench = Bench("lae", class_stream, small_model, {"tuning": kind, "decay": 0.5, "frozen": 0.0})
  learner = bench.train(steps=2)
  name = {"lora": "hidden_0/kernel/lora_b", "ssf": "hidden_0/kernel/ssf_scale", "bitfit": "hidden_0/bias"}[kind]
  assert set(learner.params["stack"]) == set(learner.method_state.parts)
  assert np.abs(np.asarray(learner.params["stack"][name] - learner.method_state.parts[name])).max() > 1e-5
  stands(bench.start(), learner)
