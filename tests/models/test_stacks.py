"""Tuned parts of each task beside a frozen network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import models
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.models import stacks, tuning

HEAD = frozenset({"head/kernel", "head/bias"})
X = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)


def network():
  """A ViT whose leaves are all drawn: what begins at a constant counts too."""
  model = models.vit((4, 4, 1), 3, patch=2, width=8, depth=1, heads=2, mlp_ratio=1)

  def init(key):
    params, state = model.init(key)
    return tree.map_named(lambda n, a: a + 0.3 * jax.random.normal(tree.fold(key, n), a.shape), params), state

  return model._replace(init=init)


def stack_of(kind, layers="", tasks=3):
  return stacks.stack(network(), tasks, kind, 2, layers, HEAD)


@pytest.mark.parametrize("kind", list(tuning.TUNINGS))
def test_a_place_is_the_network_under_its_tuning(kind):
  """That of the same parts; at first the network as it is; the classifier has no parts."""
  model, stack = network(), stack_of(kind)
  parts, state = jax.jit(stack.begin)(jax.random.key(3))
  assert all(a.shape[0] == 3 for a in parts.values())
  assert not [n for n in parts if n.startswith("head")]
  params, inner = model.init(tree.fold(jax.random.key(3), "network"))
  own, _ = model.apply(params, inner, X, train=False, key=jax.random.key(0))
  look = lambda parts, slot: stack.outputs(parts, state, slot, X, jax.random.key(0))
  first = look(parts, 2)
  np.testing.assert_allclose(first.features, own.features, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(first.logits, own.logits, rtol=1e-5, atol=1e-5)
  moved = {n: a + 0.1 * jax.random.normal(tree.fold(jax.random.key(1), n), a.shape) for n, a in parts.items()}
  ranked = {"rank": 2} if kind in stacks.RANKED else {}
  alone = tuning.TUNINGS[kind](model._replace(init=lambda key: (params, inner)), trained="^head/", **ranked)
  given, held = alone.init(jax.random.key(0))
  whole = tree.by_path(given) | {n: a[1] for n, a in moved.items()}
  want, _ = alone.apply(tuning.nested(whole), held, X, train=False, key=jax.random.key(0))
  np.testing.assert_allclose(look(moved, 1).features, want.features, rtol=1e-5, atol=1e-5)
  assert np.abs(np.asarray(look(moved, 1).features - look(moved, 2).features)).max() > 1e-3
  for name in HEAD:
    np.testing.assert_allclose(state.base["trained"][name], tree.by_path(params)[name], rtol=1e-6, atol=1e-6)


def test_places_are_drawn_for_themselves_on_one_network():
  """Draws differ from place to place; tuned leaves of the network itself do not."""
  parts, _ = stack_of("lora").begin(jax.random.key(3))
  for name, leaf in parts.items():
    if name.endswith("lora_a"):
      assert np.abs(np.asarray(leaf[0] - leaf[1])).max() > 0.05
  for leaf in stack_of("bitfit").begin(jax.random.key(3))[0].values():
    np.testing.assert_array_equal(leaf[0], leaf[2])


def test_features_of_every_place_that_there_is():
  stack = stack_of("lora")
  parts, state = stack.begin(jax.random.key(3))
  parts = {n: a + 0.1 * jax.random.normal(tree.fold(jax.random.key(1), n), a.shape) for n, a in parts.items()}
  found = jax.jit(lambda count: stacks.every(stack, parts, state, count, X, jax.random.key(0)))(2)
  for slot in range(2):
    want = stack.outputs(parts, state, slot, X, jax.random.key(0)).features
    np.testing.assert_allclose(found[slot], want, rtol=1e-5, atol=1e-6)
  assert found.shape == (3, 5, 8)
  assert not np.asarray(found[2]).any()


def test_tasks_have_places_in_the_order_in_which_they_are_met():
  _, state = stack_of("lora").begin(jax.random.key(3))
  for task, slot in ((2, 0), (0, 1), (2, 0), (1, 2)):
    state = stacks.opened(state, jnp.int32(task))
    assert int(state.slot) == slot
  assert state.slots.tolist() == [1, 2, 0]


def test_layers_that_find_nothing_are_told():
  with pytest.raises(UsageError, match=r"^method.layers: 'conv' finds no frozen leaf"):
    stack_of("lora", "conv")
