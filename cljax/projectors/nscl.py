"""The null space of old layer inputs: updates along directions in which their covariance has next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from cljax.core import layers, tree
from cljax.core import layout as kernel_layout
from cljax.core.checks import check
from cljax.core.layout import fan_in
from cljax.core.opt_state import edit_states
from cljax.core.types import OptState, Scalar, UsageError
from cljax.projectors import _common as common
from cljax.projectors import _kernels


class NSCLState(NamedTuple):
  """Per kernel path: ``covariances [d_in, d_in]``, the sum of ``x x^T`` over all old inputs, and ``projections [d_in,
  d_in]``, symmetric: on the null space, or that over its Frobenius norm; ``ranks``, int32 dimensions of it."""

  covariances: dict[str, Any]
  projections: dict[str, Any]
  ranks: dict[str, Any]
  tasks: Any  # int32, extensions so far


def nscl(
  skip: Callable[[str], bool] | None = None, freeze_vectors: bool = True, layout: str | None = None
) -> optax.GradientTransformationExtraArgs:
  """Adam-NSCL's projection: ``V V^T U`` for the update U ``[d_in, c_out]`` of every kernel, V a basis of the
  approximate null space of the uncentred covariance of the layer's old inputs.

  Stands last in a chain: its promise is on what is applied. Empty at first, which leaves updates alone to the bit; it
  grows by :func:`nscl_extend`. A step costs ``2 d_in^2 c_out`` operations a kernel, the state ``2 d_in^2`` numbers.

  ``skip``, ``freeze_vectors``, ``layout`` and the errors are those of :func:`gpm`. Wang et al., CVPR 2021; spec E2.
  """
  kernel_layout.check("nscl", layout)

  def init(params):
    zero = lambda: jnp.zeros((), jnp.int32)
    if tree.is_placeholder(params):  # no part of the state is like the parameters
      return NSCLState(*(zero() for _ in range(4)))  # type: ignore[arg-type]
    state = NSCLState({}, {}, {}, zero())
    for name, x in _kernels.chosen("nscl", params, skip, layout).items():
      d = fan_in(x.shape, layout)
      column = kernel_layout.matrix(x, layout)[:, :1]
      state.covariances[name] = _kernels.zeros(column, (d, d), common.wide(x))
      state.projections[name], state.ranks[name] = jnp.eye(d, dtype=common.wide(x)), jnp.full((), d, jnp.int32)
    return state

  def update(updates, state, params=None, **extra):
    del params, extra
    sizes = {n: (len(p), None) for n, p in state.projections.items()}
    _kernels.check_names("nscl", updates, sizes, skip, layout)

    def project(name, u):
      if name not in state.projections:
        return _kernels.hold(name, u, freeze_vectors, skip, state.tasks > 0)
      p = state.projections[name]
      moved = layers.product(p, kernel_layout.matrix(u, layout).astype(p.dtype))
      return jnp.where(state.tasks > 0, kernel_layout.unmatrix(moved, u, layout), u)

    return tree.map_named(project, updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def nscl_extend(
  opt_state: OptState,
  covariances: Mapping[str, Any],
  threshold: Scalar = 10.0,
  floor: Scalar = 0.0,
  norm: str = "none",
) -> OptState:
  """Takes ``covariances {kernel path: X^T X [d_in, d_in]}`` of a task's layer inputs X ``[n, d_in]`` into the sum over
  tasks, and has V span its eigenvectors of eigenvalues ``<= threshold * max(least, floor * largest)``.

  Args:
    threshold: at least 1, the paper's a: larger leaves more to learn with, and protects less.
    floor: in [0, 1], a share of the largest eigenvalue below which one counts as 0, and ``d eps``, rounding, if that
      is more: where inputs do not span their space the least eigenvalue is noise, whose multiples miss most of it.
    norm: 'none' or 'frobenius': ``V V^T`` over its Frobenius norm, the square root of the null space's dimension, as
      in the released code, where so the learning rate depends on it.

  Where all inputs so far are zeros V spans everything. Raises UsageError for a missing path, another size, no
  :class:`NSCLState` or an option out of its range.
  """
  check("threshold", threshold, ">= 1", lambda v: v >= 1)
  check("floor", floor, "0 to 1", lambda v: (v >= 0) & (v <= 1))
  if norm not in ("none", "frobenius"):
    raise UsageError(f"norm: got {norm!r}; allowed: 'none', 'frobenius'")

  def extend(state: NSCLState) -> NSCLState:
    out = NSCLState({}, {}, {}, state.tasks + 1)
    for name, old in state.covariances.items():
      if name not in covariances or jnp.shape(covariances[name]) != old.shape:
        got = jnp.shape(covariances[name]) if name in covariances else "missing"
        raise UsageError(f"covariances: {name!r} is {got}; expected {list(old.shape)}, or exclude the kernel by skip=")
      out.covariances[name] = old + jnp.asarray(covariances[name]).astype(old.dtype)
      out.projections[name], out.ranks[name] = null_space(out.covariances[name], threshold, floor, norm)
    return out

  return edit_states(opt_state, NSCLState, extend, "nscl_extend")


def null_space(covariance, threshold, floor, norm: str):
  """``(V V^T, its rank)`` of the symmetric ``covariance [d, d]``, as :func:`nscl_extend` says."""
  peak = jnp.max(jnp.abs(covariance))
  values, vectors = jnp.linalg.eigh(covariance / jnp.where(peak > 0, peak, 1))
  values = jnp.maximum(values, 0)
  rounding = len(values) * jnp.finfo(values.dtype).eps
  least = jnp.maximum(values[0], jnp.maximum(jnp.asarray(floor, values.dtype), rounding) * values[-1])
  inside = values <= threshold * least
  v = vectors * inside.astype(vectors.dtype)[None]
  rank = jnp.sum(inside, dtype=jnp.int32)
  p = layers.product(v, v.T)
  return (p / jnp.sqrt(rank.astype(p.dtype)) if norm == "frobenius" else p), rank
