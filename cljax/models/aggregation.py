"""One learned token that gathers what the places of a picture say, in the place of a mean over them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.types import Model, Spec, UsageError

RATIO, EPS = 4, 1e-5


def _normed(x, layer):
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + EPS) * layer["scale"] + layer["bias"]


def _dense(x, layer):
  return x @ layer["kernel"] + layer["bias"]


def class_attention(block, places, heads: int):
  """``s'' [B, D]`` of ``places [B, P, D]``: attention of one token s to itself and all places, then an MLP on it.

  ``X = [s; F]``, ``u = LN X``; the query is of s alone, keys and values of all, of ``heads`` heads; ``s' = s +
  proj(attended)``, ``s'' = s' + MLP(LN s')`` with GELU. No place has a position, so their order does not matter.
  """
  b, _, d = places.shape
  token = jnp.broadcast_to(block["token"], (b, 1, d))
  u = _normed(jnp.concatenate([token, places], 1), block["norm_0"])
  split = lambda a: a.reshape(*a.shape[:-1], heads, d // heads)
  q, k, v = split(u[:, 0] @ block["query"]), split(u @ block["key"]), split(u @ block["value"])
  share = jax.nn.softmax(jnp.einsum("bhd,bphd->bhp", q, k) * (d // heads) ** -0.5, axis=-1)
  s = token[:, 0] + _dense(jnp.einsum("bhp,bphd->bhd", share, v).reshape(b, d), block["project"])
  inner = jax.nn.gelu(_dense(_normed(s, block["norm_1"]), block["mlp_in"]), approximate=False)
  return s + _dense(inner, block["mlp_out"])


def aggregated(model: Model, spec: Spec, owner: str, heads: int = 4) -> Model:
  """The model whose features are :func:`class_attention` of its last hidden layer's places, and logits linear in them.

  Parameters are ``{"network": ..., "aggregation": ...}``; the network's own classifier, and what it does behind that
  layer, stay where they began. Dong et al., 2023 (HFC's task-semantic block, one for all tasks). Raises UsageError,
  which names ``owner``, for a model without hidden layers, and where heads do not divide their width.
  """
  row = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), spec.shown)
  told = {"task": jnp.zeros(1, jnp.int32) if model.by_task else None, "mask": None}

  def last(outputs):
    if not outputs.hidden:
      raise UsageError(f"method.name: {owner!r} with aggregate needs a model that gives its hidden layers")
    h = outputs.hidden[-1]
    return h.reshape(h.shape[0], -1, h.shape[-1]).astype(jnp.float32)

  def look(params, state, x):
    return last(model.apply(params, state, x, train=False, key=jax.random.key(0), **told)[0])

  width = jax.eval_shape(look, *jax.eval_shape(model.init, jax.random.key(0)), row).shape[-1]
  if heads < 1 or width % heads:
    raise UsageError(f"method.heads: got {heads}; {owner} needs a divisor of the last hidden layer's width, {width}")

  def block(key):
    draw = lambda name, a, b: jax.nn.initializers.lecun_normal()(tree.fold(key, name), (a, b), jnp.float32)
    dense = lambda name, a, b: {"kernel": draw(name, a, b), "bias": jnp.zeros(b, jnp.float32)}
    norm = lambda: {"scale": jnp.ones(width, jnp.float32), "bias": jnp.zeros(width, jnp.float32)}
    return {
      "token": jnp.zeros(width, jnp.float32), "norm_0": norm(), "norm_1": norm(),
      **{name: draw(name, width, width) for name in ("query", "key", "value")},
      "project": dense("project", width, width), "mlp_in": dense("mlp_in", width, RATIO * width),
      "mlp_out": dense("mlp_out", RATIO * width, width), "head": dense("head", width, spec.num_classes),
    }  # fmt: skip

  def init(key):
    params, state = model.init(key)
    return {"network": params, "aggregation": block(tree.fold(key, "aggregation"))}, state

  def apply(params, model_state, x, **given):
    out, model_state = model.apply(params["network"], model_state, x, **given)
    features = class_attention(params["aggregation"], last(out), heads)
    return out._replace(logits=_dense(features, params["aggregation"]["head"]), features=features), model_state

  return Model(init, apply, by_task=model.by_task, check_rows=model.check_rows)
