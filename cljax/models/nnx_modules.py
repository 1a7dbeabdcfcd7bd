"""The inside of :func:`cljax.models.from_nnx`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cljax import tree
from cljax.models.linen import calling, with_fields
from cljax.types import Model, UsageError


class _MaskedBatchNorm(nnx.BatchNorm):
  """Stands in for a BatchNorm during one call; ``row_mask`` is set on the instance."""

  row_mask: Any

  def __call__(self, x, use_running_average=None, *, mask=None):
    if mask is None:
      mask = self.row_mask[...].reshape(-1, *(1,) * (x.ndim - 1))
    return super().__call__(x, use_running_average, mask=mask)


class _RowMask(nnx.Variable):
  pass


def _parts(module):
  """``graphdef, params, random state, the rest``; sown intermediates are dropped."""
  nnx.pop(module, nnx.Intermediate)
  return nnx.split(module, nnx.Param, nnx.RngState, ...)


def _filled(template, values):
  """A State of ``template``'s structure with the arrays of a plain dict."""
  state = jax.tree.map(lambda v: v, template)
  nnx.replace_by_pure_dict(state, values)
  return state


def adapt(module, units) -> Model:
  if isinstance(module, nnx.Module):
    built = module
    make = lambda key: module
  else:
    make = lambda key: module(nnx.Rngs(key))
    built = nnx.eval_shape(lambda: make(jax.random.key(0)))
    if not isinstance(built, nnx.Module):
      raise UsageError(f"module: got {type(built).__name__}; give an nnx.Module or a function rngs -> nnx.Module")
  graphdef, like_params, like_rngs, like_rest = _parts(built)
  keywords = calling(type(built))

  def init(key):
    _, params, _, rest = _parts(make(key))
    return tree.copy(nnx.to_pure_dict(params)), tree.copy(nnx.to_pure_dict(rest))

  def seeded(key):
    key = jax.random.key(0) if key is None else key
    leaves, treedef = jax.tree.flatten(like_rngs)
    is_key = [jnp.issubdtype(v.dtype, jax.dtypes.prng_key) for v in leaves]
    fresh = [
      jax.random.fold_in(key, i) if k else jnp.zeros(v.shape, v.dtype)
      for i, (k, v) in enumerate(zip(is_key, leaves, strict=True))
    ]
    return jax.tree.unflatten(treedef, fresh)

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    live = nnx.merge(graphdef, _filled(like_params, params), seeded(key), _filled(like_rest, model_state))
    if train:
      live.train()
    else:
      live.eval()
    some = None
    if train and mask is not None:
      some = (mask > 0).any()
      for _, node in nnx.iter_graph(live):
        if type(node) is nnx.BatchNorm:
          node.__class__ = _MaskedBatchNorm
          node.row_mask = _RowMask((mask > 0) | ~some)  # type: ignore[attr-defined]  # the mean over no rows would be 0/0
    out = with_fields(live(x, **keywords(train, task, mask)))
    if not train:
      return out, model_state
    new = nnx.to_pure_dict(nnx.state(live, nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate, _RowMask))))
    return out, new if some is None else jax.tree.map(lambda a, b: jnp.where(some, a, b), new, model_state)

  return Model(init, apply, None, tuple(units))
