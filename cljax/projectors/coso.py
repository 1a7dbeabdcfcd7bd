"""CoSO: Adam in per-step gradient subspaces that stay orthogonal to those of old tasks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import tree
from cljax.projectors import _common as common
from cljax.projectors.gpm import append, leading, remove_span
from cljax.types import UsageError


class CoSOKernel(NamedTuple):
  """One kernel ``[in, out]``: all directions live on the output side."""

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


def _left(a):
  """Left singular vectors and values of ``a``, as many as the shorter side."""
  u, sigma, _ = jnp.linalg.svd(a, full_matrices=False)
  return u, sigma


def _shrink(u, sigma, rank: int):
  """Frequent directions: ``(U_r sqrt(max(s^2 - s_{r+1}^2, 0)), s_{r+1}^2)``."""
  lost = sigma[rank] ** 2 if sigma.shape[0] > rank else jnp.zeros((), sigma.dtype)
  return u[:, :rank] * jnp.sqrt(jnp.maximum(sigma[:rank] ** 2 - lost, 0)), lost


def coso(
  rank: int, sketch_rank: int, every: int = 1, max_history: int | None = None, b1=0.9, b2=0.999, epsilon=1e-6, decay=1.0
) -> optax.GradientTransformationExtraArgs:
  """CoSO's direction ``P (m / (sqrt(v) + epsilon))``, Adam on ``R = P^T (I - M M^T) G``; chain ``optax.scale(-lr)``.

  For ``G`` as ``[out, in]``: ``M`` holds old tasks' directions, ``P`` the ``rank`` leading left singular vectors of the
  projected gradient, renewed every ``every`` steps, when the ``sketch_rank`` frequent directions of the task's
  gradients grow too (``decay`` fades the sketch). Kernels are ``[in, out]`` here, so all of this stands on their right:
  old tasks' outputs are preserved along M only (``dW M = 0``), not ``x dW = 0`` as in GPM; the paper's words go further
  than that.

  Every leaf must have two axes and both at least ``max(rank, sketch_rank)``: give the rest to another optimizer by
  ``optax.partition`` (the paper trains attention output projections and the head). Weight decay after it breaks
  ``dW M = 0``. Moments are kept when P changes, as in the released code. ``max_history``: columns of M (default: all).
  Paper's settings on ImageNet-R: rank 50, sketch 120, every 1. Cheng et al., NeurIPS 2025.
  """
  for name, value in (("rank", rank), ("sketch_rank", sketch_rank), ("every", every)):
    common.check(name, value, ">= 1", lambda v: v >= 1)

  def init(params):
    kernels = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
      name = tree.path_name(path)
      if x.ndim != 2 or min(x.shape) < max(rank, sketch_rank):
        need = max(rank, sketch_rank)
        raise UsageError(f"params: {name!r} has shape {x.shape}; allowed: [in, out], both at least {need}")
      (rows, out), dtype = x.shape, common.wide(x)
      used, dropped = (jnp.zeros((), jnp.int32) for _ in range(2))
      moments = [jnp.zeros((rows, rank), dtype) for _ in range(2)]
      history, axes, sketch = (jnp.zeros((out, k), dtype) for k in (min(out, max_history or out), rank, sketch_rank))
      kernels[name] = CoSOKernel(history, used, dropped, axes, sketch, jnp.zeros((), dtype), *moments)
    return CoSOState(jnp.zeros((), jnp.int32), kernels)

  def one(g, state: CoSOKernel, count):
    a = remove_span(state.history, g.T.astype(state.axes.dtype))

    def renew():
      u, sigma = _left(a)
      # A singular vector of a zero singular value is arbitrary, even inside M, and Adam would scale its noise up to 1.
      real = sigma[:rank] > max(a.shape) * jnp.finfo(a.dtype).eps * jnp.linalg.norm(g.astype(a.dtype))
      axes = jnp.where(real, remove_span(state.history, u[:, :rank]), 0)
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
    step = (mu / (1 - b1 ** (count + 1))) / (jnp.sqrt(nu / (1 - b2 ** (count + 1))) + epsilon)
    update = jnp.matmul(step, axes.T, precision=common.PRECISION).astype(g.dtype)
    return update, state._replace(axes=axes, sketch=sketch, shrinkage=shrinkage, mu=mu, nu=nu)

  def update(grads, state, params=None, **extra):
    del params, extra
    kernels = {}

    def visit(path, g):
      name = tree.path_name(path)
      direction, kernels[name] = one(g, state.kernels[name], state.count)
      return direction

    return jax.tree_util.tree_map_with_path(visit, grads), CoSOState(state.count + 1, kernels)

  return optax.GradientTransformationExtraArgs(init, update)


def coso_end_task(opt_state, threshold=0.98, rule: str = "reach"):
  """Moves the sketch's leading directions, up to ``threshold`` of its energy, into the history; clears the rest.

  ``rule``: 'reach' keeps the first count that reaches the threshold; 'released' stays below it, one direction fewer.
  """
  if rule not in ("reach", "released"):
    raise UsageError(f"rule: got {rule!r}; allowed: 'reach', 'released'")
  common.check("threshold", threshold, "0 to 1", lambda v: (v >= 0) & (v <= 1))

  def end(state: CoSOState) -> CoSOState:
    kernels = {}
    for path, k in state.kernels.items():
      u, sigma = _left(k.sketch)
      wanted = leading(sigma**2, jnp.sum(sigma**2), threshold, rule == "released", k.sketch.shape[0])
      history, rank, lost = append(k.history, k.rank, u * wanted, jnp.sum(wanted))
      cleared = [jnp.zeros_like(x) for x in (k.axes, k.sketch, k.shrinkage, k.mu, k.nu)]
      kernels[path] = CoSOKernel(history, rank, k.dropped + lost, *cleared)
    return CoSOState(jnp.zeros_like(state.count), kernels)

  return common.edit_states(opt_state, CoSOState, end, "coso_end_task")
