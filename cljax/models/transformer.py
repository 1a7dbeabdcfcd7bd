"""A small causal transformer over tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from cljax.core.checks import check_look_up
from cljax.core.types import Model, Outputs, UsageError
from cljax.models.initial import flat_init
from cljax.models.linen import from_linen
from cljax.models.zoo import activation_of


class Places(nn.Module):
  """Adds a learned vector for each of the first ``length`` places."""

  length: int

  @nn.compact
  def __call__(self, x):
    return x + self.param("position", nn.initializers.normal(0.02), (self.length, x.shape[-1]))[: x.shape[1]]


class CausalAttention(nn.Module):
  heads: int

  @nn.compact
  def __call__(self, x, seen):
    """``seen [B, L, L]`` or ``[L, L]`` bool: which keys a query sees."""
    b, n, d = x.shape
    q, k, v = jnp.moveaxis(nn.Dense(3 * d, name="qkv")(x).reshape(b, n, 3, self.heads, d // self.heads), 2, 0)
    fit = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(d / self.heads)
    # A finite number: a query that sees no key, as of an absent row, would be NaN.
    fit = jnp.where(seen if seen.ndim == 2 else seen[:, None], fit, -1e9)
    return nn.Dense(d, name="out")(jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(fit), v).reshape(b, n, d))


class Transformer(nn.Module):
  vocabulary: int
  length: int
  width: int
  depth: int
  heads: int
  mlp_ratio: int
  dropout: float
  activation: str | Callable
  mlp_width: int = 0  # where it is no multiple of the width
  epsilon: float = 1e-6
  projection: int = 0  # outputs of a matrix in the head's place

  @nn.compact
  def __call__(self, x, train=False):
    act, hidden = activation_of(self.activation), []
    token, mask = (x["token"], x.get("mask")) if isinstance(x, dict) else (x, None)
    seen = jnp.tril(jnp.ones((token.shape[1],) * 2, bool))
    if mask is not None:
      seen = seen & (mask > 0)[:, None]
    x = Places(self.length, name="places")(nn.Embed(self.vocabulary, self.width, name="tokens")(token))
    drop = nn.Dropout(self.dropout, deterministic=not train)
    norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon)
    inner = self.mlp_width or self.mlp_ratio * self.width
    for i in range(self.depth):
      x = x + drop(CausalAttention(self.heads, name=f"attention_{i}")(norm(name=f"norm_{i}_0")(x), seen))
      y = act(nn.Dense(inner, name=f"mlp_{i}_in")(norm(name=f"norm_{i}_1")(x)))
      x = x + drop(nn.Dense(self.width, name=f"mlp_{i}_out")(y))
      hidden.append(x)
    x = norm(name="norm")(x)
    if self.projection:
      return Outputs(nn.Dense(self.projection, False, name="projection")(x), x, tuple(hidden))
    return Outputs(nn.Dense(self.vocabulary, name="head")(x), x, tuple(hidden))


def transformer(
  length: int,
  vocabulary: int,
  width: int = 64,
  depth: int = 2,
  heads: int = 4,
  mlp_ratio: int = 2,
  dropout: float = 0.0,
  activation: str | Callable = "gelu",
) -> Model:
  """A pre-norm decoder with learned positions: ``logits [B, L, V]``, of which place l sees the tokens 0..l alone.

  Inputs are tokens ``[B, L]`` int, L at most ``length``, or a dict of them, ``token``, and of ``mask [B, L]``, 0 where
  no place may look (padding). Features and hidden activations are ``[B, L, width]``. Radford et al. 2019, without tied
  weights. Raises UsageError where ``heads`` does not divide ``width``.
  """
  if width % heads:
    raise UsageError(f"heads: got {heads}, which does not divide width {width}")
  activation_of(activation)
  module = Transformer(vocabulary, length, width, depth, heads, mlp_ratio, dropout, activation)
  again = lambda activation: transformer(length, vocabulary, width, depth, heads, mlp_ratio, dropout, activation)
  model = from_linen(module, (length,), init=flat_init, input_dtype=jnp.int32, with_activation=again)

  def check_rows(x):
    check_look_up("model.vocabulary", x["token"] if isinstance(x, dict) else x, vocabulary, "tokens")

  return model._replace(check_rows=check_rows)
