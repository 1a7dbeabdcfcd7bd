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
  shape = input_shape.get("token") if isinstance(input_shape, dict) else input_shape
  if shape is None or len(shape) != 1:
    raise UsageError(f"model: transformer takes tokens [L], or a dict with 'token'; these are {_told(input_shape)}")
  return texts.transformer(shape[0], num_classes, width, depth, heads, mlp_ratio, dropout, activation)


def denoiser(input_shape, num_classes: int, hidden=(256, 256), conditions: int = 0) -> Model:
  """:func:`cljax.models.denoiser` for inputs of this shape, or for a dict's 'x'."""
  del num_classes
  shape = input_shape.get("x") if isinstance(input_shape, dict) else input_shape
  if shape is None:
    raise UsageError(f"model: denoiser takes one array, or a dict with 'x'; these are {_told(input_shape)}")
  return diffusion.denoiser(shape, hidden, conditions)


NAMED: dict[str, Callable[..., Model]] = {
  "vae": vae, "matrix_factorisation": matrix_factorisation, "transformer": transformer, "denoiser": denoiser,
}  # fmt: skip


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
  w, inner = values["width"], values["mlp_ratio"] * values["width"]
  length = input_shape.get("token", (1,)) if isinstance(input_shape, dict) else input_shape
  layer = 4 * w + dense(w, 3 * w) + dense(w, w) + dense(w, inner, w)
  return num_classes * w + size(length) * w + values["depth"] * layer + 2 * w + dense(w, num_classes)
