"""CUBER: GPM that lets old weights move where the tasks' gradients agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from cljax.core import layout as kernel_layout
from cljax.core import tree
from cljax.core.checks import check, check_count
from cljax.core.layout import fan_in
from cljax.core.opt_state import edit_states
from cljax.core.types import Array, OptState, Params, Scalar, Tree, UsageError
from cljax.projectors import _common as common
from cljax.projectors import _kernels
from cljax.projectors.gpm import extend_basis, remove_span


class CUBERKernel(NamedTuple):
  """One kernel, read as ``[d_in, c_out]``; T is ``num_tasks``."""

  spans: Any  # [T, d_in, max_rank] each task's input subspace
  gradients: Any  # [T, d_in, c_out] each task's gradient at its end
  regime: Any  # [T] int32: 1, 2 or 3 for old tasks, 0 for the rest
  anchor: Any  # [d_in, c_out] the weights at the start of the task
  blocked: Any = None  # [d_in, min(d_in, T * max_rank)] basis of the spans in regimes 1 and 2; None in the pull's state


class CUBERState(NamedTuple):
  """``tasks``: int32 tasks stored; ``kernels``: :class:`CUBERKernel` by path; ``layout``: a name without leaves."""

  tasks: Any
  kernels: dict[str, CUBERKernel]
  layout: Any


class CUBERBlocked(NamedTuple):
  """The state of :func:`cuber_projection`: ``blocked`` by path, and ``tasks``, as in the pull's state."""

  tasks: Any
  blocked: dict[str, Any]


def cuber(
  num_tasks: int,
  max_rank: int,
  strength: Scalar = 0.01,
  skip: Callable[[str], bool] | None = None,
  freeze_vectors: bool = True,
  layout: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """CUBER: ``(I - B B^T)(G + 2 strength sum_{j in regime 3} S_j S_j^T (W - W_start))``.

  ``B`` spans the inputs of the old tasks in regimes 1 (little of the gradient lies in ``S_j``) and 2 (it does, and the
  gradients disagree); regime 3 (it does, and they agree) may rewrite the old weights, held by the penalty ``strength
  |S_j^T (W - W_start)|^2``. Regimes are chosen per kernel and task by :func:`cuber_start_task`, and tasks are stored by
  :func:`cuber_end_task`. In regime 2 the paper also learns a scaled projection of the weights for forward transfer:
  that is a reparameterisation, :func:`scaled_projection`.

  The whole rule in one transform is for plain SGD; under other optimizers its two parts stand apart:
  ``chain(cuber_pull(...), optimizer, cuber_projection(...))``.

  ``skip``, ``freeze_vectors`` and ``layout`` are those of :func:`gpm`. Memory per kernel: ``T d_in (max_rank + c_out)``
  numbers and more. ``update`` needs ``params``. Where a direction lies in a regime-3 span and in a blocked one, blocked
  wins. Raises as :func:`gpm`. Lin, Yang, Fan & Zhang, NeurIPS 2022. UNVERIFIED: no code found, written from memory of
  the paper; ``strength`` is said to be small, without a value.
  """
  pull = _pull("cuber", num_tasks, max_rank, strength, skip, layout)

  def init(params):
    state = pull.init(params)
    if tree.is_placeholder(params):
      return state
    room = {name: _room(k.anchor, num_tasks, max_rank) for name, k in state.kernels.items()}
    return state._replace(kernels={name: k._replace(blocked=room[name]) for name, k in state.kernels.items()})

  def update(grads, state, params=None, **extra):
    pulled, _ = pull.update(grads, state, params, **extra)
    blocked = {name: k.blocked for name, k in state.kernels.items()}
    return _project(pulled, blocked, state.tasks, skip, freeze_vectors, layout), state

  return optax.GradientTransformationExtraArgs(init, update)


def cuber_pull(
  num_tasks: int,
  max_rank: int,
  strength: Scalar = 0.01,
  skip: Callable[[str], bool] | None = None,
  layout: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """CUBER's penalty alone: ``G + 2 strength sum_{j in regime 3} S_j S_j^T (W - W_start)``; stands before the optimizer.

  Its state is all that CUBER keeps but ``blocked``; :func:`cuber_projection`, behind the optimizer, holds that.
  :func:`cuber_start_task` and :func:`cuber_end_task` edit both. Arguments as :func:`cuber`.
  """
  return _pull("cuber_pull", num_tasks, max_rank, strength, skip, layout)


def cuber_projection(
  num_tasks: int,
  max_rank: int,
  skip: Callable[[str], bool] | None = None,
  freeze_vectors: bool = True,
  layout: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  """CUBER's projection alone: ``(I - B B^T) U`` on the final update; stands last in a chain, weight decay included.

  ``B`` comes from the state of :func:`cuber_pull` in the same optimizer state, at :func:`cuber_start_task`. Arguments
  as :func:`cuber`, the same as the pull's. Old inputs in the blocked spans keep their pre-activations under any
  optimizer.
  """
  _check("cuber_projection", num_tasks, max_rank, layout)

  def init(params):
    tasks = jnp.zeros((), jnp.int32)
    if tree.is_placeholder(params):
      return CUBERBlocked(tasks, jnp.zeros(()))  # type: ignore[arg-type]  # no part is like the parameters
    found = _kernels.chosen("cuber_projection", params, skip, layout)
    matrices = {name: kernel_layout.matrix(x, layout).astype(common.wide(x)) for name, x in found.items()}
    return CUBERBlocked(tasks, {name: _room(m, num_tasks, max_rank) for name, m in matrices.items()})

  def update(updates, state, params=None, **extra):
    del params, extra
    sizes = {n: (len(b), None) for n, b in state.blocked.items()}
    _kernels.check_names("cuber_projection", updates, sizes, skip, layout)
    return _project(updates, state.blocked, state.tasks, skip, freeze_vectors, layout), state

  return optax.GradientTransformationExtraArgs(init, update)


def _check(owner: str, num_tasks, max_rank, layout) -> None:
  check_count("num_tasks", num_tasks)
  check_count("max_rank", max_rank)
  kernel_layout.check(owner, layout)


def _room(m, num_tasks: int, max_rank: int):
  """An empty basis of blocked directions for the kernel ``m [d_in, c_out]``."""
  d = m.shape[0]
  return _kernels.zeros(m[:, :1], (d, min(d, num_tasks * min(d, max_rank))), m.dtype)


def _pull(owner: str, num_tasks: int, max_rank: int, strength, skip, layout) -> optax.GradientTransformationExtraArgs:
  _check(owner, num_tasks, max_rank, layout)
  check("strength", strength, ">= 0", lambda v: v >= 0)

  def init(params):
    tasks = jnp.zeros((), jnp.int32)
    if tree.is_placeholder(params):
      return CUBERState(tasks, jnp.zeros(()), kernel_layout.mark(layout))  # type: ignore[arg-type]
    out = {}
    for name, x in _kernels.chosen(owner, params, skip, layout).items():
      d, dtype = fan_in(x.shape, layout), common.wide(x)
      m = kernel_layout.matrix(x, layout)
      out[name] = CUBERKernel(
        spans=_kernels.zeros(m[:, :1], (num_tasks, d, min(d, max_rank)), dtype),
        gradients=_kernels.zeros(m, (num_tasks, *m.shape), dtype),
        regime=jnp.zeros(num_tasks, jnp.int32),
        anchor=tree.empty_like(m, dtype),
      )
    return CUBERState(tasks, out, kernel_layout.mark(layout))

  def update(grads, state, params=None, **extra):
    del extra
    if params is None:
      raise UsageError(f"params: got None; {owner}.update needs the parameters for its penalty")
    _kernels.check_names(owner, grads, {n: k.anchor.shape for n, k in state.kernels.items()}, skip, layout)

    def one(name, g, w):
      if name not in state.kernels:
        return g
      k = state.kernels[name]
      drift = kernel_layout.matrix(w, layout).astype(k.anchor.dtype) - k.anchor
      inside = jnp.einsum("tdr,dc->trc", k.spans, drift, precision=common.PRECISION)
      open_spans = (k.regime == 3).astype(k.spans.dtype)
      pull = jnp.einsum("t,tdr,trc->dc", open_spans, k.spans, inside, precision=common.PRECISION)
      moved = kernel_layout.matrix(g, layout).astype(k.anchor.dtype) + 2 * strength * pull
      return jnp.where(jnp.any(k.regime == 3), kernel_layout.unmatrix(moved, g, layout), g)

    return tree.map_named(one, grads, tree.fit(params, grads, "params", extra=True)), state

  return optax.GradientTransformationExtraArgs(init, update)


def _project(updates, blocked: dict, tasks, skip, freeze_vectors: bool, layout):
  """``(I - B B^T) U`` for the kernels; an empty B leaves its kernel alone to the bit."""

  def one(name, u):
    if name not in blocked:
      return _kernels.hold(name, u, freeze_vectors, skip, tasks > 0)
    basis = blocked[name]
    moved = remove_span(basis, kernel_layout.matrix(u, layout).astype(basis.dtype))
    return jnp.where(jnp.any(basis != 0), kernel_layout.unmatrix(moved, u, layout), u)

  return tree.map_named(one, updates)


def cuber_start_task(
  opt_state: OptState, params: Params, grads: Tree, sufficient: Scalar = 0.5, positive: Scalar = 0.0
) -> OptState:
  """Chooses the regimes for a new task from ``grads``, its mean gradient at ``params``, before any step.

  For each kernel and old task: sufficient when ``|S_j^T G| >= sufficient |G|``, positive when
  ``<G_j, G> >= positive |G_j| |G|``. ``sufficient`` above 1 never rewrites anything: GPM. Copies ``params``.
  """
  weights, gradients = tree.by_path(params), tree.by_path(grads)
  closed: dict[str, Any] = {}  # what is blocked from now on, for the states of cuber_projection

  def start(state: CUBERState) -> CUBERState:
    out, layout = {}, kernel_layout.marked(state.layout)
    for path, k in state.kernels.items():
      w = _kernels.read(weights, path, k.anchor, layout, "params")
      g = _kernels.read(gradients, path, k.anchor, layout, "grads")
      inside = jnp.einsum("tdr,dc->trc", k.spans, g, precision=common.PRECISION)
      length = jnp.linalg.norm(g)
      enough = jnp.sqrt(jnp.sum(inside**2, (1, 2))) >= sufficient * length
      agree = jnp.sum(k.gradients * g[None], (1, 2)) >= positive * jnp.sqrt(jnp.sum(k.gradients**2, (1, 2))) * length
      regime = jnp.where(enough, jnp.where(agree, 3, 2), 1)
      regime = jnp.where(jnp.arange(len(regime), dtype=jnp.int32) < state.tasks, regime, 0).astype(jnp.int32)
      shut = ((regime == 1) | (regime == 2)).astype(k.spans.dtype)
      # One basis of the union: projecting off each span in turn would not be orthogonal to all of them.
      union = (k.spans * shut[:, None, None]).transpose(0, 2, 1).reshape(-1, w.shape[0])
      room = _room(k.anchor, len(regime), k.spans.shape[-1])
      closed[path], _, _ = extend_basis(room, jnp.zeros((), jnp.int32), union, 1.0)
      own = None if k.blocked is None else closed[path]
      out[path] = k._replace(regime=regime, blocked=own, anchor=jnp.array(w, copy=True))
    return state._replace(kernels=out)

  opt_state = edit_states(opt_state, CUBERState, start, "cuber_start_task")

  def follow(state: CUBERBlocked) -> CUBERBlocked:
    for path, basis in state.blocked.items():
      if path not in closed or closed[path].shape != basis.shape:
        raise UsageError(f"cuber_projection: no cuber_pull of its sizes holds {path!r}; give both one set of options")
    return state._replace(blocked={path: jnp.array(closed[path], copy=True) for path in state.blocked})

  return tree.edit_nodes(opt_state, CUBERBlocked, follow)[0]


def cuber_end_task(
  opt_state: OptState, layer_inputs: dict[str, Any], grads: Tree, threshold: Scalar = 0.97
) -> OptState:
  """Stores a finished task: a basis of ``threshold`` of ``layer_inputs[path] [n, d_in]``, and its gradient."""
  check("threshold", threshold, "0 to 1", lambda v: (v >= 0) & (v <= 1))
  gradients = tree.by_path(grads)

  def end(state: CUBERState) -> CUBERState:
    out, layout = {}, kernel_layout.marked(state.layout)
    room = min((len(k.regime) for k in state.kernels.values()), default=0)
    check("num_tasks", state.tasks, f"fewer than {room} tasks stored before this one", lambda t: t < room)
    for path, k in state.kernels.items():
      x = _kernels.rows(layer_inputs, path, k.anchor.shape[0])
      span, _, _ = extend_basis(jnp.zeros_like(k.spans[0]), jnp.zeros((), jnp.int32), x, threshold)
      g = _kernels.read(gradients, path, k.anchor, layout, "grads")
      spans, stored = (a.at[state.tasks].set(b, mode="drop") for a, b in ((k.spans, span), (k.gradients, g)))
      out[path] = k._replace(spans=spans, gradients=stored)
    return state._replace(tasks=state.tasks + 1, kernels=out)

  opt_state = edit_states(opt_state, CUBERState, end, "cuber_end_task")
  return tree.edit_nodes(opt_state, CUBERBlocked, lambda s: s._replace(tasks=s.tasks + 1))[0]


def scaled_projection(kernel: Array, basis: Array, scale: Array) -> Array:
  """TRGP's weight ``W - S S^T W + S Q S^T W``: ``kernel [d, c]``, ``basis`` S ``[d, r]``, ``scale`` Q ``[r, r]``."""
  inside = jnp.matmul(basis.T, kernel, precision=common.PRECISION)
  return kernel + jnp.matmul(basis, jnp.matmul(scale, inside, precision=common.PRECISION) - inside)
