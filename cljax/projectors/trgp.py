"""Trust region gradient projection: GPM's memory, and which of its directions each task's inputs need."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cljax.core.checks import check
from cljax.core.opt_state import edit_states
from cljax.core.types import Array, OptState, Scalar
from cljax.projectors import _common as common
from cljax.projectors import _kernels
from cljax.projectors.gpm import GPMState, append, leading, remove_span


def trgp_extend(
  opt_state: OptState, layer_inputs: dict[str, Any], threshold: Scalar = 0.97
) -> tuple[OptState, dict[str, Any]]:
  """``(opt_state, {kernel path: [max_rank] bool})``: the memory of :func:`gpm` with the directions that the task needs,
  and which of all its columns they are: the task's span is ``S = M[:, own]``.

  Directions of old, ``|X m_i|^2`` each, and new ones, the singular values of what M leaves of X ``[n, d_in]``, are
  taken together by falling energy until they reach ``threshold`` of ``|X|^2``; the new ones among them join M, the
  first included (the released code's ``sel_index > r_pre`` drops it, and leaves it unprotected). GPM counts all old
  ones first, so it may take fewer new ones.

  Arguments and errors as for :func:`gpm_extend`; the projection is :func:`gpm`'s. Lin et al., ICLR 2022; spec E4.
  """
  check("threshold", threshold, "0 to 1", lambda v: (v >= 0) & (v <= 1))
  owned: dict[str, Any] = {}

  def extend(state: GPMState) -> GPMState:
    bases, ranks, dropped = {}, {}, {}
    for path, basis in state.bases.items():
      x = _kernels.rows(layer_inputs, path, basis.shape[0])
      bases[path], ranks[path], lost, owned[path] = selected(basis, state.ranks[path], x, threshold)
      dropped[path] = state.dropped[path] + lost
    return GPMState(bases, ranks, dropped, state.tasks + 1)

  return edit_states(opt_state, GPMState, extend, "trgp_extend"), owned


def selected(basis, rank, x, threshold):
  """One kernel's ``(basis [d, r], rank, dropped, own [r] bool)`` after ``x [n, d]``."""
  x = x.astype(basis.dtype)
  peak = jnp.max(jnp.abs(x))  # so that squares neither overflow nor underflow
  x = x / jnp.where(peak > 0, peak, 1)
  old = jnp.sum(jnp.matmul(x, basis, precision=common.PRECISION) ** 2, axis=0)
  rest = remove_span(basis, remove_span(basis, x.T)).T
  _, sigma, vt = jnp.linalg.svd(rest, full_matrices=False)
  energy = jnp.concatenate([old, sigma**2])
  order = jnp.argsort(-energy, stable=True)
  taken = leading(energy[order], jnp.sum(x**2), threshold, False, max(x.shape))
  wanted = jnp.zeros_like(taken).at[order].set(taken, unique_indices=True)
  kept, fresh = wanted[: len(old)], wanted[len(old) :]
  basis, now, lost = append(basis, rank, vt.T * fresh.astype(vt.dtype)[None, :], jnp.sum(fresh))
  at = jnp.arange(len(old), dtype=jnp.int32)
  return basis, now, lost, (kept > 0) | ((at >= rank) & (at < now))


def trust_regions(basis: Array, spans: Array, gradient: Array, open_: Array, count: int, sufficient: Scalar) -> Array:
  """``[count]`` int32: of the tasks ``open_ [T]`` bool those whose spans take the largest shares of ``gradient [d,
  c]``, at least ``sufficient``: ``|S_j^T G| >= sufficient |G|``, ``S_j = basis[:, spans[j]]``; -1 for none.

  ``basis [d, r]`` orthonormal, ``spans [T, r]`` bool.
  """
  inside = jnp.sum(jnp.matmul(basis.T, gradient.astype(basis.dtype), precision=common.PRECISION) ** 2, axis=1)
  share = jnp.sqrt(jnp.sum(jnp.where(spans, inside[None], 0), axis=1))
  length = jnp.linalg.norm(gradient.astype(basis.dtype))
  fits = open_ & (length > 0) & (share >= sufficient * length)
  value, task = jax.lax.top_k(jnp.where(fits, share, -1.0), count)
  return jnp.where(value >= 0, task.astype(jnp.int32), -1)


def rescaled(kernel: Array, basis: Array, spans: Array, scales: Array) -> Array:
  """``W + sum_k S_k R_k S_k^T W``: the weight ``kernel [d, c]`` seen with its part in each span ``S_k = basis[:,
  spans[k]]`` scaled by ``Q_k = I + R_k``; ``spans [K, r]`` bool, ``scales [K, r, r]`` the R."""
  inside = jnp.matmul(basis.T, kernel, precision=common.PRECISION)
  there = spans[..., None].astype(inside.dtype)
  made = jnp.sum(there * jnp.matmul(scales, there * inside[None], precision=common.PRECISION), axis=0)
  return kernel + jnp.matmul(basis, made, precision=common.PRECISION)
