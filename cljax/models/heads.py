"""Heads on a model's features: a classifier of cosines in place of the model's own, and a small network beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.types import Model, Spec, UsageError


def unit(a, axis: int = -1):
  """``a / |a|`` along an axis, in float32; 0 where it is 0, with derivative 0."""
  a = a.astype(jnp.float32)
  square = jnp.sum(jnp.square(a), axis=axis, keepdims=True)
  return a * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def distance(a, b):
  """``|a - b|`` along the last axis, of numbers of size 1; below 1e-6, which is float32's rounding, 0 with slope 0: the
  slope of a norm has size 1 however small it is, and its direction would be that of the rounding."""
  square = jnp.sum(jnp.square(a - b), axis=-1)
  some = square > 1e-12
  return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)


def flat(features):
  """``[B, D]`` float32."""
  return features.reshape(features.shape[0], -1).astype(jnp.float32)


def width_of(model: Model, spec: Spec, owner: str) -> int:
  """How many features a row has; UsageError for a model that gives none, named by ``owner``."""
  row = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), spec.shown)
  told = {"task": jnp.zeros(1, jnp.int32) if model.by_task else None, "mask": None}

  def features(params, state, x):
    out, _ = model.apply(params, state, x, train=False, key=jax.random.key(0), **told)
    if out.features is None:
      raise UsageError(f"method.name: {owner!r} needs a model that returns features (Outputs.features is None)")
    return flat(out.features)

  return jax.eval_shape(features, *jax.eval_shape(model.init, jax.random.key(0)), row).shape[-1]


def _on(model: Model, name: str, init: Callable, answer: Callable | None, features: Callable | None = None) -> Model:
  """The model with parameters ``{"network": its own, name: init(key)}``; ``answer(head, outputs)`` are the logits, and
  ``features(head, outputs)`` the features."""

  def start(key):
    params, state = model.init(key)
    return {"network": params, name: init(tree.fold(key, name))}, state

  def apply(params, model_state, x, **told):
    out, model_state = model.apply(params["network"], model_state, x, **told)
    changed = {f: fn(params[name], out) for f, fn in (("logits", answer), ("features", features)) if fn is not None}
    return out._replace(**changed), model_state

  return Model(start, apply, by_task=model.by_task, check_rows=model.check_rows)


def cosines(head, features):
  """``[B, C]``: of each class ``sum_k softmax_k(c_k) c_k``, c_k the cosines of the features and its K directions."""
  each = jnp.einsum("bd,dck->bck", unit(flat(features)), unit(head["directions"], axis=0))
  return jnp.sum(jax.nn.softmax(each, axis=-1) * each, axis=-1)


def cosine_classifier(
  model: Model, spec: Spec, owner: str, directions: int = 1, scale=1.0, learned: bool = True
) -> Model:
  """The model whose logits are ``scale * cosines``: its ``Outputs.features`` against ``directions`` of each class.

  Parameters are ``{"network": ..., "cosine": {"directions" [D, C, K], "scale" []}}``; the scale is learned, or not
  (``learned``) and then no parameter. The network's own classifier stays where it began. Several directions: the local
  similarity classifier of Douillard et al., 2020.
  """
  width = width_of(model, spec, owner)

  def init(key):
    shape, bound = (width, spec.num_classes, directions), width**-0.5
    head = {"directions": jax.random.uniform(key, shape, jnp.float32, -bound, bound)}
    return {**head, "scale": jnp.asarray(scale, jnp.float32)} if learned else head

  return _on(model, "cosine", init, lambda head, out: head.get("scale", scale) * cosines(head, out.features))


def products(head, features):
  """``[B, C]``: of each class the product of the features and its direction, neither normalised; of one direction."""
  return flat(features) @ head["directions"].astype(jnp.float32)[..., 0]


def product_classifier(model: Model, spec: Spec, owner: str) -> Model:
  """The model whose logits are :func:`products`, without a bias; parameters ``{"network": ..., "cosine": {"directions"
  [D, C, 1]}}`` as :func:`cosine_classifier` has them, so that :func:`cosines` of them are the angles."""
  width = width_of(model, spec, owner)

  def init(key):
    shape, bound = (width, spec.num_classes, 1), width**-0.5
    return {"directions": jax.random.uniform(key, shape, jnp.float32, -bound, bound)}

  return _on(model, "cosine", init, lambda head, out: products(head, out.features))


def linear(head, features):
  """``[B, C]``: ``f W + b``."""
  return flat(features) @ head["kernel"].astype(jnp.float32) + head["bias"].astype(jnp.float32)[None]


def linear_classifier(model: Model, spec: Spec, owner: str) -> Model:
  """The model whose logits are :func:`linear` in its features; parameters ``{"network": ..., "linear": {"kernel"
  [D, C], "bias" [C]}}``, which begin at 0. The network's own classifier stays where it began."""
  width = width_of(model, spec, owner)

  def init(key):
    del key
    return {"kernel": jnp.zeros((width, spec.num_classes)), "bias": jnp.zeros(spec.num_classes)}

  return _on(model, "linear", init, lambda head, out: linear(head, out.features))


def projected(head, features):
  """``[B, W]`` of norm 1: ``relu(f A + a) B + b``."""
  hidden = jax.nn.relu(flat(features) @ head["hidden"]["kernel"] + head["hidden"]["bias"][None])
  return unit(hidden @ head["out"]["kernel"] + head["out"]["bias"][None])


def with_projection(model: Model, spec: Spec, owner: str, width: int = 128) -> Model:
  """The model with the parameters ``{"network": ..., "projection": ...}`` of :func:`projected`, from its D features by
  D hidden units to ``width``; its own outputs stay."""
  inner = width_of(model, spec, owner)

  def init(key):
    def layer(name, size):
      kernel = jax.nn.initializers.he_normal()(tree.fold(key, name), (inner, size), jnp.float32)
      return {"kernel": kernel, "bias": jnp.zeros(size, jnp.float32)}

    return {"hidden": layer("hidden", inner), "out": layer("out", width)}

  return _on(model, "projection", init, None)


def beside(model: Model, name: str, init: Callable) -> Model:
  """The model with the parameters ``{"network": its own, name: init(key)}``; its own outputs stay."""
  return _on(model, name, init, None)


def dense_layers(key, widths: Sequence[int]):
  """``{"layer_0": {"kernel", "bias"}, ...}`` of :func:`cljax.models.generating.perceptron`: weights as He et al. 2015,
  biases 0."""
  made = {}
  for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
    kernel = jax.nn.initializers.he_normal()(tree.fold(key, f"layer_{i}"), (rows, columns), jnp.float32)
    made[f"layer_{i}"] = {"kernel": kernel, "bias": jnp.zeros(columns, jnp.float32)}
  return made


def embedded(head, features):
  """``[B, W]`` of norm 1: :func:`linear` of the features."""
  return unit(linear(head, features))


def with_embedding(model: Model, spec: Spec, owner: str, width: int, replaces: bool = False) -> Model:
  """The model with the parameters ``{"network": ..., "embedding": {"kernel" [D, W], "bias" [W]}}`` of
  :func:`embedded`; its own outputs stay, or (``replaces``) what that gives are its features."""
  inner = width_of(model, spec, owner)

  def init(key):
    kernel = jax.random.normal(key, (inner, width), jnp.float32) * inner**-0.5
    return {"kernel": kernel, "bias": jnp.zeros(width, jnp.float32)}

  return _on(model, "embedding", init, None, (lambda head, out: embedded(head, out.features)) if replaces else None)
