"""CoSO: Adam in per-step gradient subspaces that stay orthogonal to those of old tasks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import layout as kernel_layout
from cljax.core import tree
from cljax.core.checks import check, check_count
from cljax.core.opt_state import edit_states
from cljax.core.types import OptState, Scalar, UsageError
from cljax.projectors import _common as common
from cljax.projectors import _kernels
from cljax.projectors.gpm import append, leading, remove_span


class CoSOKernel(NamedTuple):
  """One kernel, read as ``[in, out]``: all directions live on the output side."""

  history: Any  # [out, max_history] orthonormal columns of old tasks, then zeros
  rank: Any  # int32, columns of history in use
  dropped: Any  # int32, directions for which there was no room
  axes: Any  # [out, rank] the subspace of the present steps
  sketch: Any  # [out, sketch_rank] frequent directions of this task's gradients
  shrinkage: Any  # what the sketch has lost at most: 0 <= sum G G^T - S S^T <= shrinkage I (decay 1)
  mu: Any  # [in, rank]
  nu: Any  # [in, rank]


class CoSOState(NamedTuple):
  """``count``: int32 steps of this task; ``kernels``: :class:`CoSOKernel` by path."""

  count: Any
  kernels: dict[str, CoSOKernel]


class CoSOHistory(NamedTuple):
  """The state of :func:`coso_projection`: old tasks' directions ``[out, max_history]`` by path."""

  history: dict[str, Any]


def _left(a):
  """Left singular vectors and values of ``a``, as many as the shorter side."""
  u, sigma, _ = jnp.linalg.svd(a, full_matrices=False)
  return u, sigma


def _shrink(u, sigma, rank: int):
  """Frequent directions: ``(U_r sqrt(max(s^2 - s_{r+1}^2, 0)), s_{r+1}^2)``."""
  lost = sigma[rank] ** 2 if sigma.shape[0] > rank else jnp.zeros((), sigma.dtype)
  return u[:, :rank] * jnp.sqrt(jnp.maximum(sigma[:rank] ** 2 - lost, 0))[None, :], lost


def coso(
  rank: int,
  sketch_rank: int,
  every: int = 1,
  max_history: int | None = None,
  b1: Scalar = 0.9,
  b2: Scalar = 0.999,
  epsilon: Scalar = 1e-6,
  decay: Scalar = 1.0,
  layout: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """CoSO's direction ``P (m / (sqrt(v) + epsilon))``, Adam on ``R = P^T (I - M M^T) G``; chain ``optax.scale(-lr)``.

  For ``G`` as ``[out, in]``: ``M`` holds old tasks' directions, ``P`` the ``rank`` leading left singular vectors of the
  projected gradient, renewed every ``every`` steps, when the ``sketch_rank`` frequent directions of the task's
  gradients grow too (``decay`` fades the sketch). Kernels are ``[in, out]`` here (``layout`` as for :func:`gpm`), so
  all of this stands on their right: old tasks' outputs are preserved along M only (``dW M = 0``), not ``x dW = 0`` as
  in GPM; the paper's words go further than that.

  Every leaf must have two axes and both at least ``max(rank, sketch_rank)``: give the rest to another optimizer by
  ``optax.partition`` (the paper trains attention output projections and the head). It is an optimizer itself; another
  one behind it, or weight decay, breaks ``dW M = 0`` unless :func:`coso_projection` stands last. Moments are kept when
  P changes, as in the released code; an axis then points to the side of the one before it, a first one to where the
  gradient's entries along it sum above 0: a choice of ours, where the SVD's is arbitrary. ``max_history``: columns of M
  (default: all). Raises UsageError: leaves of other shapes, complex ones, none; updates whose kernels are not those of
  the state. Paper's settings on ImageNet-R: rank 50, sketch 120, every 1. Cheng et al., NeurIPS 2025.
  """
  for name, value in (("rank", rank), ("sketch_rank", sketch_rank), ("every", every)):
    check_count(name, value)
  kernel_layout.check("coso", layout)

  def init(params):
    count = jnp.zeros((), jnp.int32)
    if tree.is_placeholder(params):  # no part of the state is like the parameters
      return CoSOState(count, jnp.zeros(()))  # type: ignore[arg-type]
    kernels = {}
    for name, m in _matrices("coso", params, layout, max(rank, sketch_rank)).items():
      out, dtype = m.shape[1], common.wide(m)
      used, dropped = (jnp.zeros((), jnp.int32) for _ in range(2))
      moments = [_kernels.zeros(m[:, :1], (m.shape[0], rank), dtype) for _ in range(2)]
      history, axes, sketch = (
        _kernels.zeros(m.T[:, :1], (out, k), dtype) for k in (min(out, max_history or out), rank, sketch_rank)
      )
      kernels[name] = CoSOKernel(history, used, dropped, axes, sketch, jnp.zeros((), dtype), *moments)
    return CoSOState(count, kernels)

  def one(g, state: CoSOKernel, count):
    a = remove_span(state.history, g.T.astype(state.axes.dtype))

    def renew():
      u, sigma = _left(a)
      # A singular vector of a zero singular value is arbitrary, even inside M, and Adam would scale its noise up to 1.
      real = sigma[:rank] > max(a.shape) * jnp.finfo(a.dtype).eps * jnp.linalg.norm(g.astype(a.dtype))
      axes = jnp.where(real[None, :], remove_span(state.history, u[:, :rank]), 0)
      # A singular vector's sign is arbitrary: without a rule, rounding would turn axes round below their moments.
      along = jnp.sum(axes * state.axes, 0)
      along = jnp.where(along == 0, jnp.sum(axes * jnp.sum(a, 1)[:, None], 0), along)
      axes = jnp.where(along[None, :] < 0, -axes, axes)
      block, lost = _shrink(u, sigma, sketch_rank)
      merged = jnp.concatenate([jnp.sqrt(decay) * state.sketch, block], 1)
      u, sigma = _left(merged)
      sketch, lost_too = _shrink(u, sigma, sketch_rank)
      return axes, sketch, state.shrinkage + lost + lost_too

    keep = (state.axes, state.sketch, state.shrinkage)
    axes, sketch, shrinkage = renew() if every == 1 else jax.lax.cond(count % every == 0, renew, lambda: keep)
    small = jnp.matmul(a.T, axes, precision=common.PRECISION)
    mu = b1 * state.mu + (1 - b1) * small
    nu = b2 * state.nu + (1 - b2) * small**2
    steps = (count + 1).astype(mu.dtype)
    step = (mu / (1 - b1**steps)) / (jnp.sqrt(nu / (1 - b2**steps)) + epsilon)
    update = jnp.matmul(step, axes.T, precision=common.PRECISION)
    return update, state._replace(axes=axes, sketch=sketch, shrinkage=shrinkage, mu=mu, nu=nu)

  def update(grads, state, params=None, **extra):
    del params, extra
    sizes = {n: (len(k.mu), len(k.history)) for n, k in state.kernels.items()}
    _kernels.check_names("coso", grads, sizes, None, layout)
    kernels = {}

    def visit(name, g):
      direction, kernels[name] = one(kernel_layout.matrix(g, layout), state.kernels[name], state.count)
      return kernel_layout.unmatrix(direction, g, layout)

    return tree.map_named(visit, grads), CoSOState(state.count + 1, kernels)

  return optax.GradientTransformationExtraArgs(init, update)


def _matrices(owner: str, params, layout: str | None, least: int) -> dict:
  """The leaves as ``[in, out]``; UsageError where one has other axes, or a side shorter than ``least``."""
  for name, x in tree.by_path(params).items():
    if x.ndim != 2 or min(x.shape) < least:
      raise UsageError(f"params: {name!r} has shape {x.shape}; allowed: [in, out], both at least {least}")
  return {name: kernel_layout.matrix(x, layout) for name, x in _kernels.chosen(owner, params, None, layout).items()}


def coso_projection(max_history: int | None = None, layout: str | None = None) -> optax.GradientTransformationExtraArgs:
  """CoSO's projection alone: ``U (I - M M^T)`` on the final update; stands last in a chain, weight decay included.

  ``M`` comes from the state of :func:`coso` in the same optimizer state, at :func:`coso_end_task`; ``max_history`` and
  ``layout`` are those of :func:`coso`, and so are the leaves. ``dW M = 0`` then holds behind any optimizer.
  """
  kernel_layout.check("coso_projection", layout)

  def init(params):
    if tree.is_placeholder(params):
      return CoSOHistory(jnp.zeros(()))  # type: ignore[arg-type]  # no part is like the parameters
    room = {}
    for name, m in _matrices("coso_projection", params, layout, 1).items():
      out = m.shape[1]
      room[name] = _kernels.zeros(m.T[:, :1], (out, min(out, max_history or out)), common.wide(m))
    return CoSOHistory(room)

  def update(updates, state, params=None, **extra):
    del params, extra
    sizes = {n: (None, len(b)) for n, b in state.history.items()}
    _kernels.check_names("coso_projection", updates, sizes, None, layout)

    def one(name, u):
      basis = state.history[name]
      moved = remove_span(basis, kernel_layout.matrix(u, layout).T.astype(basis.dtype)).T
      return jnp.where(jnp.any(basis != 0), kernel_layout.unmatrix(moved, u, layout), u)

    return tree.map_named(one, updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def coso_end_task(opt_state: OptState, threshold: Scalar = 0.98, rule: str = "reach") -> OptState:
  """Moves the sketch's leading directions, up to ``threshold`` of its energy, into the history; clears the rest.

  ``rule``: 'reach' keeps the first count that reaches the threshold; 'released' stays below it, one direction fewer.
  """
  if rule not in ("reach", "released"):
    raise UsageError(f"rule: got {rule!r}; allowed: 'reach', 'released'")
  check("threshold", threshold, "0 to 1", lambda v: (v >= 0) & (v <= 1))

  histories: dict[str, Any] = {}  # for the states of coso_projection

  def end(state: CoSOState) -> CoSOState:
    kernels = {}
    for path, k in state.kernels.items():
      u, sigma = _left(k.sketch)
      wanted = leading(sigma**2, jnp.sum(sigma**2), threshold, rule == "released", k.sketch.shape[0])
      kept = wanted.astype(u.dtype)[None, :]
      histories[path], rank, lost = append(k.history, k.rank, u * kept, jnp.sum(wanted))
      cleared = [tree.empty_like(x) for x in (k.axes, k.sketch, k.shrinkage, k.mu, k.nu)]
      kernels[path] = CoSOKernel(histories[path], rank, k.dropped + lost, *cleared)
    return CoSOState(jnp.zeros_like(state.count), kernels)

  def follow(state: CoSOHistory) -> CoSOHistory:
    for path, basis in state.history.items():
      if path not in histories or histories[path].shape != basis.shape:
        raise UsageError(f"coso_projection: no coso of its max_history holds {path!r}; give both one set of options")
    return CoSOHistory({path: jnp.array(histories[path], copy=True) for path in state.history})

  opt_state = edit_states(opt_state, CoSOState, end, "coso_end_task")
  return tree.edit_nodes(opt_state, CoSOHistory, follow)[0]
