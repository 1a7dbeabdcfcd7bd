"""UPGD against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, gradient, leaves

from cljax import methods, models
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.plasticity import upgd

HYPER = {"decay": 0.8, "noise": 0.0, "weight_decay": 0.05}


def test_upgd_holds_what_the_loss_would_miss(class_stream, small_model):
  """Four steps without noise: the corrected running utility, the gate by the largest of all layers, decay not gated."""
  bench = Bench("upgd", class_stream, small_model, HYPER)
  learner = bench.start()
  p = leaves(learner.params)
  u = {n: np.zeros_like(v) for n, v in p.items()}
  for t in range(1, 5):
    g = gradient(p, *batch_of(bench, 0, t))
    u = {n: 0.8 * u[n] - 0.2 * g[n] * p[n] for n in p}
    hat = {n: v / (1 - 0.8**t) for n, v in u.items()}
    top = max(v.max() for v in hat.values())
    assert top > 0
    gate = {n: 1 - 1 / (1 + np.exp(-v / top)) for n, v in hat.items()}
    assert min(v.min() for v in gate.values()) == pytest.approx(0.2689, abs=1e-4)
    p = {n: (1 - RATE * 0.05) * p[n] - RATE * g[n] * gate[n] for n in p}
    learner = bench.step(learner, *bench.arguments(0, t))[0]
    for n, v in leaves(learner.params).items():
      np.testing.assert_allclose(v, p[n], atol=5e-6, err_msg=n)
    for n, v in leaves(learner.opt_state.transform.mean).items():
      np.testing.assert_allclose(v, u[n], atol=1e-6, err_msg=n)
  assert int(learner.opt_state.transform.steps) == 4


@pytest.mark.parametrize("protect", [True, False])
def test_noise_moves_most_what_is_used_least(protect, class_stream):
  """Beside the step without noise: normal numbers times noise and gate; the gradient is gated where it protects."""
  model = models.mlp((4, 4, 1), 4, hidden=(300,))
  hyper = {"decay": 0.8, "noise": 0.5, "weight_decay": 0.0, "protect": protect}
  bench = Bench("upgd", class_stream, model, hyper)
  start = bench.start()
  p, g = leaves(start.params), gradient(start.params, *batch_of(bench, 0, 0))
  u = {n: -g[n] * p[n] for n in p}
  top = max(v.max() for v in u.values())
  gate = {n: 1 / (1 + np.exp(v / top)) for n, v in u.items()}
  after, still = (bench.step(start, *bench.arguments(0), noise=s)[0].params for s in (0.5, 0.0))
  for n, v in leaves(still).items():
    np.testing.assert_allclose(v, p[n] - RATE * g[n] * (gate[n] if protect else 1), atol=5e-6, err_msg=n)
  drawn = {n: (leaves(still)[n] - v) / (RATE * 0.5 * gate[n]) for n, v in leaves(after).items()}
  both = np.concatenate([drawn["hidden_0/kernel"].ravel(), drawn["head/kernel"].ravel()])
  np.testing.assert_allclose([both.mean(), both.std()], [0, 1], atol=0.05)
  assert abs(np.corrcoef(drawn["hidden_0/bias"], drawn["hidden_0/kernel"][0])[0, 1]) < 0.3
  later = bench.step(start._replace(step=start.step + 1), *bench.arguments(0))[0].params
  assert np.abs(leaves(later)["hidden_0/kernel"] - leaves(after)["hidden_0/kernel"]).max() > 0.01


def test_layers_of_one_shape_are_perturbed_apart(class_stream):
  """Sixteen inputs and two layers of sixteen units: kernels of one shape draw noise of their own."""
  model = models.mlp((4, 4, 1), 4, hidden=(16, 16))
  bench = Bench("upgd", class_stream, model, {"protect": False, "noise": 1.0})
  start = bench.start()
  after, still = (leaves(bench.step(start, *bench.arguments(0), noise=s)[0].params) for s in (1.0, 0.0))
  one, two = ((after[n] - still[n]).ravel() for n in ("hidden_0/kernel", "hidden_1/kernel"))
  assert abs(np.corrcoef(one, two)[0, 1]) < 0.3


def test_the_gate_of_one_weight_and_of_harm():
  """1 - sigmoid(1) = 0.269 of the most useful weight; where all do harm the most harmful one is the least protected."""
  of = lambda *v: np.asarray(upgd.gates({"a": jnp.float32(v[:1]), "b": jnp.float32(v[1:])})["b"])
  alone = upgd.gates({"a": jnp.float32([3.0])})["a"]
  np.testing.assert_allclose(alone, 0.26894, rtol=1e-4)
  np.testing.assert_allclose(of(4.0, 2.0, 0.0, -4.0), 1 / (1 + np.exp([0.5, 0, -1])), rtol=1e-5)
  harm = of(-0.1, -1.0, -4.0)
  np.testing.assert_allclose(harm, 1 / (1 + np.exp([-0.25, -1])), rtol=1e-5)
  assert harm[1] > harm[0] > 0.5
  np.testing.assert_array_equal(of(0.0, 0.0, 0.0), 0.5)


def test_without_gate_noise_and_decay_upgd_is_the_plain_step(class_stream, small_model):
  mine = Bench("upgd", class_stream, small_model, {"protect": False, "noise": 0.0, "weight_decay": 0.0})
  assert_same(mine.train(3).params, Bench("finetune", class_stream, small_model).train(3).params)


def test_upgd_corrects_its_first_utilities(class_stream, small_model):
  """After one step the corrected mean is the utility itself: any decay, the same step."""
  starts = [Bench("upgd", class_stream, small_model, {**HYPER, "decay": d}) for d in (0.0, 0.5, 0.999)]
  first, *others = (b.step(b.start(), *b.arguments(0))[0].params for b in starts)
  for other in others:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first, other)


def test_upgd_refuses_a_mean_that_never_moves(class_stream, small_model):
  with pytest.raises(UsageError, match=r"decay: got 1\.0; expected a number below 1"):
    methods.make("upgd", small_model, spec_of(class_stream, 8), decay=1.0)
