"""The inside of :func:`cljax.models.from_nnx`."""

from __future__ import annotations

import functools
import inspect
import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cljax.core import tree
from cljax.core.types import Model, UsageError
from cljax.models.linen import calling, rows_of_tasks, with_fields


class _MaskedBatchNorm(nnx.BatchNorm):
  """Stands in for a BatchNorm during one call; ``row_mask`` is set on the instance."""

  row_mask: Any

  def __call__(self, x, use_running_average=None, *, mask=None):
    self.row_mask.set_metadata(met=True)
    if mask is None:
      rows = self.row_mask[...]
      if x.shape[0] != len(rows):
        raise UsageError(f"mask: has {len(rows)} rows, but a BatchNorm input has leading size {x.shape[0]}")
      mask = rows.reshape(-1, *(1,) * (x.ndim - 1))
    return super().__call__(x, use_running_average, mask=mask)


class _RowMask(nnx.Variable):
  pass


@functools.cache
def _masked(kind: Any) -> type:
  """``kind``, a BatchNorm, whose ``super().__call__`` is the masked one: what a subclass does beside it stays."""
  return _MaskedBatchNorm if kind is nnx.BatchNorm else types.new_class(kind.__name__, (kind, _MaskedBatchNorm))


def _warn(kind: type, what: str) -> None:
  warnings.warn(
    f"{kind.__name__} {what}, so its training statistics may count rows of weight 0, which should be as if absent; "
    "take mask= in the model's __call__ and leave them out there",
    stacklevel=2,
  )


def _mask_norms(live, rows, by_itself: bool) -> list:
  """Hands ``rows`` to every BatchNorm, subclasses too; returns ``(class, its mask)`` of those with a call of their own.

  Unless the model takes the mask ``by_itself``, warns of other modules that keep batch statistics.
  """
  own = []
  for _, node in nnx.iter_graph(live):
    kind: Any = type(node)
    if isinstance(node, nnx.BatchNorm):
      node.__class__ = _masked(kind)
      node.row_mask = _RowMask(rows, met=False)  # type: ignore[attr-defined]
      if kind.__call__ is not nnx.BatchNorm.__call__:
        own.append((kind, node.row_mask))  # type: ignore[attr-defined]
      continue
    foreign = isinstance(node, nnx.Module) and not kind.__module__.startswith("flax.") and not by_itself
    if foreign and any(isinstance(v, nnx.BatchStat) for v in vars(node).values()):
      _warn(kind, "keeps batch statistics and is no nnx.BatchNorm")
  return [] if by_itself else own


def _parts(module):
  """``graphdef, params, random state, the rest``; sown intermediates are dropped."""
  nnx.pop(module, nnx.Intermediate)
  return nnx.split(module, nnx.Param, nnx.RngState, ...)


def _filled(template, values):
  """A State of ``template``'s structure with the arrays of a plain dict."""
  state = jax.tree.map(lambda v: v, template)
  nnx.replace_by_pure_dict(state, values)
  return state


def adapt(module, units, by_task: bool = False) -> Model:
  if isinstance(module, nnx.Module):
    built = module
    make = lambda key: module
  else:
    make = lambda key: module(nnx.Rngs(key))
    built = nnx.eval_shape(lambda: make(jax.random.key(0)))
    if not isinstance(built, nnx.Module):
      raise UsageError(f"module: got {type(built).__name__}; give an nnx.Module or a function rngs -> nnx.Module")
  graphdef, like_params, like_rngs, like_rest = _parts(built)
  keywords, for_rows = calling(type(built)), rows_of_tasks(type(built), by_task)
  takes_mask = "mask" in inspect.signature(type(built).__call__).parameters

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
    some, own = None, []
    if train and mask is not None:
      some = (mask > 0).any()
      own = _mask_norms(live, (mask > 0) | ~some, takes_mask)  # the mean over no rows would be 0/0
    out = with_fields(live(x, **keywords(train, for_rows(task, x), mask)))
    for kind, rows in own:
      if not rows.met:
        _warn(kind, "is an nnx.BatchNorm that does not call super().__call__")
    if not train:
      return out, model_state
    new = nnx.to_pure_dict(nnx.state(live, nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate, _RowMask))))
    return out, new if some is None else jax.tree.map(lambda a, b: jnp.where(some, a, b), new, model_state)

  return Model(init, apply, None, tuple(units), by_task=by_task)
