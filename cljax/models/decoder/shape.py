"""What a decoder is made of, by numbers alone."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from cljax.core.types import UsageError

LAYOUTS = ("llama", "gpt2")


class Shape(NamedTuple):
  """The sizes of a decoder and how its layers compute.

  Layout 'llama': rotated positions, RMSNorm, a gated MLP, no biases but those of ``attention_bias`` (queries, keys,
  values), ``output_bias`` and ``mlp_bias``; ``query_norm``: queries and keys are normalised in each head (Qwen 3).
  Layout 'gpt2': learned positions, LayerNorm, one matrix for queries, keys and values, a plain MLP, biases.
  """

  length: int  # positions
  vocabulary: int
  width: int
  depth: int
  heads: int
  kv_heads: int
  head_width: int
  mlp_width: int
  rope_base: float = 10000.0
  epsilon: float = 1e-5
  tied: bool = True
  layout: str = "llama"
  attention_bias: bool = False
  output_bias: bool = False
  mlp_bias: bool = False
  query_norm: bool = False
  gelu: str = "tanh"  # of layout 'gpt2': the approximation by tanh, or 'exact'


def checked(shape: Shape) -> Shape:
  """The shape itself; UsageError for sizes that do not fit one another."""
  for name in ("length", "vocabulary", "width", "depth", "heads", "kv_heads", "head_width", "mlp_width"):
    value = getattr(shape, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise UsageError(f"{name}: got {value!r}; expected an integer of at least 1")
  if shape.layout not in LAYOUTS:
    raise UsageError(f"layout: got {shape.layout!r}; allowed: {', '.join(LAYOUTS)}")
  if shape.heads % shape.kv_heads:
    raise UsageError(f"kv_heads: got {shape.kv_heads}, which does not divide the {shape.heads} heads")
  if shape.layout == "llama" and shape.head_width % 2:
    raise UsageError(f"head_width: got {shape.head_width}; positions are rotated in pairs, so it has to be even")
  if shape.layout == "gpt2" and shape.kv_heads != shape.heads:
    raise UsageError(f"kv_heads: got {shape.kv_heads}; in layout 'gpt2' each of the {shape.heads} heads has its own")
  for name in ("rope_base", "epsilon"):
    value = getattr(shape, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
      raise UsageError(f"{name}: got {value!r}; expected a number above 0")
  return shape


def count(shape: Shape) -> int:
  """How many parameters; a tied head is the embedding, and counts once."""
  s, w = shape, shape.width
  embedding = s.vocabulary * w * (1 if s.tied else 2)
  if s.layout == "gpt2":
    dense = lambda *widths: sum((a + 1) * b for a, b in itertools.pairwise(widths))
    return (
      embedding + s.length * w + s.depth * (4 * w + dense(w, 3 * w) + dense(w, w) + dense(w, s.mlp_width, w)) + 2 * w
    )
  queries, keys = s.heads * s.head_width, s.kv_heads * s.head_width
  layer = 2 * w + 2 * w * (queries + keys) + 3 * w * s.mlp_width
  layer += s.attention_bias * (queries + 2 * keys) + s.output_bias * w + s.mlp_bias * (2 * s.mlp_width + w)
  return embedding + s.depth * (layer + s.query_norm * 2 * s.head_width) + w
