"""Absent rows in BatchNorms of NNX modules, the user's own among them, against the statistics of those present."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cljax import models
from cljax.core.types import UsageError


class Plain(nnx.BatchNorm):
  pass


class Calls(nnx.BatchNorm):
  """Takes no mask, and does something of its own."""

  def __call__(self, x):
    return 2 * super().__call__(x)


class Deeper(Calls):
  def __call__(self, x):
    return super().__call__(x) + 1


class Alone(nnx.BatchNorm):
  """Its own arithmetic."""

  def __call__(self, x):
    self.mean[...] = 0.5 * self.mean[...] + 0.5 * x.mean(0)
    return x - self.mean[...]


class Stats(nnx.Module):
  """Batch statistics outside of any BatchNorm."""

  def __init__(self, width, momentum, rngs):
    self.mean = nnx.BatchStat(jnp.zeros(width))

  def __call__(self, x):
    self.mean[...] = x.mean(0)
    return x - self.mean[...]


def net(norm, flatten=False):
  class Net(nnx.Module):
    def __init__(self, rngs):
      self.norm = norm(4, momentum=0.5, rngs=rngs)
      self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
      x = self.norm(x.reshape(-1, 4)).reshape(x.shape) if flatten else self.norm(x)
      return self.last(x.reshape(x.shape[0], -1, 4).mean(1))

  return models.from_nnx(Net)


def trained(model, x, mask):
  params, state = model.init(jax.random.key(0))
  out, new = jax.jit(lambda: model.apply(params, state, x, train=True, key=jax.random.key(1), mask=mask))()
  return np.asarray(out.logits), new


@pytest.mark.parametrize("norm", [nnx.BatchNorm, Plain, Calls, Deeper])
def test_rows_that_are_absent_leave_no_trace(norm):
  few = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  x = np.concatenate([few, np.zeros((5, 4), np.float32)])
  mask = jnp.array([1.0] * 3 + [0.0] * 5)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    logits, new = trained(net(norm), x, mask)
  np.testing.assert_allclose(new["norm"]["mean"], 0.5 * few.mean(0), rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(new["norm"]["var"], 0.5 + 0.5 * few.var(0), rtol=1e-5)
  alone, _ = trained(net(norm), few, jnp.ones(3))
  np.testing.assert_allclose(logits[:3], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("norm", "said"),
  [
    (Alone, "Alone is an nnx.BatchNorm that does not call super().__call__, so its training statistics may count rows"),
    (
      Stats,
      "Stats keeps batch statistics and is no nnx.BatchNorm, so its training statistics may count rows",
    ),
  ],
)
def test_a_module_that_is_not_known_to_leave_them_out_is_named(norm, said):
  with pytest.warns(UserWarning, match="rows of weight 0, which should be as if absent") as caught:
    trained(net(norm), np.ones((4, 4), np.float32), jnp.array([1.0, 1.0, 0.0, 0.0]))
  ours = [str(w.message) for w in caught if "rows of weight 0" in str(w.message)]
  assert len(ours) == 1
  assert ours[0].startswith(said)
  assert "\n" not in ours[0]


def test_a_model_that_takes_the_mask_is_believed():
  class Takes(nnx.Module):
    def __init__(self, rngs):
      self.norm = Stats(4, 0.5, rngs)

    def __call__(self, x, mask=None):
      return self.norm(x if mask is None else jnp.where(mask[:, None] > 0, x, 0.0))

  with warnings.catch_warnings():
    warnings.simplefilter("error")
    trained(models.from_nnx(Takes), np.ones((4, 4), np.float32), jnp.array([1.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize("norm", [nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm])
def test_norms_within_a_row_are_not_named(norm):
  groups = {"num_groups": 2} if norm is nnx.GroupNorm else {}
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    made = net(lambda width, momentum, rngs: norm(width, **groups, rngs=rngs))
    trained(made, np.ones((4, 4), np.float32), jnp.array([1.0, 1.0, 0.0, 0.0]))


def test_rows_that_are_folded_into_others_are_refused():
  with pytest.raises(UsageError, match="mask: has 4 rows, but a BatchNorm input has leading size 8"):
    trained(net(nnx.BatchNorm, flatten=True), np.ones((4, 2, 4), np.float32), jnp.ones(4))
