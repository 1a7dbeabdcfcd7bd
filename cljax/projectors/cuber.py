"""CUBER: GPM that lets old weights move where the tasks' gradients agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import tree
from cljax.projectors import _common as common
from cljax.projectors.gpm import extend_basis, fan_in, kernels, remove_span
from cljax.types import UsageError


class CUBERKernel(NamedTuple):
  """One kernel, read as ``[d_in, c_out]``; T is ``num_tasks``."""

  spans: Any  # [T, d_in, max_rank] each task's input subspace
  gradients: Any  # [T, d_in, c_out] each task's gradient at its end
  regime: Any  # [T] int32: 1, 2 or 3 for old tasks, 0 for the rest
  blocked: Any  # [d_in, min(d_in, T * max_rank)] basis of the spans in regimes 1 and 2
  anchor: Any  # [d_in, c_out] the weights at the start of the task


class CUBERState(NamedTuple):
  """``tasks``: int32 tasks stored; ``kernels``: :class:`CUBERKernel` by path."""

  tasks: Any
  kernels: dict[str, CUBERKernel]


def cuber(
  num_tasks: int,
  max_rank: int,
  strength=0.01,
  skip: Callable[[str], bool] | None = None,
  freeze_vectors: bool = True,
) -> optax.GradientTransformationExtraArgs:
  """CUBER: ``(I - B B^T)(G + 2 strength sum_{j in regime 3} S_j S_j^T (W - W_start))``.

  ``B`` spans the inputs of the old tasks in regimes 1 (little of the gradient lies in ``S_j``) and 2 (it does, and the
  gradients disagree); regime 3 (it does, and they agree) may rewrite the old weights, held by the penalty ``strength
  |S_j^T (W - W_start)|^2``. Regimes are chosen per kernel and task by :func:`cuber_start_task`, and tasks are stored by
  :func:`cuber_end_task`. In regime 2 the paper also learns a scaled projection of the weights for forward transfer:
  that is a reparameterisation, :func:`scaled_projection`.

  ``skip`` and ``freeze_vectors`` are those of :func:`gpm`. Memory per kernel: ``T d_in (max_rank + c_out)`` numbers and
  more. ``update`` needs ``params``. Where a direction lies in a regime-3 span and in a blocked one, blocked wins. Lin,
  Yang, Fan & Zhang, NeurIPS 2022. UNVERIFIED: no code found, written from memory of the paper; ``strength`` is said to
  be small, without a value.
  """
  common.check("num_tasks", num_tasks, ">= 1", lambda v: v >= 1)
  common.check("max_rank", max_rank, ">= 1", lambda v: v >= 1)
  common.check("strength", strength, ">= 0", lambda v: v >= 0)

  def init(params):
    out = {}
    for path, x in kernels(params, skip).items():
      d, c, dtype = fan_in(x.shape), x.shape[-1], common.wide(x)
      r = min(d, max_rank)
      zeros = lambda *shape, dtype=dtype: jnp.zeros(shape, dtype)
      out[path] = CUBERKernel(
        spans=zeros(num_tasks, d, r),
        gradients=zeros(num_tasks, d, c),
        regime=zeros(num_tasks, dtype=jnp.int32),
        blocked=zeros(d, min(d, num_tasks * r)),
        anchor=zeros(d, c),
      )
    return CUBERState(jnp.zeros((), jnp.int32), out)

  def update(grads, state, params=None, **extra):
    del extra
    if params is None:
      raise UsageError("params: got None; cuber.update needs the parameters for its penalty")

    def project(path, g, w):
      path = tree.path_name(path)
      if path in state.kernels:
        k = state.kernels[path]
        drift = w.reshape(k.anchor.shape).astype(k.anchor.dtype) - k.anchor
        inside = jnp.einsum("tdr,dc->trc", k.spans, drift, precision=common.PRECISION)
        pull = jnp.einsum("t,tdr,trc->dc", (k.regime == 3) * 1.0, k.spans, inside, precision=common.PRECISION)
        moved = remove_span(k.blocked, g.reshape(k.anchor.shape).astype(k.anchor.dtype) + 2 * strength * pull)
        return jnp.where(jnp.any(k.regime > 0), moved.reshape(g.shape).astype(g.dtype), g)
      if freeze_vectors and g.ndim < 2 and not (skip and skip(path)):
        return jnp.where(state.tasks > 0, jnp.zeros_like(g), g)
      return g

    return jax.tree_util.tree_map_with_path(project, grads, params), state

  return optax.GradientTransformationExtraArgs(init, update)


def _by_path(a):
  return {tree.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(a)}


def _leaf(leaves, path: str, like, name: str):
  if path not in leaves or leaves[path].size != like.size:
    got = leaves[path].shape if path in leaves else "nothing"
    raise UsageError(f"{name}: {path!r} is {got}; expected the {like.size} numbers of the kernel")
  return leaves[path].reshape(like.shape).astype(like.dtype)


def cuber_start_task(opt_state, params, grads, sufficient=0.5, positive=0.0):
  """Chooses the regimes for a new task from ``grads``, its mean gradient at ``params``, before any step.

  For each kernel and old task: sufficient when ``|S_j^T G| >= sufficient |G|``, positive when
  ``<G_j, G> >= positive |G_j| |G|``. ``sufficient`` above 1 never rewrites anything: GPM. Copies ``params``.
  """

  def start(state: CUBERState) -> CUBERState:
    weights, gradients, out = _by_path(params), _by_path(grads), {}
    for path, k in state.kernels.items():
      w, g = _leaf(weights, path, k.anchor, "params"), _leaf(gradients, path, k.anchor, "grads")
      inside = jnp.einsum("tdr,dc->trc", k.spans, g, precision=common.PRECISION)
      length = jnp.linalg.norm(g)
      enough = jnp.sqrt(jnp.sum(inside**2, (1, 2))) >= sufficient * length
      agree = jnp.sum(k.gradients * g, (1, 2)) >= positive * jnp.sqrt(jnp.sum(k.gradients**2, (1, 2))) * length
      regime = jnp.where(enough, jnp.where(agree, 3, 2), 1)
      regime = jnp.where(jnp.arange(len(regime)) < state.tasks, regime, 0).astype(jnp.int32)
      closed = (regime == 1) | (regime == 2)
      # One basis of the union: projecting off each span in turn would not be orthogonal to all of them.
      union = (k.spans * closed[:, None, None]).transpose(0, 2, 1).reshape(-1, w.shape[0])
      blocked, _, _ = extend_basis(jnp.zeros_like(k.blocked), jnp.zeros((), jnp.int32), union, 1.0)
      out[path] = k._replace(regime=regime, blocked=blocked, anchor=jnp.array(w, copy=True))
    return CUBERState(state.tasks, out)

  return common.edit_states(opt_state, CUBERState, start, "cuber_start_task")


def cuber_end_task(opt_state, layer_inputs: dict[str, Any], grads, threshold=0.97):
  """Stores a finished task: a basis of ``threshold`` of ``layer_inputs[path] [n, d_in]``, and its gradient."""
  common.check("threshold", threshold, "0 to 1", lambda v: (v >= 0) & (v <= 1))

  def end(state: CUBERState) -> CUBERState:
    gradients, out = _by_path(grads), {}
    room = min((len(k.regime) for k in state.kernels.values()), default=0)
    common.check("num_tasks", state.tasks, f"fewer than {room} tasks stored before this one", lambda t: t < room)
    for path, k in state.kernels.items():
      x = layer_inputs.get(path)
      if x is None or x.ndim != 2 or x.shape[1] != k.anchor.shape[0]:
        got = "missing" if x is None else f"of shape {x.shape}"
        raise UsageError(f"layer_inputs: {path!r} is {got}; expected [n, {k.anchor.shape[0]}]")
      span, _, _ = extend_basis(jnp.zeros_like(k.spans[0]), jnp.zeros((), jnp.int32), x, threshold)
      g = _leaf(gradients, path, k.anchor, "grads")
      spans, stored = (a.at[state.tasks].set(b, mode="drop") for a, b in ((k.spans, span), (k.gradients, g)))
      out[path] = k._replace(spans=spans, gradients=stored)
    return CUBERState(state.tasks + 1, out)

  return common.edit_states(opt_state, CUBERState, end, "cuber_end_task")


def scaled_projection(kernel, basis, scale):
  """TRGP's weight ``W - S S^T W + S Q S^T W``: ``kernel [d, c]``, ``basis`` S ``[d, r]``, ``scale`` Q ``[r, r]``."""
  inside = jnp.matmul(basis.T, kernel, precision=common.PRECISION)
  return kernel + jnp.matmul(basis, jnp.matmul(scale, inside, precision=common.PRECISION) - inside)
