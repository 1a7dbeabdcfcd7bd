"""FPF against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, backward, batch_of, forward, gradient, leaves, log_softmax, near
from normed import normed

from cljax import methods
from cljax.core import tree
from cljax.core.method import Outlook
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import fpf

# All stored rows are in each step: so nothing is drawn.
HYPER = {"capacity": 48, "replay_batch": 48, "steps": 3, "rate": 0.2, "modules": 1}
MODULE = {"hidden_0/kernel": 0, "hidden_0/bias": 0, "head/kernel": 1, "head/bias": 1}


def stored(learner):
  state = learner.method_state.memory
  return {k: np.asarray(v)[: int(state.count)] for k, v in state.rows.items()}


def sensitivity(params, before):
  """Of the hidden layer and of the head."""
  now, old = leaves(params), leaves(before)
  of = lambda m: np.concatenate([np.abs(now[n] - old[n]).ravel() for n in now if MODULE[n] == m]).mean()
  return np.array([of(0), of(1)])


def moved(params, slope, rate, chosen=(0, 1)):
  return tree.map_named(
    lambda n, a: np.asarray(a, np.float64) - (rate * slope[n] if MODULE[n] in chosen else 0), params
  )


@pytest.fixture(scope="module")
def bench(class_stream, small_model):
  return Bench("fpf", class_stream, small_model, HYPER)


def test_fpf_trains_the_modules_that_moved_most_on_stored_rows(bench):
  """Three steps on all stored rows, of the module of the largest mean movement; the other keeps its bits. The step of
  the stream is plain."""
  start = bench.start()
  learner = start
  for k in range(2):
    slope = gradient(learner.params, *batch_of(bench, 0, k))
    want = {n: p - RATE * slope[n] for n, p in leaves(learner.params).items()}
    learner = bench.step(learner, *bench.arguments(0, k))[0]
    near(learner.params, want)
  moves = sensitivity(learner.params, start.params)
  chosen, other = np.argsort(-moves)
  assert moves[chosen] > 1.2 * moves[other]
  rows, params = stored(learner), learner.params
  assert len(rows["y"]) == 16
  for _ in range(3):
    params = moved(params, gradient(params, rows["x"], rows["y"]), 0.2, (chosen,))
  after = bench.boundary("end_task", learner, 0)
  near(after.params, leaves(params))
  same = {n: np.array_equal(a, leaves(learner.params)[n]) for n, a in leaves(after.params).items()}
  assert same == {n: MODULE[n] == other for n in MODULE}
  assert_same(after.method_state.before, after.params)
  assert_same(after.opt_state, learner.opt_state)
  # The hidden layer where that moved: by the parameters that are kept, not by name.
  kept = tree.map_named(lambda n, a: a + 1.0 if MODULE[n] == other else a, learner.params)
  told = learner._replace(method_state=learner.method_state._replace(before=kept))
  swapped = leaves(bench.boundary("end_task", told, 0).params)
  assert {n: np.array_equal(a, leaves(learner.params)[n]) for n, a in swapped.items()} == {
    n: MODULE[n] == chosen for n in MODULE
  }


def test_sensitivity_is_the_mean_movement_of_a_module(small_model):
  """``sum |theta - before| / n`` of a layer with its bias; large layers do not count for more."""
  params, state = small_model.init(jax.random.key(0))
  layout = fpf.modules_of(params, state)
  assert dict(layout.of) == {n: layout.of[n] for n in MODULE}
  assert layout.sizes[layout.of["head/bias"]] == 8 * 4 + 4
  assert layout.sizes[layout.of["hidden_0/bias"]] == 16 * 8 + 8
  assert layout.norm == -1
  rng = np.random.default_rng(0)
  other = jax.tree.map(lambda a: a + jnp.asarray(rng.normal(size=a.shape), jnp.float32), params)
  got = fpf.sensitivities(layout, params, other)
  want = sensitivity(params, other)
  np.testing.assert_allclose(got[jnp.array([layout.of["hidden_0/bias"], layout.of["head/bias"]])], want, rtol=1e-5)


def test_stored_logits_are_held_where_asked_for(class_stream, small_model):
  """``CE + alpha MSE`` to the logits that a row had when it came, in the finetuning alone."""
  given = {**HYPER, "distillation": True, "alpha": 0.7, "modules": 2, "steps": 2}
  bench = Bench("fpf", class_stream, small_model, given)
  start = bench.start()
  one = bench.step(start, *bench.arguments(0, 0))[0]
  slope = gradient(start.params, *batch_of(bench, 0, 0))
  near(one.params, {n: p - RATE * slope[n] for n, p in leaves(start.params).items()})
  rows, params = stored(one), one.params
  np.testing.assert_allclose(rows["logits"], forward(start.params, rows["x"])[1], rtol=1e-4, atol=1e-5)
  for _ in range(2):
    z = forward(params, rows["x"])[1]
    d = np.exp(log_softmax(z))
    d[np.arange(8), rows["y"]] -= 1
    d = d / 8 + 0.7 * 2 * (z - rows["logits"]) / z.size
    params = moved(params, backward(params, rows["x"], d), 0.2)
  near(bench.boundary("end_task", one, 0).params, leaves(params))


def test_times_are_every_so_many_steps_or_the_ends_of_tasks(class_stream, small_model):
  """k-FPF finetunes behind each second step, ``steps`` batches each, and not where a task ends; movements are measured
  from the last time."""
  bench = Bench("fpf", class_stream, small_model, {**HYPER, "every": 2, "steps": 1})
  learner = start = bench.start()
  for k in range(4):
    before = learner
    learner = bench.step(learner, *bench.arguments(0, k))[0]
    params = moved(before.params, gradient(before.params, *batch_of(bench, 0, k)), RATE)
    if k % 2:
      moves = sensitivity(params, before.method_state.before)
      rows = stored(learner)
      assert len(rows["y"]) == 8 * (k + 1)  # the step's own too
      params = moved(params, gradient(params, rows["x"], rows["y"]), 0.2, (moves.argmax(),))
      assert_same(learner.method_state.before, learner.params)
    else:
      assert_same(learner.method_state.before, before.method_state.before)
    near(learner.params, leaves(params))
  assert_same(bench.boundary("end_task", learner, 0).params, learner.params)
  assert np.abs(np.asarray(learner.params["head"]["bias"] - start.params["head"]["bias"])).max() > 0


def test_running_statistics_follow_stored_rows_where_they_are_chosen(class_stream):
  """All normalising layers are one module; chosen, the network trains and its statistics go to those of the memory;
  else statistics keep their bits and normalise the stored rows."""
  bench = Bench("fpf", class_stream, normed(), {**HYPER, "steps": 60, "rate": 0.0})
  one = bench.steps(bench.start(), 0, 2)
  layout = fpf.modules_of(one.params, one.model_state)
  assert {n for n, m in layout.of.items() if m == layout.norm} == {"norm/scale", "norm/bias"}
  rows = stored(one)

  def finetuned(module, **hyper):
    other = tree.map_named(lambda n, a: a + 9.0 * (n.startswith(module)), one.params)
    told = one._replace(method_state=one.method_state._replace(before=other))
    return bench.boundary("end_task", told, 0, **hyper)

  p = leaves(one.params)
  into = rows["x"].reshape(len(rows["y"]), -1).astype(np.float64) @ p["in/kernel"] + p["in/bias"]
  chosen = leaves(finetuned("norm").model_state)
  np.testing.assert_allclose(chosen["batch_stats/norm/mean"], into.mean(0), rtol=0.01, atol=0.01)
  np.testing.assert_allclose(chosen["batch_stats/norm/var"], into.var(0), rtol=0.02, atol=0.01)
  for module in ("head", "in"):
    assert_same(finetuned(module).model_state, one.model_state)
  # The head's steps, where statistics stand: the hidden values of eval mode.
  s = leaves(one.model_state)
  scale = p["norm/scale"] / np.sqrt(s["batch_stats/norm/var"] + 1e-5)
  h = np.maximum((into - s["batch_stats/norm/mean"]) * scale + p["norm/bias"], 0)
  kernel, bias = p["head/kernel"], p["head/bias"]
  for _ in range(60):
    d = np.exp(log_softmax(h @ kernel + bias))
    d[np.arange(len(d)), rows["y"]] -= 1
    kernel, bias = kernel - 0.1 * h.T @ d / len(d), bias - 0.1 * d.mean(0)
  got = leaves(finetuned("head", rate=0.1).params)
  np.testing.assert_allclose(got["head/kernel"], kernel, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(got["head/bias"], bias, rtol=1e-3, atol=1e-4)
  for name in set(p) - {"head/kernel", "head/bias"}:
    np.testing.assert_array_equal(got[name], p[name])


def test_without_stored_rows_or_steps_fpf_is_plain_training(bench, class_stream, small_model):
  start = bench.start()
  assert_same(bench.boundary("end_task", start, 0).params, start.params)
  one = bench.steps(start, 0, 2)
  assert_near(
    one.params, Bench("finetune", class_stream, small_model).steps(start._replace(method_state=()), 0, 2).params
  )
  assert_same(bench.boundary("end_task", one, 0, rate=0.0).params, one.params)


def test_movements_are_measured_behind_an_edit_as_before_it(bench):
  """What is kept of the parameters moves with an edit of them."""
  one = bench.steps(bench.start(), 0, 2)
  edited = jax.tree.map(lambda a: a + 0.5, one.params)
  new = bench.parts.method.after_forget(one._replace(params=edited), one.params)
  assert_near(new.method_state.before, jax.tree.map(lambda a: a + 0.5, one.method_state.before))


def test_fpf_forgets_rows_and_says_where_it_does_nothing(bench, class_stream, small_model):
  one = bench.steps(bench.start(), 0, 2)
  rows = stored(one)
  gone = jnp.zeros(bench.spec.num_rows, bool).at[rows["id"][::2]].set(True)
  left = jax.jit(bench.parts.scrub)(one, gone, jnp.zeros(4, bool))
  kept = stored(left)
  assert set(kept["id"]) == set(rows["id"][1::2])
  # The finetuning is of these alone.
  chosen = sensitivity(one.params, one.method_state.before).argmax()
  params = one.params
  for _ in range(3):
    params = moved(params, gradient(params, kept["x"], kept["y"]), 0.2, (chosen,))
  near(bench.boundary("end_task", left, 0).params, leaves(params))
  spec = spec_of(class_stream, 8)
  make = lambda **given: methods.make("fpf", small_model, spec, **given)
  with pytest.raises(UsageError, match=r"method\.modules: got 3; the model has 2, expected at most that"):
    make(modules=3)
  said = make(every=50).remarks
  assert said(Outlook(50, (0,))) == []
  assert said(Outlook(49, (0,))) == ["method.every: got 50; the stream has 49 steps, so fpf trains nothing"]
  assert make().remarks(Outlook(1, (0,))) == []
