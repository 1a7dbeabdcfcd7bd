"""A decoder as a :class:`cljax.core.types.Model`."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from cljax.core.checks import check_look_up
from cljax.core.types import Model, UsageError
from cljax.models.decoder.layers import Decoder
from cljax.models.decoder.shape import Shape, checked
from cljax.models.initial import flat_init
from cljax.models.linen import from_linen


def model_of(shape: Shape, remat: bool = False) -> Model:
  """The model of these sizes; with ``remat`` blocks are computed again in the backward pass, without ``capture``."""
  ends = 2 * shape.depth

  def gain(path: str) -> float:
    """What is added to the residual stream is smaller, the more of it there is."""
    return 1 / ends if path.rsplit("/", 2)[-2] in ("o_proj", "down_proj", "c_proj") else 1.0

  init = functools.partial(flat_init, gain=gain)
  model = from_linen(Decoder(shape, remat), (min(shape.length, 8),), init=init, input_dtype=jnp.int32)

  def check_rows(x: Any) -> None:
    token = x["token"] if isinstance(x, dict) else x
    check_look_up("model.vocabulary", token, shape.vocabulary, "tokens")
    if token.shape[1] > shape.length:
      raise UsageError(f"model.length: got {shape.length} positions; the data hold rows of {token.shape[1]} tokens")

  return model._replace(check_rows=check_rows, capture=None if remat else model.capture)


def sized(
  length: int, vocabulary: int, width: int, depth: int, heads: int, kv_heads: int, mlp_width: int, rope_base: float,
  epsilon: float, tied: bool, layout: str,
) -> Shape:  # fmt: skip
  """The shape that the arguments of :func:`decoder` mean."""
  if isinstance(heads, int) and heads > 0 and isinstance(width, int) and width % heads:
    raise UsageError(f"heads: got {heads}, which does not divide width {width}")
  if not mlp_width:
    mlp_width = 4 * width if layout == "gpt2" else -(-8 * width // 24) * 8
  each = width // heads if isinstance(heads, int) and heads > 0 else 1
  biased = layout == "gpt2"
  return checked(Shape(length, vocabulary, width, depth, heads, kv_heads or heads, each, mlp_width, rope_base, epsilon,
                       tied, layout, biased, biased, biased))  # fmt: skip


def decoder(
  length: int,
  vocabulary: int,
  width: int = 64,
  depth: int = 2,
  heads: int = 4,
  kv_heads: int = 0,
  mlp_width: int = 0,
  rope_base: float = 10000.0,
  epsilon: float = 1e-5,
  tied: bool = True,
  layout: str = "llama",
  remat: bool = False,
) -> Model:
  """A decoder from scratch: ``logits [B, L, V]`` float32, of which place l sees the tokens 0..l alone.

  Layout 'llama': ``x + attention(RMSNorm(x))``, then ``x + W_down(silu(W_gate y) * W_up y)`` with ``y = RMSNorm(x)``;
  positions turn queries and keys by halves from ``rope_base``; ``kv_heads`` keys and values are shared by the
  ``heads`` (0: each has its own). 'gpt2': learned positions, LayerNorm, GELU (by tanh), biases. ``mlp_width`` 0: a
  multiple of 8 next to 8/3 of the width ('gpt2': 4 times the width). ``tied``: the head is the embedding, one leaf.
  Layers are a list, ``layers_0/self_attn/q_proj/kernel [in, out]`` and so on: Hugging Face's names.

  Inputs are tokens ``[B, L]`` int, L at most ``length``, or a dict of ``token``, and of

  - ``mask [B, L]``, 0 where no place may look (padding on either side); positions count what is there alone;
  - or ``segment [B, L]`` int, several texts packed in a row: each sees its own places alone, and counts them from 0;
    0 is padding;
  - ``cache``: ``{"there": zeros [B, R] bool}`` of room R, or what the last call returned as ``Outputs.cache``: the
    tokens go on from those of earlier calls, at the places behind them. :func:`generate` does so.

  Features are the normed last activations ``[B, L, width]``, ``hidden`` those behind each block. What flows is of the
  parameters' dtype; norms, softmax and logits are float32. ``remat``: blocks are computed again in the backward pass
  (less memory, no ``capture``). Radford et al. 2019; Touvron et al. 2023. Raises UsageError for sizes that do not fit
  one another, and for more tokens than positions.
  """
  return model_of(
    sized(length, vocabulary, width, depth, heads, kv_heads, mlp_width, rope_base, epsilon, tied, layout), remat
  )
