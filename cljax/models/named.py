"""Models of other inputs than one array of numbers, under the names that a configuration has for them.

Each takes ``(input_shape, num_classes, **options)`` as the zoo's do: the shape of a row (of inputs that are a dict, one
of shapes by name), and what the data ask of a model's outputs (of tokens: the size of their vocabulary).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from cljax.core.types import Model, UsageError
from cljax.models import diffusion, generating
from cljax.models import transformer as texts
from cljax.models.decoder import build as decoders
from cljax.models.decoder import folder as folders
from cljax.models.decoder.shape import count


def array(name: str, input_shape) -> tuple[int, ...]:
  """The shape of a row that is one array; UsageError for a dict."""
  if isinstance(input_shape, dict):
    raise UsageError(
      f"model: {name} takes inputs that are one array; these are several: {', '.join(sorted(input_shape))}"
    )
  return tuple(input_shape)


def vae(input_shape, num_classes: int, latent: int = 8, hidden=(64,)) -> Model:
  """:func:`cljax.models.vae` for rows of this shape."""
  del num_classes
  return generating.vae(array("vae", input_shape), latent, hidden)


def matrix_factorisation(
  input_shape, num_classes: int, users: int = 0, items: int = 0, dim: int = 16, scale: float = 0.1
) -> Model:
  """:func:`cljax.models.matrix_factorisation`; ``users`` and ``items`` have to be given."""
  del num_classes
  if array("matrix_factorisation", input_shape) != (2,):
    raise UsageError(f"model: matrix_factorisation takes rows (user, item); these have shape {tuple(input_shape)}")
  return generating.matrix_factorisation(users, items, dim, scale)


def transformer(
  input_shape,
  num_classes: int,
  width: int = 64,
  depth: int = 2,
  heads: int = 4,
  mlp_ratio: int = 2,
  dropout: float = 0.0,
  activation: str = "gelu",
) -> Model:
  """:func:`cljax.models.transformer` over the tokens of the data, of the length of a row."""
  length = _length("transformer", input_shape)
  return texts.transformer(length, num_classes, width, depth, heads, mlp_ratio, dropout, activation)


def decoder(
  input_shape,
  num_classes: int,
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
  """:func:`cljax.models.decoder` over the tokens of the data, of the length of a row."""
  length = _length("decoder", input_shape)
  return decoders.decoder(
    length, num_classes, width, depth, heads, kv_heads, mlp_width, rope_base, epsilon, tied, layout, remat
  )


def pretrained_decoder(
  input_shape, num_classes: int, folder: str = "", dtype: str = "float32", remat: bool = False
) -> Model:
  """:func:`cljax.models.pretrained_decoder` over the tokens of the data; ``folder`` has to be given."""
  _fits(folder, _length("pretrained_decoder", input_shape), num_classes)
  return folders.pretrained_decoder(folder, dtype, remat)


def _fits(folder: str, length: int, num_classes: int):
  """The shape of a folder's model; UsageError where it has no place for the data's tokens."""
  if not folder:
    raise UsageError("folder: not given; expected a Hugging Face folder with config.json and model.safetensors")
  shape = folders.folder_shape(folder)
  if length > shape.length:
    raise UsageError(f"folder: its model has {shape.length} positions; the data hold rows of {length} tokens")
  if num_classes > shape.vocabulary:
    raise UsageError(f"folder: its model has {shape.vocabulary} tokens; the data hold tokens up to {num_classes - 1}")
  return shape


def denoiser(input_shape, num_classes: int, hidden=(256, 256), conditions: int = 0) -> Model:
  """:func:`cljax.models.denoiser` for inputs of this shape, or for a dict's 'x'."""
  del num_classes
  shape = input_shape.get("x") if isinstance(input_shape, dict) else input_shape
  if shape is None:
    raise UsageError(f"model: denoiser takes one array, or a dict with 'x'; these are {_told(input_shape)}")
  return diffusion.denoiser(shape, hidden, conditions)


NAMED: dict[str, Callable[..., Model]] = {
  "vae": vae, "matrix_factorisation": matrix_factorisation, "transformer": transformer, "denoiser": denoiser,
  "decoder": decoder, "pretrained_decoder": pretrained_decoder,
}  # fmt: skip


def _length(name: str, input_shape) -> int:
  """Tokens in a row."""
  shape = input_shape.get("token") if isinstance(input_shape, dict) else input_shape
  if shape is None or len(shape) != 1:
    raise UsageError(f"model: {name} takes tokens [L], or a dict with 'token'; these are {_told(input_shape)}")
  return shape[0]


def _told(input_shape) -> str:
  return ", ".join(sorted(input_shape)) if isinstance(input_shape, dict) else f"of shape {tuple(input_shape)}"


def parameters(name: str, input_shape, num_classes: int, values: dict[str, Any]) -> int:
  """How many parameters a model of NAMED has, by arithmetic alone."""
  dense = lambda *widths: sum((a + 1) * b for a, b in itertools.pairwise(widths))
  size = lambda shape: int(np.prod(shape))
  if name == "vae":
    n, latent, hidden = size(array(name, input_shape)), values["latent"], tuple(values["hidden"])
    return dense(n, *hidden, 2 * latent) + dense(latent, *hidden[::-1], n)
  if name == "matrix_factorisation":
    return (values["users"] + values["items"]) * values["dim"] + values["items"]
  if name == "denoiser":
    x = input_shape.get("x", ()) if isinstance(input_shape, dict) else input_shape
    conditions, inner = values["conditions"], 2 * diffusion.WAVES
    given = size(x) + inner * (2 if conditions else 1)
    return dense(given, *values["hidden"], size(x)) + (inner * (conditions + 1) if conditions else 0)
  if name == "pretrained_decoder":
    return count(_fits(values["folder"], _length(name, input_shape), num_classes))
  if name == "decoder":
    sizes = {k: v for k, v in values.items() if k != "remat"}
    return count(decoders.sized(_length(name, input_shape), num_classes, **sizes))
  w, inner = values["width"], values["mlp_ratio"] * values["width"]
  length = input_shape.get("token", (1,)) if isinstance(input_shape, dict) else input_shape
  layer = 4 * w + dense(w, 3 * w) + dense(w, w) + dense(w, inner, w)
  return num_classes * w + size(length) * w + values["depth"] * layer + 2 * w + dense(w, num_classes)
