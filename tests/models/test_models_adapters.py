"""Foreign models through the adapters, reparameterisation, and masks."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import models
from cljax.core import tree
from cljax.core.types import Outputs, UsageError
from cljax.models import masks


class Foreign(nn.Module):
  """Says ``deterministic``, has BatchNorm and dropout, and sows its features."""

  @nn.compact
  def __call__(self, x, deterministic=True):
    x = nn.BatchNorm(use_running_average=deterministic, momentum=0.5)(nn.Dense(8)(x))
    x = nn.Dropout(0.5, deterministic=deterministic)(nn.relu(x))
    self.sow("intermediates", "features", x)
    return nn.Dense(3)(x)


class ForeignNNX(nnx.Module):
  def __init__(self, rngs):
    self.first = nnx.Linear(4, 8, rngs=rngs)
    self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.blocks = nnx.List([nnx.Linear(8, 8, rngs=rngs)])
    self.last = nnx.Linear(8, 3, rngs=rngs)

  def __call__(self, x):
    x = self.drop(nnx.relu(self.norm(self.first(x))))
    for block in self.blocks:
      x = block(x)
    return Outputs(self.last(x), x)


ADAPTED = {
  "linen": lambda: models.from_linen(Foreign(), (4,)),
  "nnx": lambda: models.from_nnx(ForeignNNX),
  "nnx_instance": lambda: models.from_nnx(ForeignNNX(nnx.Rngs(3))),
}


@pytest.mark.parametrize("name", sorted(ADAPTED))
def test_foreign_modules_keep_every_law_of_a_model(name):
  model = ADAPTED[name]()
  params, state = jax.jit(model.init)(jax.random.key(0))
  before = tree.digest((params, state))
  x = jax.random.normal(jax.random.key(1), (5, 4)) + 1.0
  mask = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0])
  train = jax.jit(lambda x, key, mask: model.apply(params, state, x, train=True, key=key, mask=mask))
  a, b = jax.random.key(5), jax.random.key(6)
  out, new = train(x, a, mask)
  assert out.logits.shape == (5, 3)
  assert out.features.shape == (5, 8)
  np.testing.assert_array_equal(out.logits, train(x, a, mask)[0].logits)
  assert not np.array_equal(out.logits, train(x, b, mask)[0].logits)
  # the masked row touches nothing; no rows at all leave the state
  other, same = train(x.at[2].set(1e4), a, mask)
  keep = np.array([0, 1, 3, 4])
  np.testing.assert_array_equal(out.logits[keep], other.logits[keep])
  assert tree.digest(new) == tree.digest(same)
  assert jax.tree.structure(new) == jax.tree.structure(state)
  assert tree.digest(train(x, a, jnp.zeros(5))[1]) == tree.digest(state)
  # the statistics are those of the rows that exist
  linear = params.get("first", params.get("Dense_0"))
  z = np.asarray(x[keep] @ linear["kernel"] + linear["bias"])
  mean = next(v for n, v in zip(tree.paths(new), jax.tree.leaves(new), strict=True) if n.endswith("mean"))
  np.testing.assert_allclose(mean, 0.5 * z.mean(0), rtol=1e-4, atol=1e-5)
  # evaluation uses them, needs no key and changes nothing
  evaluate = jax.jit(lambda s: model.apply(params, s, x, train=False, key=None))
  evaluated, kept = evaluate(new)
  assert tree.digest(kept) == tree.digest(new)
  again, _ = evaluate(state)
  assert not np.allclose(evaluated.logits, again.logits)
  assert tree.digest((params, state)) == before
  grads = jax.jit(jax.grad(lambda p: model.apply(p, state, x, train=True, key=a)[0].logits.sum()))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert tree.norm(grads) > 0


def test_nnx_functions_draw_new_weights_and_instances_are_copied():
  model = ADAPTED["nnx"]()
  first, second = (model.init(jax.random.key(i))[0] for i in (0, 1))
  assert tree.digest(first) != tree.digest(second)
  live = ForeignNNX(nnx.Rngs(3))
  params, _ = models.from_nnx(live).init(jax.random.key(0))
  before = tree.digest(params)
  live.first.kernel[...] = jnp.zeros((4, 8))
  assert tree.digest(params) == before
  assert np.asarray(params["first"]["kernel"]).any()


def test_an_equinox_tree_is_a_model():
  build = lambda key: eqx.partition(eqx.nn.MLP(4, 3, 8, 1, key=key), eqx.is_array)
  static = build(jax.random.key(0))[1]
  model = models.from_apply(lambda key: build(key)[0], lambda p, x: jax.vmap(eqx.combine(p, static))(x))
  params, state = model.init(jax.random.key(1))
  x = jnp.ones((2, 4))
  out, new = jax.jit(lambda p: model.apply(p, state, x, train=True, key=None))(params)
  want = jax.vmap(eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(1)))(x)
  np.testing.assert_allclose(out.logits, want, rtol=1e-6)
  assert new == state == {}


def test_stateful_functions_get_what_they_name():
  seen = {}

  def apply(params, state, x, train, mask):
    seen.update(train=train, mask=mask)
    return x @ params, {"steps": state["steps"] + train}

  model = models.from_apply(lambda key: (jnp.eye(2), {"steps": jnp.zeros(())}), apply, stateful=True)
  params, state = model.init(jax.random.key(0))
  out, state = model.apply(params, state, jnp.ones((1, 2)), train=True, key=None, mask=jnp.ones(1))
  assert isinstance(out, Outputs)
  assert state["steps"] == 1
  assert seen["train"] is True
  assert seen["mask"].shape == (1,)
  with pytest.raises(UsageError, match=r"init: returned"):
    models.from_apply(lambda key: jnp.eye(2), apply, stateful=True).init(jax.random.key(0))


def test_reparameterised_models_train_the_adapter_alone():
  base = models.mlp((4,), 3, (5,))
  add = lambda adapter, frozen: jax.tree.map(jnp.add, adapter, frozen)
  zeros = lambda key, params: (tree.zeros_like(params), params)
  model = models.reparameterise(base, add, zeros)
  adapter, state = jax.jit(model.init)(jax.random.key(0))
  params, _ = jax.jit(base.init)(jax.random.key(0))
  assert tree.digest(state["frozen"]) == tree.digest(params)
  x = jnp.ones((2, 4))
  apply = lambda a, s: model.apply(a, s, x, train=False, key=None)[0].logits
  plain = jax.jit(lambda p: base.apply(p, {}, x, train=False, key=None)[0].logits)(params)
  np.testing.assert_allclose(jax.jit(apply)(adapter, state), plain, rtol=1e-6)
  grads = jax.jit(jax.grad(lambda a, s: apply(a, s).sum(), argnums=(0, 1)))(adapter, state)
  assert tree.norm(grads[0]) > 0
  assert tree.norm(grads[1]) == 0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(0, 99))
def test_top_mask_zeroes_exactly_the_smallest(seed, percent):
  scores = np.random.default_rng(seed).normal(size=(5, 7)).astype(np.float32)
  mask, back = TOP(scores, percent / 100)
  want = np.ones(35)
  want[np.argsort(np.abs(scores).ravel())[: percent * 35 // 100]] = 0
  np.testing.assert_array_equal(np.ravel(mask), want)
  np.testing.assert_allclose(back, np.sign(scores) * 2.0)  # straight through, to |scores|
  np.testing.assert_array_equal(models.top_mask(jnp.asarray(scores), 0.0), 1.0)


@pytest.mark.parametrize("count", [10, 35, 100, 1000, 78_400, 3_000_000])
def test_a_share_in_decimals_counts_what_it_says(count):
  """Python's numbers, float32 and what a kept share leaves, of which each holds a little less or more than it says."""
  parts = np.arange(1001)
  exact = [int(k) * count // 1000 for k in parts]
  assert [masks.floor_of_share(k / 1000, count) for k in parts] == exact
  shares = jnp.asarray(parts / 1000, jnp.float32)
  np.testing.assert_array_equal(masks.floor_of_share(shares, count), exact)
  np.testing.assert_array_equal(masks.floor_of_share(1.0 - (1.0 - shares), count), exact)


TOP = jax.jit(lambda s, share: (models.top_mask(s, share), jax.grad(lambda s: 2 * models.top_mask(s, share).sum())(s)))


def test_masked_models_train_one_task_and_hold_the_rest():
  base = models.from_linen(Foreign(), (4,))
  model = models.masked(base, num_tasks=3, sparsity=0.25)
  scores, state = jax.jit(model.init)(jax.random.key(0))
  assert {n: v.shape for n, v in scores.items()} == {"Dense_0/kernel": (3, 4, 8), "Dense_1/kernel": (3, 8, 3)}
  kernel = np.asarray(state["frozen"]["Dense_0"]["kernel"])
  assert len(np.unique(np.abs(kernel))) == 1
  x = jax.random.normal(jax.random.key(1), (6, 4))

  @jax.jit
  def step(scores, task):
    def loss(s):
      out, new = model.apply(s, state, x, train=True, key=jax.random.key(2), task=task)
      return jnp.square(out.logits).sum(), new

    return jax.grad(loss, has_aux=True)(scores)

  grads, new = step(scores, 1)
  for g in grads.values():
    assert np.asarray(g[1]).any()
    assert not np.asarray(g[jnp.array([0, 2])]).any()
  assert tree.digest(new["frozen"]) == tree.digest(state["frozen"])
  mean = np.asarray(new["inner"]["batch_stats"]["BatchNorm_0"]["mean"])
  assert mean[1].any()
  assert not mean[[0, 2]].any()
  # a mixture of one task is that task's network; the masks' weights have gradients
  evaluate = jax.jit(lambda task: model.apply(scores, new, x, train=False, key=None, task=task)[0].logits)
  mixed = jax.jit(lambda alphas: models.mixture_apply(base, scores, new, x, alphas, 0.25).logits)
  np.testing.assert_allclose(mixed(jnp.array([0.0, 1.0, 0.0])), evaluate(1), rtol=1e-5, atol=1e-6)
  assert not np.allclose(evaluate(0), evaluate(1))
  entropy = lambda a: -jnp.sum(jax.nn.softmax(mixed(a)) * jax.nn.log_softmax(mixed(a)))
  assert np.unique(np.asarray(jax.jit(jax.grad(entropy))(jnp.full(3, 1 / 3)))).size == 3
  with pytest.raises(UsageError, match=r"^task:"):
    model.apply(scores, state, x, train=False, key=None)
  for bad in ({"num_tasks": 0}, {"num_tasks": 2, "sparsity": 1.0}):
    with pytest.raises(UsageError, match="got"):
      models.masked(base, **bad)


def test_modules_that_return_something_else_are_refused():
  class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(2)(x), x

  model = models.from_linen(Two(), (3,))
  params, state = model.init(jax.random.key(0))
  with pytest.raises(UsageError, match="module: returned tuple"):
    model.apply(params, state, jnp.ones((1, 3)), train=False, key=None)
