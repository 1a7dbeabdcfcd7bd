"""CLR: filters behind frozen convolutions, against NumPy in float64."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, leaves
from isolation_by_hand import answers, old_answers_stay

from cljax import models, streams
from cljax.core import tree
from cljax.core.types import Outputs, UsageError
from cljax.methods.adapters import clr

MODEL = models.cnn((4, 4, 1), 6, widths=(3,))


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


def same(x, kernel):
  """A 3x3 convolution with zeros around the border; kernel ``[3, 3, in, out]``."""
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  h, w = x.shape[1:3]
  return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))


def logits(frozen, own, filters, x):
  """A filter of its own for each channel: a convolution whose kernels lie on the diagonal."""
  made = same(np.asarray(x, np.float64), frozen["conv_0/kernel"]) + frozen["conv_0/bias"]
  seen = same(made, filters[:, :, None, :] * np.eye(filters.shape[-1]))
  h = np.maximum(seen, 0).max((1, 2))
  return h @ own["head/kernel"] + own["head/bias"]


def loss(frozen, own, filters, x, y, classes):
  z = np.where(classes, logits(frozen, own, filters, x), -np.inf)
  return (np.logaddexp.reduce(z, -1) - z[np.arange(len(y)), y]).mean()


def slope(at, value):
  """By differences in float64."""
  g = np.zeros_like(value)
  for i in np.ndindex(*value.shape):
    ends = []
    for step in (1e-6, -1e-6):
      moved = value.copy()
      moved[i] += step
      ends.append(at(moved))
    g[i] = (ends[0] - ends[1]) / 2e-6
  return g


def slopes(frozen, own, filters, x, y, classes):
  """Of the loss in what the task trains."""
  found = {"filters/conv_0": slope(lambda v: loss(frozen, own, v, x, y, classes), filters)}
  for n in own:
    found[f"own/{n}"] = slope(lambda v, n=n: loss(frozen, {**own, n: v}, filters, x, y, classes), own[n])
  return found


def parts_of(learner, slot):
  p = leaves(learner.params)
  frozen = {n: np.asarray(a, np.float64) for n, a in learner.model_state.kept.items()}
  own = {n.removeprefix("own/"): a[slot] for n, a in p.items() if n.startswith("own/")}
  return p, frozen, own, p["filters/conv_0"][slot]


def test_clr_s_steps_by_hand(three):
  """Each task's own filters and classifier; the second begins with the identity again."""
  bench = Bench("clr", three, MODEL)
  learner = bench.start()
  for slot, task in enumerate((2, 0)):
    met, classes = (2,)[:slot], three.classes_of_task[task]
    learner = bench.boundary("start_task", learner, task, met)
    for k in range(2):
      x, y = batch_of(bench, task, k)
      p, frozen, own, f = parts_of(learner, slot)
      if k == 0:
        np.testing.assert_array_equal(f, np.eye(9)[4].reshape(3, 3, 1) * np.ones(3))
      want = {n: a.copy() for n, a in p.items()}
      for n, g in slopes(frozen, own, f, x, y, classes).items():
        want[n][slot] -= RATE * g
      learner, _, told = bench.step(learner, *bench.arguments(task, k, met=met))
      np.testing.assert_allclose(float(told), loss(frozen, own, f, x, y, classes), rtol=1e-5)
      for n, a in leaves(learner.params).items():
        np.testing.assert_allclose(a, want[n], rtol=1e-4, atol=2e-6, err_msg=n)
    learner = bench.boundary("end_task", learner, task, met)
  assert np.abs(p["filters/conv_0"][0] - p["filters/conv_0"][1]).max() > 1e-3


def test_filters_begin_as_the_identity_and_count_nine_a_channel(three):
  """To the bit the network that was given; ``9 C_out`` numbers a convolution."""
  bench = Bench("clr", three, MODEL)
  learner = bench.start()
  params, state = MODEL.init(tree.fold(jax.random.key(0), "model"))
  rows = np.asarray(three.test[0])
  x = jnp.asarray(three.dataset.test.x[rows])
  want = MODEL.apply(params, state, x, train=False, key=None, task=None, mask=None)[0].logits
  np.testing.assert_array_equal(answers(bench, learner, 0), want)
  assert {n: a.shape for n, a in learner.params["filters"].items()} == {"conv_0": (3, 3, 3, 3)}
  assert set(learner.model_state.kept) == {"conv_0/kernel", "conv_0/bias"}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_old_answers_of_clr_stay_to_the_bit(optimizer, three):
  """Under momentum and weight decay, over later tasks and a return, and the frozen network too."""
  held = []

  def check(learner, seen):
    held.append(tree.digest(learner.model_state.kept))

  bench, _ = old_answers_stay("clr", three, MODEL, {}, optimizer, (1, 0, 1, 2), check)
  assert set(held) == {tree.digest(bench.start().model_state.kept)}


class Pointed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Conv(4, (3, 3), use_bias=False, name="wide")(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
    h = nn.relu(nn.Conv(5, (1, 1), name="point")(x)).mean((1, 2))
    return Outputs(nn.Dense(6, name="head")(h), h, (h,))


POINTED = models.from_linen(Pointed(), (4, 4, 1))


def test_old_answers_stay_with_batch_norm(three):
  """Scale, bias and statistics are of each task, and begin as the network's."""
  bench, learner = old_answers_stay("clr", three, POINTED, {}, "adamw", (1, 0, 1))
  assert {"own/norm/scale", "own/norm/bias"} <= set(tree.paths(learner.params))
  mean = np.asarray(learner.model_state.inner["batch_stats"]["norm"]["mean"])
  assert np.abs(mean[0] - mean[1]).max() > 1e-3
  np.testing.assert_array_equal(mean[2], np.asarray(bench.start().model_state.inner["batch_stats"]["norm"]["mean"])[2])


@pytest.mark.parametrize(("pointwise", "shape"), [("filter", (3, 3, 3, 5)), ("scale", (3, 1, 1, 5)), ("skip", None)])
def test_convolutions_of_one_place(pointwise, shape, three):
  learner = Bench("clr", three, POINTED, {"pointwise": pointwise}).start()
  found = {n: a.shape for n, a in learner.params["filters"].items()}
  assert found == {"wide": (3, 3, 3, 4)} | ({"point": shape} if shape else {})


def test_a_filter_is_of_its_channel():
  """Against a convolution whose kernels lie on the diagonal, and one number a channel."""
  rng = np.random.default_rng(0)
  f, y = rng.normal(size=(3, 3, 4)), rng.normal(size=(2, 5, 6, 4))
  want = same(y, f[:, :, None, :] * np.eye(4))
  np.testing.assert_allclose(clr.by_channel(jnp.asarray(f, jnp.float32), jnp.asarray(y, jnp.float32)), want, atol=1e-5)
  single = clr.by_channel(jnp.asarray(f[:1, :1], jnp.float32), jnp.asarray(y, jnp.float32))
  np.testing.assert_allclose(single, y * f[0, 0], atol=1e-5)
  np.testing.assert_array_equal(clr.by_channel(clr.dirac(3, 4), jnp.asarray(y, jnp.float32)), y.astype(np.float32))


def test_what_networks_clr_takes(three, small_model):
  with pytest.raises(UsageError, match="'clr' reprograms the channels of convolutions; the model has none"):
    Bench("clr", three, small_model)
  base = models.cnn((4, 4, 1), 6, widths=(3,))
  hidden = base._replace(
    apply=lambda p, s, x, **told: (Outputs(x.reshape(len(x), -1)[:, :6] + p["head"]["bias"][None]), s)
  )
  with pytest.raises(UsageError, match="'clr' stands behind Linen layers; the model calls none of the path conv_0"):
    Bench("clr", three, hidden).train(steps=1, tasks=(0,))
