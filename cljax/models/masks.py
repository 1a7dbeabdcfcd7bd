"""Supermasks in superposition: one learned mask a task over frozen random weights."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.types import Array, Model, Outputs, Scalar, Tree, UsageError
from cljax.models.tasks import by_row


def _kth_smallest_bits(bits, k):
  """The ``k``-th smallest (from 0) of non-negative int32: by bisection, which needs neither a sort nor a reshape."""

  def body(i, found):
    candidate = found | (jnp.int32(1) << (30 - i))
    return jnp.where(jnp.sum(bits < candidate) <= k, candidate, found)

  return jax.lax.fori_loop(0, 31, body, jnp.int32(0))


def smallest(size, among, count):
  """Bool: of the entries of ``size``, not negative, that are ``among`` the ``count`` smallest, and what is tied with
  the last of them; ``count`` int32, may be traced, at most how many there are. None where it is 0."""
  bits = jax.lax.bitcast_convert_type(size.astype(jnp.float32), jnp.int32)
  last = _kth_smallest_bits(jnp.where(among, bits, jnp.iinfo(jnp.int32).max), count - 1)
  return among & (bits <= last) & (count > 0)


@jax.custom_jvp
def _straight(size, mask):
  """``mask`` with the derivative of ``size``."""
  return mask


@_straight.defjvp
def _straight_jvp(primals, tangents):
  return primals[1], tangents[0]


def floor_of_share(share: Scalar, count: int) -> Scalar:
  """``floor(share * count)`` of a share that is written in decimals, of which a float holds a little more or less.

  An int of a Python number, else float32: where 0.53 of 100 is 52.999996, it is 53. Exact below 4 million.
  """
  near = share * count + min(count * 2.0**-23, 0.5)
  return int(near) if isinstance(share, (int, float)) else jnp.floor(near)


def top_mask(scores: Array, sparsity: Scalar) -> Array:
  """The mask that zeroes the ``floor(sparsity * n)`` smallest ``|scores|``; its gradient goes straight to ``|scores|``.

  Edge-popup (Ramanujan et al. 2020). ``sparsity`` in [0, 1) may be traced. Scores tied with the smallest kept are kept.
  """
  size = jnp.abs(scores)
  zeroed = floor_of_share(sparsity, size.size)
  # the bits of non-negative floats are ordered as the floats are
  bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(size).astype(jnp.float32), jnp.int32)
  mask = (bits >= _kth_smallest_bits(bits, zeroed)).astype(size.dtype)
  return _straight(size, mask)


def _under(frozen, scores: dict, mask_of):
  """Frozen weights, each times the mask made of its scores; leaves without scores as they are."""
  names, leaves = tree.paths(frozen), jax.tree.leaves(jax.lax.stop_gradient(frozen))
  made = [w * mask_of(scores[n]) if n in scores else w for n, w in zip(names, leaves, strict=True)]
  return jax.tree.unflatten(jax.tree.structure(frozen), made)


def masked(model: Model, num_tasks: int, sparsity: Scalar = 0.5) -> Model:
  """SupSup (Wortsman et al. 2020): frozen random weights, and for each task a mask that zeroes a ``sparsity`` share.

  Kernels (leaves of two or more axes) are signed constants, ``sign(w) * std(w)`` of the model's own initialisation;
  other leaves keep their initial values; none is trained, all live in ``model_state["frozen"]``. ``params`` are the
  scores, ``{kernel path: [T, *kernel]}``, drawn from U(-1, 1) / sqrt(fan_in); mask ``t`` is :func:`top_mask` of
  ``scores[t]``. ``apply`` needs ``task`` (a scalar, may be traced, or ``[B]``, see :func:`by_row`): only these tasks'
  scores get a gradient. Old scores still move under momentum or weight decay: whoever trains must hold them. BatchNorm
  statistics are kept one set a task.

  The released code calls the share that is *kept* sparsity; here it is the share of zeros. UsageError where ``apply``
  gets no task, and for sizes out of range.
  """
  if num_tasks < 1:
    raise UsageError(f"num_tasks: got {num_tasks}; must be at least 1")
  if isinstance(sparsity, (int, float)) and not 0 <= sparsity < 1:
    raise UsageError(f"sparsity: got {sparsity}; must lie in [0, 1)")

  def init(key):
    weights, inner = model.init(key)
    kernels = {n: w for n, w in zip(tree.paths(weights), jax.tree.leaves(weights), strict=True) if w.ndim > 1}
    noise = jax.random.uniform(
      tree.fold(key, "scores"), (num_tasks, sum(w.size for w in kernels.values())), minval=-1.0, maxval=1.0
    )
    scores, at = {}, 0
    for n, w in kernels.items():
      part = noise[:, at : at + w.size].reshape(num_tasks, *w.shape)
      scores[n], at = part / math.sqrt(math.prod(w.shape[:-1])), at + w.size
    frozen = jax.tree.map(lambda w: jnp.sign(w) * jnp.std(w) if w.ndim > 1 else w, weights)
    stacked = jax.tree.map(lambda v: jnp.broadcast_to(v, (num_tasks, *v.shape)), inner)
    return scores, {"frozen": frozen, "inner": stacked}

  def apply(scores, model_state, x, *, train, key, task=None, mask=None):
    if task is None:
      raise UsageError("task: a masked model needs the task of the rows; got None")
    params = _under(model_state["frozen"], scores, lambda s: top_mask(s[task], sparsity))
    inner = jax.tree.map(lambda v: v[task], model_state["inner"])
    out, new = model.apply(params, inner, x, train=train, key=key, task=task, mask=mask)
    if not train:
      return out, model_state
    return out, {**model_state, "inner": jax.tree.map(lambda v, n: v.at[task].set(n), model_state["inner"], new)}

  return by_row(Model(init, apply), num_tasks)


def mixture_apply(
  model: Model, scores: Tree, model_state: Tree, x: Tree, alphas: Array, sparsity: Scalar = 0.5
) -> Outputs:
  """Outputs under ``W * sum_t alphas[t] mask_t``, in eval mode; differentiable in ``alphas [T]``.

  ``model`` is the network that :func:`masked` was given. Task inference (GNu) takes the task whose weight most steeply
  lowers the outputs' entropy; weights of tasks not yet learned must be 0. BatchNorm statistics are mixed alike.
  """

  def mix(s):
    return jnp.tensordot(alphas, jax.vmap(lambda v: top_mask(v, sparsity))(s), 1)

  params = _under(model_state["frozen"], jax.lax.stop_gradient(scores), mix)
  inner = jax.tree.map(lambda v: jnp.tensordot(alphas, v, 1), model_state["inner"])
  return model.apply(params, inner, x, train=False, key=None)[0]
