"""The layers of a decoder as Linen modules, in both layouts. Norms, softmax and logits are float32 in each dtype."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cljax.core.types import Array, Outputs, UsageError
from cljax.models.decoder.shape import Shape

HIDDEN = -1e9  # a finite number: a query that sees no key, as of padding, would be NaN


class RMSNorm(nn.Module):
  """``scale * x / sqrt(mean(x^2) + epsilon)``: squares in float32, rounded to the dtype of ``x`` before the scale."""

  epsilon: float

  @nn.compact
  def __call__(self, x):
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.epsilon)
    return normed.astype(x.dtype) * self.param("scale", nn.initializers.ones, (x.shape[-1],))


class Tokens(nn.Module):
  """The embedding; ``read``: the logits of a tied head, ``x E^T`` in float32.

  Both are calls of this one module, so that what reads layers sees that the embedding is used twice.
  """

  count: int
  width: int

  @nn.compact
  def __call__(self, x, read: bool = False):
    init = nn.initializers.normal(self.width**-0.5)
    table = self.param("embedding", init, (self.count, self.width))
    if not read:
      return jnp.take(table, x, axis=0)  # NaN past the end
    return jnp.einsum("bld,vd->blv", x, table, preferred_element_type=jnp.float32)


class Positions(nn.Module):
  """A learned vector for each position."""

  count: int
  width: int

  @nn.compact
  def __call__(self, position):
    table = self.param("position", nn.initializers.normal(0.02), (self.count, self.width))
    return jnp.take(table, position, axis=0)


def rotated(x: Array, position: Array, base: float) -> Array:
  """Turns the pairs (i, i + d/2) of ``x [B, L, H, d]`` by ``position * base^(-2i/d)``: Hugging Face's halves."""
  half = x.shape[-1] // 2
  speed = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = position[..., None, None].astype(jnp.float32) * speed
  a, b = jnp.split(x.astype(jnp.float32), 2, -1)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def attend(q: Array, k: Array, v: Array, seen: Array) -> Array:
  """Attention of ``q [B, L, H, d]`` over ``k, v [B, S, K, d]``, H/K queries to a key; ``seen [B, L, S]`` bool."""
  b, n, heads, width = q.shape
  grouped = q.reshape(b, n, k.shape[2], heads // k.shape[2], width)
  fit = jnp.einsum("blkgd,bskd->bkgls", grouped, k, preferred_element_type=jnp.float32) * width**-0.5
  share = jax.nn.softmax(jnp.where(seen[:, None, None], fit, HIDDEN), -1).astype(v.dtype)
  return jnp.einsum("bkgls,bskd->blkgd", share, v).reshape(b, n, heads * width)


class Attention(nn.Module):
  shape: Shape

  @nn.compact
  def __call__(self, x, position, seen, kept=None):
    """``kept``: ``(k, v, at)``, keys and values ``[B, S, K, d]`` of which those of ``x`` become ``at`` and after it."""
    s, (b, n, _) = self.shape, x.shape
    split = lambda a, heads: a.reshape(b, n, heads, s.head_width)
    if s.layout == "gpt2":
      fused = nn.Dense(3 * s.width, name="c_attn")(x)
      q, k, v = (split(a, s.heads) for a in jnp.split(fused, 3, -1))
    else:
      dense = lambda name, heads: split(
        nn.Dense(heads * s.head_width, use_bias=s.attention_bias, name=f"{name}_proj")(x), heads
      )
      q, k, v = dense("q", s.heads), dense("k", s.kv_heads), dense("v", s.kv_heads)
      if s.query_norm:
        q, k = RMSNorm(s.epsilon, name="q_norm")(q), RMSNorm(s.epsilon, name="k_norm")(k)
      q, k = (rotated(a, position, s.rope_base) for a in (q, k))
    if kept is not None:
      put = lambda old, new: jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, kept[2], 0, 0))
      k, v = put(kept[0], k), put(kept[1], v)
    name, bias = ("c_proj", True) if s.layout == "gpt2" else ("o_proj", s.output_bias)
    return nn.Dense(s.width, use_bias=bias, name=name)(attend(q, k, v, seen)), (k, v)


class MLP(nn.Module):
  shape: Shape

  @nn.compact
  def __call__(self, x):
    s = self.shape
    if s.layout == "gpt2":
      y = jax.nn.gelu(nn.Dense(s.mlp_width, name="c_fc")(x), approximate=s.gelu == "tanh")
      return nn.Dense(s.width, name="c_proj")(y)
    dense = lambda name, width: nn.Dense(width, use_bias=s.mlp_bias, name=name)
    gate, up = dense("gate_proj", s.mlp_width)(x), dense("up_proj", s.mlp_width)(x)
    return dense("down_proj", s.width)(jax.nn.silu(gate) * up)


def norm(shape: Shape, name: str) -> nn.Module:
  if shape.layout == "gpt2":
    return nn.LayerNorm(epsilon=shape.epsilon, use_fast_variance=False, name=name)
  return RMSNorm(shape.epsilon, name=name)


class Block(nn.Module):
  shape: Shape

  @nn.compact
  def __call__(self, x, position, seen, kept=None):
    gpt2 = self.shape.layout == "gpt2"
    names = ("ln_1", "attn", "ln_2") if gpt2 else ("input_layernorm", "self_attn", "post_attention_layernorm")
    y, held = Attention(self.shape, name=names[1])(norm(self.shape, names[0])(x), position, seen, kept)
    x = x + y
    return x + MLP(self.shape, name="mlp")(norm(self.shape, names[2])(x)), held


def placed(x: Any, length: int) -> tuple[Array, Array, Array, dict | None]:
  """``(token, position [B, L], seen [B, L, S], cache)`` of what a decoder is given; see :func:`decoder`."""
  given = x if isinstance(x, dict) else {"token": x}
  token, mask, segment, cache = given["token"], given.get("mask"), given.get("segment"), given.get("cache")
  b, n = token.shape
  room = n if cache is None else cache["there"].shape[1]
  if room > length:
    raise UsageError(f"x: has {room} tokens a row; the model has {length} positions")
  there = jnp.ones((b, n), bool) if mask is None else mask > 0
  if cache is not None and segment is not None:
    raise UsageError("x: has a segment and a cache; texts that go on are one a row")
  if segment is not None:
    place = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (b, n))
    first = jnp.concatenate([jnp.ones((b, 1), bool), segment[:, 1:] != segment[:, :-1]], 1)
    position = place - jax.lax.cummax(jnp.where(first, place, 0), axis=1)
    same = (segment[:, :, None] == segment[:, None]) & (segment > 0)[:, None]
    return token, position, jnp.tril(jnp.ones((n, n), bool)) & same & there[:, None], None
  if cache is None:
    position = jnp.maximum(jnp.cumsum(there, 1, dtype=jnp.int32) - 1, 0)
    return token, position, jnp.tril(jnp.ones((n, n), bool)) & there[:, None], None
  at = jnp.asarray(cache.get("at", 0), jnp.int32)
  before = cache["there"].sum(1, dtype=jnp.int32)
  position = jnp.maximum(before[:, None] + jnp.cumsum(there, 1, dtype=jnp.int32) - 1, 0)
  known = jax.lax.dynamic_update_slice(cache["there"], there, (jnp.zeros((), jnp.int32), at))
  reach = jnp.arange(room) <= at + jnp.arange(n)[:, None]
  return token, position, reach & known[:, None], {**cache, "there": known, "at": at}


class Decoder(nn.Module):
  shape: Shape
  remat: bool = False

  @nn.compact
  def __call__(self, x, train=False):
    del train
    s, gpt2 = self.shape, self.shape.layout == "gpt2"
    token, position, seen, cache = placed(x, s.length)
    table = Tokens(s.vocabulary, s.width, name="wte" if gpt2 else "embed_tokens")
    x = table(token)
    if gpt2:
      x = x + Positions(s.length, s.width, name="wpe")(position)
    make = nn.remat(Block) if self.remat else Block
    hidden, kept = [], []
    for i in range(s.depth):
      old = None
      if cache is not None:
        empty = jnp.zeros((token.shape[0], seen.shape[-1], s.kv_heads, s.head_width), x.dtype)
        old = (*(cache["layers"][i] if "layers" in cache else (empty, empty)), cache["at"])
      x, held = make(s, name=f"{'h' if gpt2 else 'layers'}_{i}")(x, position, seen, old)
      hidden.append(x)
      kept.append(held)
    x = norm(s, "ln_f" if gpt2 else "norm")(x)
    if s.tied:
      logits = table(x, read=True)
    else:
      logits = nn.Dense(s.vocabulary, use_bias=False, name="lm_head")(x).astype(jnp.float32)
    if cache is not None:
      cache = {"there": cache["there"], "at": cache["at"] + token.shape[1], "layers": tuple(kept)}
    return Outputs(logits, x, tuple(hidden), cache)
