"""Gradient Projection Memory: updates orthogonal to the span of old layer inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax.core import layout as kernel_layout
from cljax.core import tree
from cljax.core.checks import check, check_count
from cljax.core.layout import fan_in
from cljax.core.opt_state import edit_states
from cljax.core.types import UsageError
from cljax.projectors import _common as common
from cljax.projectors import _kernels
from cljax.projectors._kernels import kernels


class GPMState(NamedTuple):
  """Per kernel path: ``bases [d_in, max_rank]`` (orthonormal columns, then zeros), int32 ``ranks`` and ``dropped``."""

  bases: dict[str, Any]
  ranks: dict[str, Any]
  dropped: dict[str, Any]  # directions that the threshold asked for and max_rank refused
  tasks: Any  # int32, extensions so far


def remove_span(basis, a):
  """``a - M M^T a`` for ``basis M [d, r]`` and ``a [d, n]``."""
  inner = jnp.matmul(basis.T, a, precision=common.PRECISION)
  return a - jnp.matmul(basis, inner, precision=common.PRECISION)


def remove_leading(basis, rank, a):
  """:func:`remove_span` of the first ``rank`` columns, at a cost that grows with ``rank``; zero where they span all."""
  size, columns = basis.shape
  width = min(64, columns)

  def block(i, out):
    # The last block may overlap the one before it; what is already removed is removed again, which changes nothing.
    return remove_span(jax.lax.dynamic_slice_in_dim(basis, i * width, width, 1), out)

  full = rank >= size
  blocks = jnp.where(full, 0, (rank + width - 1) // width)
  return jnp.where(full, 0, jax.lax.fori_loop(0, blocks, block, a))


def gpm(
  max_rank: int | None = None,
  skip: Callable[[str], bool] | None = None,
  freeze_vectors: bool = True,
  layout: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """GPM: ``G - M M^T G`` for every kernel ``G [d_in, c_out]``, with M a basis of the layer's old inputs.

  Kernels ``[..., c_in, c_out]`` are read as ``[d_in, c_out]``, so the projection stands on the left (the paper writes
  weights ``[out, in]``). ``M^T dW = 0``: old inputs in the span keep their pre-activations. The bases start empty,
  which leaves gradients alone to the bit, and grow by :func:`gpm_extend` after each task.

  Args:
    max_rank: columns kept per kernel; None is ``d_in``, which never drops a direction and costs ``d_in^2`` numbers.
    skip: ``skip(path)`` is true for leaves left alone, such as ``lambda p: p.startswith('head/')``. The paper's heads
      are one per task and not projected. Kernels that are no matrix products of layer inputs (embeddings) belong here.
    freeze_vectors: after the first task the gradients of leaves with fewer than two axes become zero. The paper's
      networks have no biases and its code zeroes the BatchNorm parameters; a bias that moves changes old outputs, so
      without this the guarantee is of the matrix products only.
    layout: 'in_out' (``[..., c_in, c_out]``, as Flax has it) or 'out_in' (``[c_out, c_in, ...]``, as Equinox and
      PyTorch have it). None is 'in_out', and refuses an Equinox module, of which it must be said.

  A step costs ``4 d_in rank c_out`` operations a kernel: more than the gradient itself once the rank passes 1.5 batch
  sizes. ``update(..., projected=paths)`` leaves alone the kernels whose gradients were projected as they were made
  (:func:`gpm_rows`). Linear: before the optimizer it survives SGD, and momentum whose trace starts empty at the
  boundary; under Adam or weight decay chain it last, as it is or by :func:`on_update`, which is the same. Reverse mode
  does not go through an update (a loop of traced length). Raises UsageError: no kernel to project; complex parameters;
  updates whose kernels are not those of the state. Saha et al., ICLR 2021.
  """
  if max_rank is not None:
    check_count("max_rank", max_rank)
  kernel_layout.check("gpm", layout)

  def init(params):
    zero = lambda: jnp.zeros((), jnp.int32)
    if tree.is_placeholder(params):  # no part of the state is like the parameters
      return GPMState(*(zero() for _ in range(4)))  # type: ignore[arg-type]
    bases, ranks, dropped = {}, {}, {}
    for name, x in _kernels.chosen("gpm", params, skip, layout).items():
      d = fan_in(x.shape, layout)
      column = kernel_layout.matrix(x, layout)[:, :1]
      bases[name] = _kernels.zeros(column, (d, min(d, max_rank or d)), common.wide(x))
      ranks[name], dropped[name] = zero(), zero()  # donation wants no shared buffers
    return GPMState(bases, ranks, dropped, zero())

  def update(grads, state, params=None, *, projected=(), **extra):
    del params, extra
    _kernels.check_names("gpm", grads, {n: (len(b), None) for n, b in state.bases.items()}, skip, layout)

    def project(name, g):
      if name in projected:
        return g
      if name in state.bases:
        basis = state.bases[name]
        moved = remove_leading(basis, state.ranks[name], kernel_layout.matrix(g, layout).astype(basis.dtype))
        return kernel_layout.unmatrix(moved, g, layout)
      return _kernels.hold(name, g, freeze_vectors, skip, state.tasks > 0)

    return tree.map_named(project, grads), state

  return optax.GradientTransformationExtraArgs(init, update)


def gpm_rows(state, rows):
  """``x - x M M^T`` for rows ``x [n, d_in]`` of layer inputs; ``state`` is the ``(basis, rank)`` of one kernel.

  As P is symmetric, projected inputs and output gradients make the projected gradient, ``(x P)^T g = P (x^T g)``.

  ``4 n d_in rank`` operations, where the gradient takes ``4 d_in rank c_out``.
  """
  basis, rank = state
  return remove_leading(basis, rank, rows.T.astype(basis.dtype)).T.astype(rows.dtype)


def gpm_extend(opt_state, layer_inputs: dict[str, Any], threshold=0.97, first_task_rule: str = "reach"):
  """Adds directions of ``layer_inputs`` until ``(|X|^2 - |X'|^2 + sum_i s_i^2) / |X|^2 >= threshold``.

  ``X' = X - X M M^T`` and ``s_i`` are its singular values. Static shapes: the rank is a mask, so this runs under jit
  and vmap. The new directions are re-orthogonalised twice (the released code stacks and truncates instead).

  Args:
    opt_state: a :class:`GPMState`, or any optimizer state that holds some.
    layer_inputs: ``{kernel path: [n, d_in]}`` as from ``cljax.estimators.layer_inputs``; convolution patches in the
      kernel's own order (height, width, channel). Zero rows count for nothing, paths not projected are ignored.
    threshold: in [0, 1], a scalar or ``{path: scalar}``; the paper uses 0.95 to 0.99, growing by 0.003 a task (CIFAR).
    first_task_rule: 'reach' stops at the first rank that reaches the threshold, on every task. 'released' keeps on the
      first task only the directions whose cumulative energy stays below it: one fewer, as the released code does.

  Returns the state with more rows. Raises UsageError for a missing path, a wrong width or no such state.
  """
  if first_task_rule not in ("reach", "released"):
    raise UsageError(f"first_task_rule: got {first_task_rule!r}; allowed: 'reach', 'released'")
  for value in threshold.values() if isinstance(threshold, dict) else (threshold,):
    check("threshold", value, "0 to 1", lambda v: (v >= 0) & (v <= 1))

  def extend(state: GPMState) -> GPMState:
    bases, ranks, dropped = {}, {}, {}
    for path, basis in state.bases.items():
      x = _kernels.rows(layer_inputs, path, basis.shape[0])
      if isinstance(threshold, dict) and path not in threshold:
        raise UsageError(f"threshold: {path!r} is missing; give every projected kernel one")
      level = threshold[path] if isinstance(threshold, dict) else threshold
      strict = (state.tasks == 0) if first_task_rule == "released" else False
      bases[path], ranks[path], lost = extend_basis(basis, state.ranks[path], x, level, strict)
      dropped[path] = state.dropped[path] + lost
    return GPMState(bases, ranks, dropped, state.tasks + 1)

  return edit_states(opt_state, GPMState, extend, "gpm_extend")


def extend_basis(basis, rank, x, threshold, strict=False):
  """One kernel's ``(basis [d, r], rank, dropped)`` after ``x [n, d]``; ``strict`` stays below the threshold."""
  x = x.astype(basis.dtype)
  # Scaled so that squares neither overflow nor underflow; only ratios of energies matter.
  peak = jnp.max(jnp.abs(x))
  x = x / jnp.where(peak > 0, peak, 1)
  rest = remove_span(basis, remove_span(basis, x.T)).T
  _, sigma, vt = jnp.linalg.svd(rest, full_matrices=False)
  wanted = leading(sigma**2, jnp.sum(x**2), threshold, strict, max(x.shape))
  return append(basis, rank, vt.T * wanted.astype(vt.dtype)[None, :], jnp.sum(wanted))


def leading(energy, total, threshold, strict, size: int):
  """``[r]`` int mask of the directions, by falling ``energy``, that ``threshold`` of ``total`` asks for.

  Whatever of the total is missing from the energies is captured already. Written with the energy that is still open,
  not with what is reached: near a threshold of 1 the latter rounds the small directions away.
  """
  still_open = jnp.cumsum(energy[::-1])[::-1]
  still_open = jnp.where(strict, still_open - energy, still_open)
  # Directions at rounding level are noise, not inputs, however high the threshold.
  noise = (jnp.finfo(energy.dtype).eps * size) ** 2 * total
  wanted = (still_open > (1 - jnp.asarray(threshold, energy.dtype)) * total) & (energy > noise)
  return jnp.cumprod(wanted.astype(jnp.int32))


def append(basis, rank, directions, count):
  """Appends the first ``count`` columns of ``directions [d, m]`` (zero after them), made orthonormal to the basis."""
  count = count.astype(jnp.int32)
  for _ in range(2):  # the second pass removes what the first one's rounding left; twice is enough
    directions, _ = jnp.linalg.qr(remove_span(basis, directions))
    directions = jnp.where((jnp.arange(directions.shape[1], dtype=jnp.int32) < count)[None, :], directions, 0)
  at = jnp.arange(basis.shape[1], dtype=jnp.int32) - rank
  fits = jnp.minimum(count, basis.shape[1] - rank)
  new = jnp.take(directions, jnp.clip(at, 0, directions.shape[1] - 1), axis=1)
  basis = jnp.where(((at >= 0) & (at < fits))[None, :], new, basis)
  return basis, (rank + fits).astype(jnp.int32), (count - fits).astype(jnp.int32)


def gpm_bytes(
  params, max_rank: int | None = None, skip: Callable[[str], bool] | None = None, layout: str | None = None
) -> int:
  """Bytes of all bases that :func:`gpm` keeps for ``params``."""
  sizes = [(fan_in(x.shape, layout), common.wide(x)) for x in kernels(params, skip).values()]
  return sum(d * min(d, max_rank or d) * np.dtype(t).itemsize for d, t in sizes)
