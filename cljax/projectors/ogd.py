"""Orthogonal gradient descent, and its form with principal directions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax.core import tree
from cljax.core.checks import check_count
from cljax.core.opt_state import edit_states
from cljax.core.types import OptState, Params, Tree, UsageError
from cljax.projectors import _common as common


class OGDState(NamedTuple):
  """``basis``: leaves ``[capacity, ...]``, orthonormal rows, then zeros; int32 ``rank`` and ``dropped`` (no room)."""

  basis: Any
  rank: Any
  dropped: Any


def basis_bytes(params: Params, capacity: int) -> int:
  """Bytes of :func:`ogd`'s basis: ``capacity`` copies of the parameters, in at least float32."""
  return capacity * sum(int(np.prod(x.shape)) * np.dtype(common.wide(x)).itemsize for x in jax.tree.leaves(params))


def ogd(capacity: int, max_bytes: int | None = None) -> optax.GradientTransformationExtraArgs:
  """OGD: ``g - B^T B g``, with ``B [capacity, params]`` an orthonormal basis of old output gradients.

  ``B`` starts empty, which leaves gradients alone to the bit, and grows by :func:`ogd_extend`. ``B g' = 0``: stored
  outputs do not change to first order, exactly so in models linear in the parameters. The paper projects shared
  parameters only: exclude a task's own head with ``optax.masked``. Linear: it survives SGD, and momentum whose trace
  starts empty at the boundary; under Adam or weight decay chain it last, as it is or by :func:`on_update`, which is the
  same.

  Costs :func:`basis_bytes`; more than ``max_bytes`` raises UsageError in ``init``. The released code stores 100 samples
  a task. Farajtabar et al., AISTATS 2020.
  """
  check_count("capacity", capacity)

  def init(params):
    tree.refuse_explicit("ogd", params)
    need = basis_bytes(params, capacity)
    if max_bytes is not None and need > max_bytes:
      raise UsageError(f"capacity: {capacity} directions need {need} bytes; max_bytes allows {max_bytes}")
    basis = jax.tree.map(lambda x: tree.zero_stack(x, capacity, common.wide(x)), params)
    return OGDState(basis, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

  def update(grads, state, params=None, **extra):
    del params, extra
    tree.refuse_explicit("ogd", grads)
    grads = tree.fit(grads, common.row_of(state.basis), "ogd: updates")
    return common.select(state.rank > 0, _remove(state.basis, grads), grads), state

  return optax.GradientTransformationExtraArgs(init, update)


def _remove(basis, a):
  along = common.stack_combine(common.stack_dot(basis, a), basis)
  return jax.tree.map(lambda x, y: x.astype(y.dtype) - y, a, along)  # complex leaves count as pairs of reals


def ogd_extend(opt_state: OptState, directions: Tree) -> OptState:
  """Adds the rows of ``directions`` (leaves ``[K, ...]``) to the basis, in order: pure, with static shapes.

  Each row is orthogonalised against the basis twice, which holds orthonormality at rounding level (the released code
  does it once and drifts). Zero rows and rows in the span, to ``100 eps``, are left out; rows that find no room count
  as ``dropped``. For OGD the rows are gradients of outputs, ``d f_y(x) / d params`` of the true logit, not of the loss.

  ``opt_state`` is an :class:`OGDState` or any optimizer state that holds some. Raises UsageError where shapes differ.
  """

  def extend(state: OGDState) -> OGDState:
    like = common.row_of(state.basis)
    rows = common.match_stack(directions, like, "directions")
    capacity = next((b.shape[0] for b in jax.tree.leaves(state.basis)), 0)

    def insert(state, row):
      row = jax.tree.map(lambda r, b: r.astype(b.dtype), row, like)
      peaks = [jnp.max(jnp.abs(x)) for x in jax.tree.leaves(row)]
      peak = jnp.stack([p.astype(common.sum_dtype(row)) for p in peaks]).max()
      row = tree.scale(1 / jnp.where(peak > 0, peak, 1), row)  # so that squares neither overflow nor underflow
      length = tree.norm(row)
      row = tree.scale(1 / jnp.where(length > 0, length, 1), row)
      row = _remove(state.basis, row)
      left = tree.norm(row)
      new = (peak > 0) & (left > 100 * jnp.finfo(left.dtype).eps)
      row = _remove(state.basis, tree.scale(1 / jnp.where(new, left, 1), row))
      row = tree.scale(1 / jnp.where(new, tree.norm(row), 1), row)
      fits = new & (state.rank < capacity)
      at = jnp.where(fits, state.rank, capacity)  # out of range: the write is dropped
      basis = jax.tree.map(lambda b, r: b.at[at].set(r, mode="drop"), state.basis, row)
      dropped = state.dropped + (new & ~fits).astype(jnp.int32)
      return OGDState(basis, state.rank + fits.astype(jnp.int32), dropped), None

    return jax.lax.scan(insert, state, rows)[0]

  return edit_states(opt_state, OGDState, extend, "ogd_extend")


def pca_ogd(capacity: int, max_bytes: int | None = None) -> optax.GradientTransformationExtraArgs:
  """PCA-OGD: :func:`ogd` whose basis grows by :func:`pca_ogd_extend`: principal directions of many gradients.

  The forgetting that is left on a task is bounded by the energy of the directions not kept. Doan et al., AISTATS 2021.
  """
  return ogd(capacity, max_bytes)


def principal_directions(gradients: Tree, count: int, center: bool = False) -> Tree:
  """The ``count`` leading right singular directions of a stack ``[N, ...]`` of gradients, as a stack ``[count, ...]``.

  ``u_i^T G`` for the leading eigenvectors ``u_i`` of the Gram matrix ``G G^T [N, N]``: leaf by leaf, not normalised
  (row i has the length of the i-th singular value). ``center`` subtracts the mean gradient first, as the released code
  does; the theory does not, and the mean is often the direction that matters most. Raises UsageError where ``count >
  N``.
  """
  gram = common.stack_gram(gradients, gradients)
  if not 1 <= count <= gram.shape[0]:
    raise UsageError(f"count: got {count}; allowed: 1 to {gram.shape[0]}, the number of gradients")
  if center:
    gradients = jax.tree.map(lambda x: x - x.mean(0, keepdims=True), gradients)
    gram = common.stack_gram(gradients, gradients)
  _, vectors = jnp.linalg.eigh(gram)
  return common.stack_combine(vectors[:, ::-1][:, :count].T, gradients)


def pca_ogd_extend(opt_state: OptState, gradients: Tree, count: int, center: bool = False) -> OptState:
  """:func:`ogd_extend` with the ``count`` :func:`principal_directions` of ``gradients [N, ...]``."""

  def extend(state: OGDState) -> OGDState:
    like = common.row_of(state.basis)
    rows = common.match_stack(gradients, like, "gradients")
    return ogd_extend(state, principal_directions(rows, count, center))

  return edit_states(opt_state, OGDState, extend, "pca_ogd_extend")
