"""Scaled gradient projection: GPM that leaves a part of each step in old inputs' span, the larger the less they need
it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import layout as kernel_layout
from cljax.core import tree
from cljax.core.checks import check, check_count
from cljax.core.layout import fan_in
from cljax.core.opt_state import edit_states
from cljax.core.types import OptState, Scalar, UsageError
from cljax.projectors import _common as common
from cljax.projectors import _kernels
from cljax.projectors.gpm import extend_basis


class SGPState(NamedTuple):
  """Per kernel path: ``bases [d_in, max_rank]`` (orthonormal columns, then zeros), ``importance [max_rank]`` in [0, 1],
  int32 ``ranks`` and ``dropped``."""

  bases: dict[str, Any]
  importance: dict[str, Any]
  ranks: dict[str, Any]
  dropped: dict[str, Any]  # directions that the threshold asked for and max_rank refused
  tasks: Any  # int32, extensions so far


def remove_scaled(basis, importance, rank, a):
  """``a - M diag(importance) M^T a`` for ``basis M [d, r]`` and ``a [d, n]``, at a cost that grows with ``rank``."""
  columns = basis.shape[1]
  width = min(64, columns)

  def block(i, out):
    first = jnp.minimum(i * width, columns - width)  # the last block may overlap the one before it
    own = first + jnp.arange(width, dtype=first.dtype) >= i * width
    m = jax.lax.dynamic_slice_in_dim(basis, first, width, 1)
    share = jnp.where(own, jax.lax.dynamic_slice_in_dim(importance, first, width, 0), 0)
    inner = jnp.matmul(m.T, a, precision=common.PRECISION)
    return out - jnp.matmul(m, share[:, None] * inner, precision=common.PRECISION)

  return jax.lax.fori_loop(0, (rank + width - 1) // width, block, a)


def sgp(
  max_rank: int | None = None,
  skip: Callable[[str], bool] | None = None,
  freeze_vectors: bool = True,
  layout: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """SGP: ``G - M diag(lambda) M^T G`` for every kernel ``G [d_in, c_out]``, M a basis of the layer's old inputs.

  ``lambda_i`` in [0, 1] says how much old tasks need direction i: at 1 it is closed, as in :func:`gpm`; below, ``1 -
  lambda_i`` of each step stays in it. Bases and importances start empty, which leaves gradients alone to the bit, and
  grow by :func:`sgp_extend` after each task. Arguments, places in a chain and errors are those of :func:`gpm`. Saha
  and Roy, AAAI 2023; spec E3.
  """
  if max_rank is not None:
    check_count("max_rank", max_rank)
  kernel_layout.check("sgp", layout)

  def init(params):
    zero = lambda: jnp.zeros((), jnp.int32)
    if tree.is_placeholder(params):  # no part of the state is like the parameters
      return SGPState(*(zero() for _ in range(5)))  # type: ignore[arg-type]
    state = SGPState({}, {}, {}, {}, zero())
    for name, x in _kernels.chosen("sgp", params, skip, layout).items():
      d = fan_in(x.shape, layout)
      column, columns = kernel_layout.matrix(x, layout)[:, :1], min(d, max_rank or d)
      state.bases[name] = _kernels.zeros(column, (d, columns), common.wide(x))
      state.importance[name] = jnp.zeros(columns, common.wide(x))
      state.ranks[name], state.dropped[name] = zero(), zero()
    return state

  def update(grads, state, params=None, **extra):
    del params, extra
    _kernels.check_names("sgp", grads, {n: (len(b), None) for n, b in state.bases.items()}, skip, layout)

    def project(name, g):
      if name not in state.bases:
        return _kernels.hold(name, g, freeze_vectors, skip, state.tasks > 0)
      basis = state.bases[name]
      matrix = kernel_layout.matrix(g, layout).astype(basis.dtype)
      return kernel_layout.unmatrix(remove_scaled(basis, state.importance[name], state.ranks[name], matrix), g, layout)

    return tree.map_named(project, grads), state

  return optax.GradientTransformationExtraArgs(init, update)


def sgp_extend(
  opt_state: OptState,
  layer_inputs: dict[str, Any],
  threshold: Scalar | Mapping[str, Scalar] = 0.97,
  alpha: Scalar = 10.0,
) -> OptState:
  """Adds directions of ``layer_inputs`` by GPM's rule (:func:`gpm_extend`), and the importance of all in them:
  ``lambda_i = (alpha + 1) s_i / (alpha s_i + max s)``, ``s_i = |X m_i|`` over all directions, old and new.

  ``s_i`` of a new direction is its singular value; of an old one the length of its row in ``M^T X^T``. Old importances
  become ``min(old + new, 1)``: they never fall. ``alpha`` at least 0: 0 is ``s_i / max s``, and with it growing all
  directions that have inputs close, as in GPM. Where ``layer_inputs`` are zeros nothing changes.

  Arguments and errors else as for :func:`gpm_extend`, whose rule 'reach' this is (the released code, on the first task
  alone, keeps one direction fewer). Returns the state with more rows.
  """
  for value in threshold.values() if isinstance(threshold, dict) else (threshold,):
    check("threshold", value, "0 to 1", lambda v: (v >= 0) & (v <= 1))
  check("alpha", alpha, ">= 0", lambda v: v >= 0)

  def extend(state: SGPState) -> SGPState:
    out = SGPState({}, {}, {}, {}, state.tasks + 1)
    for path, old in state.bases.items():
      x = _kernels.rows(layer_inputs, path, old.shape[0])
      if isinstance(threshold, dict) and path not in threshold:
        raise UsageError(f"threshold: {path!r} is missing; give every projected kernel one")
      level = threshold[path] if isinstance(threshold, dict) else threshold
      basis, rank, lost = extend_basis(old, state.ranks[path], x, level)
      out.bases[path], out.ranks[path], out.dropped[path] = basis, rank, state.dropped[path] + lost
      out.importance[path] = jnp.minimum(state.importance[path] + needed(basis, x, alpha), 1)
    return out

  return edit_states(opt_state, SGPState, extend, "sgp_extend")


def needed(basis, x, alpha):
  """``[r]``: how much the rows ``x [n, d]`` need each column of ``basis [d, r]``; 0 for columns of zeros."""
  x = x.astype(basis.dtype)
  peak = jnp.max(jnp.abs(x))  # so that squares neither overflow nor underflow
  along = jnp.linalg.norm(jnp.matmul(x / jnp.where(peak > 0, peak, 1), basis, precision=common.PRECISION), axis=0)
  most = jnp.max(along)
  share = along / jnp.where(most > 0, most, 1)
  return (alpha + 1) * share / (alpha * share + 1)
