"""CWR* and AR1 against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, batch_of, gradient, leaves, near
from normed import normed

from cljax import methods, models
from cljax.core.types import UsageError
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods.plasticity import cwr_star

KERNEL = "head/kernel"
BODY = ("hidden_0/kernel", "hidden_0/bias")


def consolidated(c, w, past, now):
  """The paper's loop over classes, of ``[D, C]`` each."""
  own = [j for j in range(len(now)) if now[j]]
  mean = np.mean(np.concatenate([w[:, j] for j in own]))
  out = c.copy()
  for j in own:
    p = np.sqrt(past[j] / now[j])
    out[:, j] = (c[:, j] * p + w[:, j] - mean) / (p + 1) if past[j] else w[:, j] - mean
  return out


def by_hand(bench, tasks, steps, rate=RATE, pull=None, frozen=True, biases="zero"):
  """The run with each step compared; returns the learner, the consolidated weights and the parameters at each end."""
  learner, ends = bench.start(), []
  theta = leaves(learner.params)
  c, past = np.zeros_like(theta[KERNEL]), np.zeros(4)
  for i, task in enumerate(tasks):
    met, own = tasks[:i], np.isin(np.arange(4), [2 * task, 2 * task + 1])
    learner = bench.boundary("start_task", learner, task, met)
    theta[KERNEL] = np.where(own & (past > 0), c, 0.0)
    if biases == "zero":
      theta["head/bias"] = np.zeros(4)
    near(learner.params, theta)
    now = np.zeros(4)
    for k in range(steps):
      there = np.ones(8, np.int32)
      there[6 + k :] = 0
      x, y = (a[: 6 + k] for a in batch_of(bench, task, k))
      g = gradient(learner.params, x, y)
      theta = leaves(learner.params)
      learner = bench.step(learner, *bench.arguments(task, k, there, met))[0]
      moving = {KERNEL, *(() if frozen and met else BODY), *(() if biases == "zero" else ("head/bias",))}
      theta = {n: v - rate * g[n] * (n in moving) for n, v in theta.items()}
      near(learner.params, theta)
      np.add.at(now, y, 1)
    c, past = consolidated(c, theta[KERNEL], past, now), past + now
    learner = bench.boundary("end_task", learner, task, met)
    theta[KERNEL] = c
    near(learner.params, theta)
    ends.append(jax.tree.map(np.asarray, learner.params))
  np.testing.assert_array_equal(learner.method_state.past, past)
  return learner, ends


@pytest.fixture(scope="module")
def run(class_stream, small_model):
  """Tasks 0, 1 and 0 again, of other numbers of rows a class, so that a past and a present are weighed."""
  bench = Bench("cwr_star", class_stream, small_model)
  return bench, *by_hand(bench, (0, 1, 0), 2)


def test_cwr_star_consolidates_by_the_numbers_of_rows(run):
  """Each step and boundary was compared; the first task's own columns sum to 0, the mean being one scalar."""
  _, learner, ends = run
  first = ends[0]["head"]["kernel"]
  assert (first[:, 2:] == 0).all()
  np.testing.assert_allclose(first[:, :2].sum(), 0, atol=1e-6)
  assert np.abs(first[:, :2].sum(1)).max() > 1e-3  # not of each input
  past = np.asarray(learner.method_state.past)
  assert past[0] != past[1]
  assert past.sum() == 3 * (6 + 7)


def test_weights_of_absent_classes_are_restored_to_the_bit(run):
  """The second task's softmax moved those of the first; at its end they are what they were. The network is frozen."""
  _, _, (one, two, three) = run
  np.testing.assert_array_equal(one["head"]["kernel"][:, :2], two["head"]["kernel"][:, :2])
  np.testing.assert_array_equal(two["head"]["kernel"][:, 2:], three["head"]["kernel"][:, 2:])
  assert np.abs(two["head"]["kernel"][:, 2:]).max() > 1e-3
  assert np.abs(three["head"]["kernel"][:, :2] - two["head"]["kernel"][:, :2]).max() > 1e-3
  assert_same(one["hidden_0"], three["hidden_0"])
  assert (three["head"]["bias"] == 0).all()


def test_the_spec_s_example_of_a_merge():
  """past / now = 3, c = 2, w = 4 behind its mean: 2.732. Without a past w itself; without rows c to the bit."""
  before, weights = jnp.array([[2.0, 0.3, 9.0], [2.0, 0.1, 7.0]]), jnp.array([[4.0, -4.0, 5.0], [4.0, -4.0, 5.0]])
  got = cwr_star.merged(before, weights, jnp.array([12.0, 0, 5]), jnp.array([4.0, 4, 0]))
  want = [[2.732051, -4, 9], [2.732051, -4, 7]]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_array_equal(got[:, 2], before[:, 2])
  shifted = cwr_star.merged(before, weights + 3.5, jnp.array([12.0, 0, 5]), jnp.array([4.0, 4, 0]))
  np.testing.assert_allclose(shifted, want, rtol=1e-6)


def test_free_biases_are_neither_set_back_nor_consolidated(class_stream, small_model):
  """They are what training made of them, of absent classes too: as the third-party code has them."""
  bench = Bench("cwr_star", class_stream, small_model, {"biases": "free"})
  learner, ends = by_hand(bench, (0, 1), 1, biases="free")
  assert (ends[1]["head"]["bias"][:2] < ends[0]["head"]["bias"][:2]).all()
  assert np.abs(np.asarray(learner.params["head"]["bias"])).min() > 1e-4


def test_a_frozen_network_stands_still_under_momentum_and_decay(class_stream):
  """Its running statistics too; a free one moves, and its statistics."""
  optimizer = recipe.make_optimizer("momentum", learning_rate=0.1, momentum=0.9, weight_decay=0.1)
  ends = {}
  for extractor in ("frozen", "free"):
    bench = Bench("cwr_star", class_stream, normed(), {"extractor": extractor}, optimizer=optimizer)
    one = bench.train(2, (0,))
    two = bench.boundary("start_task", one, 1, (0,))
    two = bench.steps(two, 1, 2, met=(0,))
    ends[extractor] = one, two
  one, two = ends["frozen"]
  assert_same(one.model_state, two.model_state)
  body = lambda learner: {k: v for k, v in learner.params.items() if k != "head"}
  assert_same(body(one), body(two))
  moved = lambda a, b: np.abs(np.asarray(a - b)).max()
  assert min(map(moved, jax.tree.leaves(one.model_state), jax.tree.leaves(bench.start().model_state))) > 1e-3
  one, two = ends["free"]
  assert moved(one.params["in"]["kernel"], two.params["in"]["kernel"]) > 1e-5
  assert min(map(moved, jax.tree.leaves(one.model_state), jax.tree.leaves(two.model_state))) > 1e-5
  assert one.method_state.model_state == ()


def test_ar1_pulls_the_network_by_its_path_and_never_the_classifier(class_stream, small_model):
  """Omega of the hidden layer is the path over the squared way, its pull 2 strength Omega (theta - theta*)."""
  given = {"extractor": "si", "strength": 20.0, "damping": 0.01}
  bench = Bench("cwr_star", class_stream, small_model, given)
  learner = bench.boundary("start_task", bench.start(), 0)
  began, path = leaves(learner.params), dict.fromkeys(BODY, 0.0)
  for k in range(3):
    g, before = gradient(learner.params, *batch_of(bench, 0, k)), leaves(learner.params)
    learner = bench.step(learner, *bench.arguments(0, k))[0]
    path = {n: w - g[n] * (leaves(learner.params)[n] - before[n]) for n, w in path.items()}
  star = leaves(learner.params)
  learner = bench.boundary("end_task", learner, 0)
  omega = {n: w / ((star[n] - began[n]) ** 2 + 0.01) for n, w in path.items()}
  learner = bench.boundary("start_task", learner, 1)
  for k in range(3):  # in the first step the classifier is 0 and the network stands still
    g, before = gradient(learner.params, *batch_of(bench, 1, k)), leaves(learner.params)
    pull = {n: 2 * 20.0 * omega[n] * (before[n] - star[n]) for n in BODY}
    assert k < 2 or min(np.abs(v).max() for v in pull.values()) > 1e-4
    learner = bench.step(learner, *bench.arguments(1, k))[0]
    want = {n: v - RATE * (g[n] + pull.get(n, 0.0)) for n, v in before.items()}
    near(learner.params, {**want, "head/bias": np.zeros(4)})


def test_the_hybrid_with_si_is_ar1_but_for_the_classifier_s_pull(class_stream, small_model):
  """Composed at strength 0 it is the free network's run; at another the hidden layer is held in the second task."""
  free = Bench("cwr_star", class_stream, small_model, {"extractor": "free"}).train(2)
  ends = []
  for strength in (0.0, 5.0):
    parts = {"cwr_star": ("cwr_star", {"extractor": "free"}), "si": ("si", {"strength": strength, "damping": 1e-3})}
    ends.append(Bench(parts, class_stream, small_model).train(2))
  assert_near(ends[0].params, free.params)
  np.testing.assert_allclose(ends[1].method_state["cwr_star"].past, free.method_state.past)
  moved = np.abs(np.asarray(ends[1].params["hidden_0"]["kernel"] - free.params["hidden_0"]["kernel"])).max()
  assert moved > 1e-4


def test_a_class_that_is_forgotten_whole_begins_at_0_again(run):
  """Its past is erased, so that when it comes back nothing of its old weights is read."""
  bench, learner, _ = run
  gone = jnp.arange(4) == 1
  left = bench.parts.scrub(learner, jnp.zeros(bench.spec.num_rows, bool), gone)
  np.testing.assert_array_equal(left.method_state.past == 0, gone)
  begun = bench.boundary("start_task", left, 0, (0, 1)).params["head"]["kernel"]
  assert (begun[:, 1:] == 0).all()
  np.testing.assert_array_equal(begun[:, 0], learner.params["head"]["kernel"][:, 0])


def test_between_tasks_no_older_weights_are_kept(run, class_stream):
  """Neither the classifier nor running statistics from before the task: an edit would miss both."""
  _, learner, _ = run
  np.testing.assert_array_equal(learner.method_state.weights[KERNEL], learner.params["head"]["kernel"])
  bench = Bench("cwr_star", class_stream, normed())
  ended = bench.train(2, (0,))
  assert_same(ended.model_state, ended.method_state.model_state)
  more = lambda old: jax.tree.map(lambda a: a + 0.5, old)
  edited = ended._replace(params=more(ended.params), model_state=more(ended.model_state))
  state = bench.parts.method.after_forget(edited, ended.params).method_state
  assert_same(edited.model_state, state.model_state)
  assert state.weights.keys() < leaves(edited.params).keys()
  for name, kept in state.weights.items():
    np.testing.assert_array_equal(leaves(edited.params)[name], np.asarray(kept, np.float64))


def test_a_classifier_without_an_axis_of_classes_is_refused(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"'cwr_star' needs a classifier with a kernel \[D, 4\]; found head/bias \(5,\)"):
    methods.make("cwr_star", models.mlp((4, 4, 1), 5, hidden=(8,)), spec)
  with pytest.raises(UsageError, match=r"method.strength: got 0.4, which 'cwr_star' does not read with extractor"):
    methods.make("cwr_star", small_model, spec, strength=0.4)
