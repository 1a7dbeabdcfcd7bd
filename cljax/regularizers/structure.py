"""Plasticity regularizers on the structure of each tensor: its top singular value, its distribution of values."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from cljax.core import layout as kernel_layout
from cljax.core.checks import check_count, check_scalar
from cljax.core.dtypes import wide
from cljax.core.tree import alike, by_path, is_placeholder, map_named, paths
from cljax.core.types import Array, Params, Scalar, Tree, UsageError
from cljax.regularizers._state import (
  add,
  align,
  check_covers,
  check_params,
  check_updates,
  each,
  gathered,
  keep,
  keep_zeros,
  label,
  laid_as,
  scalar,
  times,
)

_TINY = 1e-36  # of a squared length; a normal float32
_SCALES = ("scale", "gamma", "weight")  # the last path name of a 1-D leaf that is a normalisation scale


class SpectralState(NamedTuple):
  """The singular vectors of :func:`spectral`'s power iteration, one for each matrix."""

  name: Any
  vectors: Any  # left singular vector estimate of each matrix; a scalar 0 for other leaves


class WassersteinState(NamedTuple):
  """The sorted initial values that :func:`wasserstein` pulls to, flat, one array for each tensor."""

  name: Any
  anchor: Any  # each tensor's initial values, sorted
  partners: Any = ()  # where they are kept for some updates: the initial value that each parameter is pulled to
  age: Any = ()  # then: int32, updates since they were looked for


def _kind(name: str, leaf) -> str:
  if jnp.ndim(leaf) >= 2:
    return "matrix"
  return "scale" if jnp.ndim(leaf) == 1 and name.rpartition("/")[2] in _SCALES else "bias"


def _told(owner: str, params, layout) -> None:
  """Refuses Equinox's convolutions without a layout; the singular values of a matrix are those of its transpose."""
  kernel_layout.check(owner, layout)
  if any(jnp.ndim(x) > 2 for x in jax.tree.leaves(params)):
    kernel_layout.told(owner, params, layout)


def _unit(vector, otherwise):
  square = jnp.sum(jnp.square(vector))
  some = square > _TINY
  return jnp.where(some, vector / jnp.sqrt(jnp.where(some, square, 1.0)), otherwise)


def _iterate(matrix, left):
  """One power iteration: the new left vector, the right vector and ``sigma = left' W right``."""
  right = _unit(left @ matrix, jnp.zeros(matrix.shape[1], matrix.dtype))
  left = _unit(matrix @ right, left)
  return left, right, jnp.sum(left * (matrix @ right))


def _power(size, exponent):
  """``size ** exponent`` for ``size >= 0``; at 0 it is 1 where the exponent is 0, else 0, and its derivative is 0."""
  some, exponent = size > 0, jnp.asarray(exponent).astype(size.dtype)
  return jnp.where(some, jnp.where(some, size, 1.0) ** exponent, (exponent == 0).astype(size.dtype))


def spectral_penalty(params: Params, strength: Scalar = 1.0, power: Scalar = 2, layout: str | None = None) -> Array:
  """``strength * [sum_W (sigma_1(W)^k - 1)^2 + sum_scale (|gamma|^k - 1)^2 + sum_bias ||b||^(2k)]``, by exact SVD.

  ``k = power``. Kernels of more than two axes are merged to [inputs, output], by ``layout`` as in :func:`spectral`. A
  1-D leaf called ``scale``, ``gamma`` or ``weight`` is a normalisation scale, another a bias. Not for sharded leaves
  (SVD).
  """
  _told("spectral_penalty", params, layout)
  total = jnp.zeros(())
  for name, leaf in zip(paths(params), jax.tree.leaves(params), strict=True):
    x = leaf.astype(wide(leaf.dtype))
    match _kind(name, leaf):
      case "matrix":
        total += jnp.square(jnp.linalg.norm(kernel_layout.matrix(x, layout), 2) ** power - 1)
      case "scale":
        total += jnp.sum(jnp.square(jnp.abs(x) ** power - 1))
      case _:
        total += jnp.sum(jnp.square(x)) ** power
  return strength * total


def spectral(
  strength: Scalar, power: Scalar = 2, name: str = "spectral", layout: str | None = None
) -> optax.GradientTransformationExtraArgs:
  """Spectral regularization: adds the gradient of ``spectral_penalty``; for a kernel ``2k s^(k-1) (s^k - 1) u v'``.

  ``s, u, v`` by one power iteration a step, warm-started from the state (ten iterations at init). It pulls small
  layers up as well as large ones down, from the first task on. The exponent's place, ``power=2``, the treatment of
  normalisation scales and of convolutions (merged to two axes, inputs and output) are UNVERIFIED. Exclude leaves with
  ``optax.masked``. power: k >= 1. layout: 'in_out' (``[..., c_in, c_out]``, as Flax has it) or 'out_in' (``[c_out,
  c_in, ...]``, as Equinox and PyTorch have it); it matters for kernels of more than two axes alone, and None refuses
  those in an Equinox module. Raises UsageError: no parameters, no ``params`` in update, strength below 0, power below
  1, complex parameters. Lewandowski et al. 2025.
  """
  check_scalar(name, "strength", strength)
  check_scalar(name, "power", power, 1.0)

  def init(params):
    check_covers(name, params, complex_ok=False)
    _told(name, params, layout)

    def start(path, leaf):
      if _kind(path, leaf) != "matrix":
        return jnp.zeros((), wide(leaf.dtype))
      matrix = kernel_layout.matrix(gathered(leaf).astype(wide(leaf.dtype)), layout)
      left = jax.random.normal(jax.random.key(0), (matrix.shape[0],), matrix.dtype)
      return jax.lax.fori_loop(0, 10, lambda _, l: _iterate(matrix, l)[0], _unit(left, left))

    if is_placeholder(params):
      return SpectralState(label(name), scalar(0.0))  # one leaf for the whole tree: these are no parameters
    return SpectralState(label(name), map_named(start, params))

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, updates)
    check_updates(name, updates, state.vectors, shapes=False)

    def pull(kind, update, param, left):
      if update is None:
        return update, left
      x = gathered(param).astype(wide(param.dtype))
      if kind == "matrix" and kernel_layout.fan_in(x.shape, layout) != left.size:
        raise UsageError(f"{name}: params has a kernel of shape {x.shape}; its state is of {left.size} inputs")
      match kind:
        case "matrix":
          left, right, sigma = _iterate(kernel_layout.matrix(x, layout), left)
          slope = times(2.0 * power, _power(sigma, power - 1.0)) * (_power(sigma, power) - 1.0)
          grad = kernel_layout.unmatrix(slope * left[:, None] * right[None, :], x, layout)
        case "scale":
          size = jnp.abs(x)
          grad = times(2.0 * power, _power(size, power - 2.0)) * (_power(size, power) - 1.0) * x
        case _:
          grad = times(2.0 * power, _power(jnp.sum(jnp.square(x)), power - 1.0)) * x
      return add(update, laid_as(times(strength, grad), param)), left

    structure: Any
    leaves, structure = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
    kinds, *others = map(structure.flatten_up_to, (map_named(_kind, params), params, state.vectors))
    pairs = [pull(*four) for four in zip(kinds, leaves, *others, strict=True)]
    new, vectors = (structure.unflatten(side) for side in zip(*pairs, strict=True))
    return new, state._replace(vectors=vectors)

  return optax.GradientTransformationExtraArgs(init, update)


def _sorted(leaf):
  return jnp.sort(gathered(leaf).reshape(-1))


def _order_keys(x):
  """Integers that sort as the floats of ``x`` do: XLA on CPU sorts floats in 7 times the time of integers."""
  kind = jnp.dtype(f"int{8 * x.dtype.itemsize}")
  bits = jax.lax.bitcast_convert_type(x, kind)
  return jnp.where(bits < 0, bits ^ jnp.iinfo(kind).max, bits)


def _partners(x, anchor):
  """For each entry of ``x`` the entry of the sorted ``anchor`` at its rank; equal entries get the mean of theirs."""
  flat = x.reshape(-1)
  keys = _order_keys(flat)
  ordered = jax.lax.sort(keys, is_stable=False)
  run = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]]).astype(jnp.int32))
  total = lambda v: jax.ops.segment_sum(v, run, flat.size, indices_are_sorted=True)
  mean = total(anchor.astype(flat.dtype)) / jnp.maximum(total(jnp.ones_like(flat)), 1)
  return mean[run[jnp.searchsorted(ordered, keys)]].reshape(x.shape)


def _as_params(anchor, params):
  """``anchor`` whose flat leaves ``[n]`` have the shape of the parameter of their path, where that has n numbers."""
  if alike(anchor, params):
    return anchor
  shapes = {p: jnp.shape(x) for p, x in by_path(params).items()}
  one = lambda p, x: x.reshape(shapes[p]) if p in shapes and jnp.shape(x) == (math.prod(shapes[p]),) else x
  return {p: one(p, x) for p, x in by_path(anchor).items()}


def wasserstein_penalty(params: Params, anchor: Tree, strength: Scalar = 1.0) -> Scalar:
  """``strength * sum_tensors sum_i (theta_(i) - anchor_(i))^2`` over order statistics: squared 1-D Wasserstein-2.

  anchor: parameters, or the ``anchor`` of :func:`wasserstein`'s state, whose leaves are flat and sorted. Raises
  UsageError where a leaf is missing or of another size.
  """
  anchor = align(_as_params(anchor, params), params, "wasserstein_penalty", "anchor")
  square = lambda p, a: jnp.sum(jnp.square(_sorted(p.astype(wide(p.dtype))) - _sorted(a)))
  return strength * sum(jax.tree.leaves(jax.tree.map(square, params, anchor)))


def wasserstein(
  strength: Scalar, name: str = "wasserstein", state_dtype: DTypeLike | None = None, refresh: int = 1
) -> optax.GradientTransformationExtraArgs:
  """Pulls each tensor's sorted values to its sorted initial values: gradient ``2 * strength * (t_j - t0_(rank j))``.

  Which weight holds which value is free: a permutation of the initial tensor costs nothing. Equal weights share
  the mean of their partners (the subgradient that treats them alike). A sort per tensor and step; a sharded leaf is
  gathered for it. State: the sorted parameters given to ``init``.

  refresh: sort on the first of so many updates alone; on the others each weight is pulled to the value that it was
  paired with then (the pairing stays the nearest one until weights pass one another; the paper sorts at each). Above 1
  the state holds these values too, as many numbers again. An edit that ``follow_edit`` is told of is followed by a
  sort. Under ``vmap`` it sorts at each all the same. Raises as ``spectral``, and for ``refresh`` below 1.
  Lewandowski et al. 2024 (arXiv 2406.06811v1).
  """
  check_scalar(name, "strength", strength)
  check_count(f"{name}: refresh", refresh)

  def init(params):
    check_covers(name, params, complex_ok=False)
    kept = (keep_zeros(params), jnp.zeros((), jnp.int32)) if refresh > 1 else ()
    if is_placeholder(params):
      return WassersteinState(label(name), scalar(0.0), *kept)  # sorted values are no parameters: one leaf for all
    return WassersteinState(label(name), jax.tree.map(_sorted, keep(params, state_dtype)), *kept)

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, updates)
    check_updates(name, updates, state.anchor, shapes=False)

    def paired(param, anchor):
      x = gathered(param).astype(wide(param.dtype))
      if x.size != anchor.size:
        raise UsageError(f"{name}: params has a leaf of shape {x.shape}; its state is of {anchor.size} numbers")
      return laid_as(_partners(x, anchor), param)

    partners = lambda: each(lambda _, p, a: paired(p, a), updates, params, state.anchor)
    pull = lambda u, p, near: add(u, times(2.0 * strength, p.astype(near.dtype) - near))
    if isinstance(state.partners, tuple) and not state.partners:  # 1 where the state was made
      return each(pull, updates, params, partners()), state
    near = jax.lax.cond(state.age == 0, partners, lambda: state.partners)
    return each(pull, updates, params, near), state._replace(partners=near, age=(state.age + 1) % refresh)

  return optax.GradientTransformationExtraArgs(init, update)
