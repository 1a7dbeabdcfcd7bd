"""Small models for objectives other than classes: a matrix factorisation and a variational autoencoder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.checks import check_look_up
from cljax.core.types import Model, Outputs, UsageError
from cljax.models.adapters import from_apply


def _whole(**sizes) -> None:
  for name, size in sizes.items():
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
      raise UsageError(f"{name}: got {size!r}; expected an integer of at least 1")


def matrix_factorisation(users: int, items: int, dim: int = 16, scale: float = 0.1) -> Model:
  """``s_ui = <p_u, q_i> + b_i`` for rows (u, i) ``[B, 2]`` int, ``[B, 1]``; features ``p_u q_i``.

  ``users`` and ``items`` are numbered from 0; factors start as normal draws of std ``scale``, b at 0. Koren et al.
  2009. Raises UsageError for sizes below 1.
  """
  _whole(users=users, items=items, dim=dim)

  def init(key):
    draw = lambda name, count: scale * jax.random.normal(tree.fold(key, name), (count, dim))
    return {"user": draw("user", users), "item": draw("item", items), "bias": jnp.zeros(items)}

  def apply(params, x):
    both = params["user"][x[:, 0]] * params["item"][x[:, 1]]
    return Outputs((both.sum(-1) + params["bias"][x[:, 1]])[:, None], both)

  def check_rows(x):
    if getattr(x, "shape", ())[1:] != (2,):
      told = f"shape {x.shape[1:]}" if hasattr(x, "shape") else "several arrays"
      raise UsageError(f"model: matrix_factorisation takes rows (user, item); these have {told}")
    check_look_up("model.users", x[:, 0], users, "users")
    check_look_up("model.items", x[:, 1], items, "items")

  return from_apply(init, apply)._replace(check_rows=check_rows)


def perceptron(layers, x):
  """``[B, last width]``: what dense layers ``{"layer_0": {"kernel", "bias"}, ...}`` make of ``[B, D]``, ReLU
  between."""
  for i in range(len(layers)):
    x = (jax.nn.relu(x) if i else x) @ layers[f"layer_{i}"]["kernel"] + layers[f"layer_{i}"]["bias"][None]
  return x


def vae(input_shape: Sequence[int], latent: int = 8, hidden: Sequence[int] = (64,)) -> Model:
  """Multilayer perceptrons ``x -> (m, log v)`` and ``z -> reconstruction``; z is ``m + exp(log v / 2) e`` in training,
  m in evaluation.

  Inputs ``[B, *input_shape]``; the prediction is a dict of ``reconstruction [B, *input_shape]`` (logits, under a
  Bernoulli likelihood), ``mean`` and ``log_variance [B, latent]``, as :func:`cljax.objectives.reconstruction` takes it;
  features: m. The noise e is a row's own, drawn from the key by its place. Weights start as He et al. 2015. Kingma and
  Welling 2014. Raises UsageError for sizes below 1.
  """
  hidden, shape = tuple(hidden), tuple(input_shape)
  _whole(latent=latent, **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
  size = math.prod(shape)
  widths = {"encoder": (size, *hidden, 2 * latent), "decoder": (latent, *hidden[::-1], size)}

  def dense(key, rows, columns):
    return {"kernel": math.sqrt(2 / rows) * jax.random.normal(key, (rows, columns)), "bias": jnp.zeros(columns)}

  def init(key):
    layers = lambda name, of: {
      f"layer_{i}": dense(tree.fold(key, f"{name}_{i}"), a, b) for i, (a, b) in enumerate(itertools.pairwise(of))
    }
    return {name: layers(name, of) for name, of in widths.items()}

  def apply(params, x, *, train, key):
    mean, log_variance = jnp.split(perceptron(params["encoder"], x.reshape(x.shape[0], -1)), 2, -1)
    z = mean
    if train:
      draw = lambda place: jax.random.normal(jax.random.fold_in(tree.fold(key, "vae"), place), (latent,))
      z = mean + jnp.exp(0.5 * log_variance) * jax.vmap(draw)(jnp.arange(x.shape[0]))
    back = perceptron(params["decoder"], z).reshape(x.shape[0], *shape)
    return Outputs({"reconstruction": back, "mean": mean, "log_variance": log_variance}, mean)

  return from_apply(init, apply)
