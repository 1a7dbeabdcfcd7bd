"""HiDe-Prompt against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from bench import assert_same
from gaussians_by_hand import by_sgd
from prompts_by_hand import SIZES, batch_of, cross_entropy, f64, logits, made, moved, network, query, slopes_agree
from vit_by_hand import zoo

from cljax import methods, models
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.prompts import hide_prompt

HYPER = {
  "length": 2, "blocks": 1, "strength": 0.3, "merge": 0.25, "head_rate": 0.5, "learning_rate": 0.05, "passes": 2,
  "samples": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(class_stream):
  return made("hide_prompt", class_stream, HYPER)


@pytest.fixture(scope="module")
def trained(bench):
  """Before and behind the first end; at the start of the second task, two and three steps into it, and behind it."""
  last = bench.steps(bench.boundary("start_task", bench.start(), 0, ()), 0, 3)
  first = bench.boundary("end_task", last, 0, ())
  begun = bench.boundary("start_task", first, 1, (0,))
  two = bench.steps(begun, 1, 2, met=(0,))
  three = bench.step(two, *bench.arguments(1, 2))[0]
  return last, first, begun, two, three, bench.boundary("end_task", three, 1, (0,))


def predict(bench, learner, x):
  return np.asarray(jax.jit(lambda l, x: bench.parts.predict(l, x, jnp.int32(0)))(learner, jnp.asarray(x)))


def prefixes(chosen):
  """Of keys and values ``[B, 1, L, D]``."""
  return {"prefixes": {0: tuple(f64(chosen[n])[:, 0] for n in ("keys", "values"))}}


def of_place(params, slot, count):
  return prefixes({n: np.stack([f64(a[slot])] * count) for n, a in params["prompts"].items()})


def features(learner, x, slot):
  return zoo(learner.model_state["frozen"], x, **SIZES, **of_place(learner.params, slot, len(x)))[1]


def test_hide_prompt_s_step_by_hand(bench, trained):
  """Both terms, of the blend with old prefixes, which take no slope; the classifier at its share of the rate."""
  *_, two, three, _ = trained
  x, y = batch_of(bench, 1, 2)
  state = two.model_state
  known = two.method_state.shown
  means = f64(known.means[np.asarray(known.counts) > 0])
  assert len(means) == 2

  def loss(p):
    blend = {n: 0.75 * f64(a[1]) + 0.25 * f64(two.params["prompts"][n][0]) for n, a in p["prompts"].items()}
    given = prefixes({n: np.stack([e] * len(x)) for n, e in blend.items()})
    m = np.concatenate([means, zoo(state["frozen"], x, **SIZES, **given)[1]])
    near = m @ m.T / 0.8
    apart = np.mean([scipy.special.logsumexp(row) - row[i] for i, row in enumerate(near)])
    z = logits(p, state, x, **given)
    return cross_entropy(z, y, np.array([False, False, True, True])).mean() + 0.3 * apart

  got = moved(three.params, two.params)
  got["linear"] = {n: a / 0.5 for n, a in got["linear"].items()}
  slopes_agree(got, loss, two.params, rtol=1e-2)
  for name, leaf in three.params["prompts"].items():
    np.testing.assert_array_equal(leaf[0], two.params["prompts"][name][0])
  np.testing.assert_array_equal(three.params["linear"]["kernel"][:, :2], two.params["linear"]["kernel"][:, :2])


def test_prefixes_begin_as_the_last_task_s(bench, trained):
  """Once; the first task's are of U(-1, 1)."""
  _, first, begun, two, *_ = trained
  for name, leaf in begun.params["prompts"].items():
    np.testing.assert_array_equal(leaf[1], first.params["prompts"][name][0])
    np.testing.assert_array_equal(leaf[0], first.params["prompts"][name][0])
    assert np.abs(np.asarray(two.params["prompts"][name][1] - leaf[1])).max() > 1e-5
  start = bench.boundary("start_task", bench.start(), 1, ())
  assert_same(start.params, bench.start().params)
  for leaf in start.params["prompts"].values():
    assert 0.8 < np.abs(np.asarray(leaf)).max() <= 1


def test_a_blend_is_of_all_old_prefixes():
  a = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
  for slot in range(4):
    want = 0.75 * a[slot] + 0.25 * a[:slot].mean(0) if slot else a[0]
    np.testing.assert_allclose(hide_prompt.blended({"a": jnp.asarray(a)}, jnp.int32(slot), 0.25)["a"], want, rtol=1e-6)
  slope = jax.grad(lambda a: hide_prompt.blended({"a": a}, jnp.int32(2), 0.25)["a"].sum())(jnp.asarray(a))
  np.testing.assert_allclose(slope, [[0, 0], [0, 0], [0.75, 0.75], [0, 0]])


def test_hide_prompt_measures_and_aligns_when_a_task_ends(bench, trained):
  """The blend stands; Gaussians with and without prefixes; both classifiers on draws, W not at the first end."""
  last, first, _, _, three, ended = trained
  for name, leaf in ended.params["prompts"].items():
    old = three.params["prompts"][name]
    np.testing.assert_allclose(leaf[1], 0.75 * f64(old[1]) + 0.25 * f64(old[0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(leaf[0], old[0])
  assert_same(first.params, last.params)
  split, state = bench.stream.dataset.train, ended.method_state
  assert state.own.tolist() == [0, 0, 1, 1]
  for c, slot, learner in ((0, 0, first), (3, 1, ended)):
    rows = bench.stream.train[slot]
    x = split.x[rows[split.y[rows] == c]]
    for known, f in ((state.shown, features(learner, x, slot)), (state.bare, query(learner.model_state, x))):
      np.testing.assert_allclose(known.means[c], f.mean(0), rtol=1e-2, atol=2e-3)
      root = f64(known.roots[c])
      np.testing.assert_allclose(root @ root.T, np.cov(f.T) + 1e-4 * np.eye(f.shape[1]), rtol=5e-2, atol=5e-3)
  how = {"rate": 0.05, "passes": 2, "samples": 6}
  for before, after in ((last, first), (three, ended)):
    key = tree.fold(jax.random.fold_in(before.key, before.step), "end_task")
    found = after.method_state
    want = by_sgd(tree.fold(key, "finder"), before.method_state.finder, found.bare, **how)
    for name, value in want.items():
      np.testing.assert_allclose(found.finder[name], value, rtol=1e-3, atol=1e-4)
  want = by_sgd(tree.fold(key, "align"), three.params["linear"], state.shown, **how)
  for name, value in want.items():
    np.testing.assert_allclose(ended.params["linear"][name], value, rtol=1e-3, atol=1e-4)


def by_rows(learner, x, there):
  state = learner.method_state
  near = query(learner.model_state, x) @ f64(state.finder["kernel"]) + f64(state.finder["bias"])
  slot = np.array([0, 0, 1, 1])[np.where(there, near, -np.inf).argmax(-1)]
  given = prefixes({n: f64(a)[slot] for n, a in learner.params["prompts"].items()})
  return np.where(there, logits(learner.params, learner.model_state, x, **given), -np.inf), slot


def test_hide_prompt_answers_by_the_prefixes_that_a_row_finds(bench, trained):
  """Keys, values and rows each where they belong: no reshape mixes them."""
  _, first, *_, ended = trained
  x = bench.stream.dataset.test.x
  want, slot = by_rows(ended, x, np.ones(4, bool))
  assert 0 < slot.mean() < 1
  np.testing.assert_allclose(predict(bench, ended, x), want, rtol=2e-3, atol=2e-3)
  want, _ = by_rows(first, x, np.array([True, True, False, False]))
  np.testing.assert_allclose(predict(bench, first, x), want, rtol=2e-3, atol=2e-3)


def test_before_the_first_end_the_task_s_own_prefixes_answer(bench, trained):
  last = trained[0]
  x = bench.stream.dataset.test.x[:9]
  want = logits(last.params, last.model_state, x, **of_place(last.params, 0, 9))
  np.testing.assert_allclose(predict(bench, last, x), want, rtol=2e-3, atol=2e-3)


def test_old_prefixes_and_the_network_stand_to_the_bit(class_stream):
  """Under Adam with weight decay; a task that comes back changes nothing."""
  bench = made("hide_prompt", class_stream, HYPER, optax.adamw(0.05, weight_decay=0.5))
  one, two, back = (bench.train(tasks=t) for t in ((0,), (0, 1), (0, 1, 0)))
  assert_same(two.model_state["frozen"], bench.start().model_state["frozen"])
  for name, leaf in two.params["prompts"].items():
    np.testing.assert_array_equal(leaf[0], one.params["prompts"][name][0])
    assert np.abs(np.asarray(leaf[1] - leaf[0])).max() > 1e-2
  assert_same(back.params, two.params)
  assert_same(back.method_state, two.method_state)


def test_classes_that_go_whole_leave_hide_prompt(bench, trained):
  ended = trained[-1]
  left = bench.parts.scrub(ended, jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 1)
  assert left.method_state.own.tolist() == [0, -1, 1, 1]
  for known in (left.method_state.shown, left.method_state.bare):
    assert not any(np.asarray(leaf)[1].any() for leaf in known)
  x = bench.stream.dataset.test.x[:9]
  want, _ = by_rows(left, x, np.array([True, False, True, True]))
  np.testing.assert_allclose(predict(bench, left, x), want, rtol=2e-3, atol=2e-3)


def test_blocks_and_samples_of_hide_prompt(class_stream, small_model):
  """As many blocks as there are; five batches of draws by default; a model that takes no prompts is told."""
  bench = made("hide_prompt", class_stream, {**HYPER, "blocks": 9})
  assert bench.start().params["prompts"]["keys"].shape == (2, 2, 2, 8)
  short = {**HYPER, "passes": 1}
  one, two = (made("hide_prompt", class_stream, {**short, "samples": n}).train(1) for n in (0, 40))
  assert_same(one.params, two.params)
  with pytest.raises(UsageError, match=r"model: takes no prompts, which 'hide_prompt' needs"):
    methods.make("hide_prompt", small_model, spec_of(class_stream, 8))
  assert network().prompts == models.prompts.Places(8, 2)
