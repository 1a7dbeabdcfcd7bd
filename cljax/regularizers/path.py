"""Path-integral importance as optax transforms: SI, and its layer-weighted form."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core.checks import check_choice, check_count, check_scalar
from cljax.core.dtypes import wide
from cljax.core.tree import by_path, empty_like, is_placeholder, product
from cljax.regularizers._state import (
  abs2,
  align,
  check_covers,
  check_params,
  check_updates,
  difference,
  each,
  keep,
  keep_zeros,
  label,
  quadratic_pull,
  scalar,
  times,
)
from cljax.regularizers.decoupled import placed, weighted
from cljax.regularizers.quadratic import recast


class SiState(NamedTuple):
  name: Any
  anchor: Any  # parameters at the last boundary, where the running task started
  importance: Any  # Omega
  path: Any  # omega: -sum of gradient * movement since the boundary
  last_params: Any  # parameters at the last update; () where movements are told
  last_gradient: Any  # the gradient received then; ()
  damping: Any


class HierarchicalState(NamedTuple):
  name: Any
  anchor: Any
  importance: Any
  path: Any
  last_params: Any
  last_gradient: Any
  damping: Any
  layer_weight: Any  # one scalar a leaf: the softmax weight of its layer
  layers: Any = ()  # what a layer is and how norms are scaled, as a name without leaves


def _init(name, params, damping, state_dtype, told: bool = False) -> SiState:
  check_covers(name, params)
  zeros = lambda: keep_zeros(params, state_dtype)
  now = lambda: keep(params, state_dtype)
  anchor, importance, path = now(), zeros(), zeros()
  last, slope = ((), ()) if told else (now(), keep_zeros(params, state_dtype, real=False))
  return SiState(label(name), anchor, importance, path, last, slope, scalar(damping))


def _is_told(state) -> bool:
  return not jax.tree.leaves(state.last_params)


def _minus(w, g, moved):
  """``w - g * moved``, in the dtype of ``w``."""
  dtype = wide(w.dtype)
  return (w.astype(dtype) - product(g.astype(moved.dtype), moved).astype(dtype)).astype(w.dtype)


def _walk(state, params):
  """``omega`` with the movement since the last update, which the last gradient caused, added."""
  if _is_told(state):
    return state.path
  step = lambda w, g, p, q: _minus(w, g, difference(p, q))
  return jax.tree.map(step, state.path, state.last_gradient, params, state.last_params)


def walked(state: SiState, gradient, movement) -> SiState:
  """The state of :func:`si` under ``told`` after the parameters moved by ``movement``: ``omega -= gradient * it``."""
  owner = next(iter(state.name))
  gradient, movement = (align(t, state.path, owner, n) for t, n in ((gradient, "gradient"), (movement, "movement")))
  step = lambda w, g, u: _minus(w, g, u.astype(wide(u.dtype)))
  return state._replace(path=jax.tree.map(step, state.path, gradient, movement))


def _advance(state, updates, params, damping):
  """The state after one update: the path walked so far, and where and with what gradient it stands."""
  if _is_told(state):
    return state._replace(damping=scalar(damping))
  gradient = each(lambda like, u: jnp.zeros_like(like) if u is None else u, state.last_gradient, updates)
  return state._replace(
    path=_walk(state, params),
    last_params=recast(params, state.last_params),
    last_gradient=recast(gradient, state.last_gradient),
    damping=scalar(damping),
  )


def si(
  strength, damping=0.1, name: str = "si", state_dtype=None, nonnegative: bool = False, decoupled: bool = False,
  learning_rate=None, told: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Synaptic intelligence: adds the gradient of ``strength * sum Omega (theta - theta*)^2``, which is ``2 * ...``.

  Each step ``omega_i += -g_i * (applied movement of theta_i)``, with the movement read from the parameters of the next
  call; ``consolidate(opt_state, params)`` flushes it and sets ``Omega += omega / ((theta - theta_start)^2 + damping)``.
  ``g`` is the update this transform receives, so it stands first in the chain: behind clipping, another penalty or an
  optimizer it would integrate their output.

  ``decoupled`` and ``learning_rate`` as of ``ewc``: ``a = 2 * learning_rate * strength * max(Omega, 0)``, behind the
  optimizer. The path is still that of the raw gradient, which has to be told: ``tx.update(updates, state, params,
  grad=gradient)``, ``optax.chain`` passes it on (``optax.MultiSteps`` that of the last micro batch alone).

  told: the state keeps neither the parameters nor the gradient of the last update: after each step the caller adds what
  they are for, by ``walked(state, gradient, movement)`` of :mod:`cljax.regularizers.path`. That is three copies of the
  parameters where there were five, and as much less to read and write in a step.

  damping: xi > 0, in squared parameter units. Omega may turn negative, as in FACIL and mammoth; ``nonnegative`` uses
  ``max(Omega, 0)`` in the penalty. Raises as ``ewc``, where damping is not above 0, and ``decoupled`` without ``grad``
  in update. Zenke et al. 2017.
  """
  check_scalar(name, "strength", strength)
  check_scalar(name, "damping", damping, above=True)

  def init(params):
    return _init(name, params, damping, state_dtype, told)

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, state.anchor)
    check_updates(name, updates, state.anchor)
    new = _advance(state, updates, params, damping)
    importance = jax.tree.map(lambda w: jnp.maximum(w, 0), state.importance) if nonnegative else state.importance
    return quadratic_pull(updates, params, state.anchor, importance, 2.0 * strength), new

  tx = optax.GradientTransformationExtraArgs(init, update)
  return placed(name, tx, weighted(lambda: 2.0 * strength), decoupled, learning_rate, path=True)


def _per_movement(path, square, damping):
  return path / (square.astype(path.dtype) + damping.astype(path.dtype))


def consolidate_path(state, params, importance=None):
  """``Omega += importance`` if given, else the path integral over the squared movement; a new path starts at params."""
  damping = jax.tree.leaves(state.damping)[0]
  if importance is None:
    walked = _walk(state, params)
    importance = jax.tree.map(
      lambda w, p, a: _per_movement(w.astype(wide(w.dtype)), abs2(difference(p, a)), damping),
      walked,
      params,
      state.anchor,
    )
  total = jax.tree.map(
    lambda o, n: (o.astype(wide(o.dtype)) + n.astype(wide(o.dtype))).astype(o.dtype), state.importance, importance
  )
  return state._replace(
    anchor=recast(params, state.anchor),
    importance=total,
    path=jax.tree.map(empty_like, state.path),
    last_gradient=jax.tree.map(empty_like, state.last_gradient),
  )


SCALINGS = ("none", "max")


def layer_weights(importance, depth: int | None = None, normalise: str = "none"):
  """``softmax_l(||Omega_l||_2)``, one scalar a leaf; the leaves of one module (one parent path) are one layer.

  depth: so many leading names of its path make a leaf's layer instead: 1 for the blocks of a network. normalise 'max':
  norms over the largest, so that no layer has more than e times the weight of another, however large they are.
  """
  if is_placeholder(importance):
    return scalar(1.0)  # one leaf for the whole tree: these are no parameters
  square = {p: jnp.sum(jnp.square(v.astype(wide(v.dtype)))) for p, v in by_path(importance).items()}
  above = lambda p: p.split("/")[:-1]
  layer = {p: tuple(above(p)[:depth]) for p in square}
  names = list(dict.fromkeys(layer.values()))
  norms = jnp.sqrt(jnp.stack([sum(square[p] for p in square if layer[p] == n) for n in names]))
  if normalise == "max":
    norms = norms / jnp.where(norms.max() > 0, norms.max(), 1)
  weights = jax.nn.softmax(norms)
  return jax.tree.unflatten(jax.tree.structure(importance), [weights[names.index(layer[p])] for p in square])


def hierarchical(
  strength=math.exp(-3), damping=0.1, name: str = "hierarchical", state_dtype=None, decoupled: bool = False,
  learning_rate=None, depth: int | None = None, normalise: str = "none",
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Layer- and element-wise anchoring: the gradient of ``strength * sum_l s_l sum_{i in l} Omega_i (t_i - t*_i)^2``.

  ``Omega`` is SI's, or what ``consolidate(importance=...)`` is given; ``s = softmax_l(||Omega_l||_2)``, a layer being
  the leaves with one parent path, or, with ``depth``, those whose paths begin with the same so many names (1: blocks).
  Large norms saturate the softmax: ``normalise`` 'max' takes them over the largest. The place of ``s_l`` inside the sum
  is UNVERIFIED. Stands first in the chain, as ``si``. ``decoupled`` and ``learning_rate`` as of
  ``si``, ``a = 2 * learning_rate * strength * s_l * max(Omega, 0)``. Song et al. 2025.
  """
  check_scalar(name, "strength", strength)
  check_scalar(name, "damping", damping, above=True)
  check_choice(name, "normalise", normalise, SCALINGS)
  if depth is not None:
    check_count(f"{name}: depth", depth)

  def init(params):
    state = _init(name, params, damping, state_dtype)
    weight = layer_weights(state.importance, depth, normalise)
    return HierarchicalState(*state, layer_weight=weight, layers={normalise: label(str(depth or ""))})

  def by_layer(state):
    return jax.tree.map(times, state.layer_weight, state.importance)

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, state.anchor)
    check_updates(name, updates, state.anchor)
    new = _advance(state, updates, params, damping)
    return quadratic_pull(updates, params, state.anchor, by_layer(state), 2.0 * strength), new

  def quadratic(state, params):
    return weighted(lambda: 2.0 * strength)(state._replace(importance=by_layer(state)), params)

  tx = optax.GradientTransformationExtraArgs(init, update)
  return placed(name, tx, quadratic, decoupled, learning_rate, path=True)


def consolidate_hierarchical(state: HierarchicalState, params, importance=None) -> HierarchicalState:
  state = consolidate_path(state, params, importance)
  normalise, depth = "none", None
  if state.layers:
    normalise = next(iter(state.layers))
    depth = int(next(iter(state.layers[normalise])) or 0) or None
  weights = layer_weights(state.importance, depth, normalise)
  return state._replace(layer_weight=recast(weights, state.layer_weight))
