"""Prompts of a vision transformer, against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vit_by_hand import zoo

from cljax import models
from cljax.core.types import UsageError
from cljax.models.prompts import places_of

SIZES = {"patch": 2, "heads": 2, "depth": 2}
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def network():
  """``(params, look)``, all leaves random; ``look(prompts) -> outputs``, and the rows that it looks at."""
  model = models.vit((4, 4, 1), 3, width=6, mlp_ratio=2, **SIZES)
  shapes = jax.eval_shape(model.init, jax.random.key(0))[0]
  params = jax.tree.map(lambda s: jnp.asarray(RNG.normal(size=s.shape) * 0.5, s.dtype), shapes)
  x = RNG.normal(size=(3, 4, 4, 1)).astype(np.float32)
  look = lambda prompts, params=params: model.apply(params, {}, x, train=False, key=None, prompts=prompts)[0]
  return params, look, x


def drawn(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def test_prompts_in_front_of_tokens_and_of_keys(network):
  """Of each row its own; read at the class token, or as the mean of the prompts' outputs."""
  params, look, x = network
  tokens, prefixes = drawn(3, 4, 6), {1: (drawn(3, 2, 6), drawn(3, 2, 6))}
  for given, read in (
    ({"tokens": tokens}, "class"),
    ({"tokens": tokens}, "prompts"),
    ({"prefixes": prefixes}, "class"),
    ({"tokens": tokens, "prefixes": {**prefixes, 0: (drawn(3, 1, 6), drawn(3, 1, 6))}}, "prompts"),
  ):
    out = look(models.Prompts(**given, read=read))
    logits, features = zoo(params, x, **SIZES, **given, read=read)
    np.testing.assert_allclose(out.features, features, atol=3e-5)
    np.testing.assert_allclose(out.logits, logits, atol=3e-5)


def test_prompts_of_length_0_are_none(network):
  _, look, _ = network
  empty = jnp.zeros((3, 0, 6))
  plain = look(None)
  for prompts in (models.Prompts(), models.Prompts(tokens=empty), models.Prompts(prefixes={0: (empty, empty)})):
    np.testing.assert_array_equal(look(prompts).logits, plain.logits)
    assert look(prompts).hidden[-1].shape == plain.hidden[-1].shape


def test_a_prefix_is_a_token_that_asks_nothing(network):
  """A key that no query fits, with whatever value, changes nothing; the number of tokens stays."""
  params, look, _ = network
  plain = look(None)
  keys = jnp.zeros((3, 1, 6))
  out = look(models.Prompts(prefixes={1: (keys, drawn(3, 1, 6))}))
  assert np.abs(out.logits - plain.logits).max() > 1e-3
  qkv = params["attention_1"]["qkv"]
  steady = jax.tree.map(lambda a: a, params)
  # Queries of the second block that are all the vector of ones, and a key far against it.
  steady["attention_1"] = {**params["attention_1"], "qkv": {
    "kernel": qkv["kernel"].at[:, :6].set(0), "bias": qkv["bias"].at[:6].set(1)}}  # fmt: skip
  far = models.Prompts(prefixes={1: (jnp.full((3, 1, 6), -1e3), drawn(3, 1, 6))})
  np.testing.assert_allclose(look(far, steady).logits, look(None, steady).logits, atol=1e-6)
  assert look(far).hidden[-1].shape == plain.hidden[-1].shape


def test_what_takes_no_prompts_is_refused(network):
  _, look, _ = network
  with pytest.raises(UsageError, match=r"model: takes no prompts, which 'l2p' needs; those that do: vit, pretrained"):
    places_of(models.mlp((4, 4, 1), 3), "l2p")
  assert places_of(models.vit((4, 4, 1), 3, width=8, depth=3), "l2p") == models.Places(8, 3)
  for read in ("mean", "prompts"):
    with pytest.raises(UsageError, match=rf"prompts.read: got '{read}' with 0 tokens; allowed: class, or prompts with"):
      look(models.Prompts(read=read))
