"""K-FAC EWC: a quadratic penalty with a Kronecker-factored precision for each layer, one pair for all tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import layers, tree
from cljax.core import layout as kernel_layout
from cljax.core.checks import check_choice, check_scalar
from cljax.core.dtypes import wide
from cljax.core.opt_state import edit_states
from cljax.core.types import Array, OptState, Params, Scalar, UsageError
from cljax.regularizers._state import add, check_covers, check_params, label

MERGES = ("kl", "additive")


class KfacState(NamedTuple):
  """``anchor {leaf: array}`` of kernels and their biases; the precision ``inputs (x) outputs`` of each kernel."""

  name: Any
  anchor: dict[str, Any]
  inputs: dict[str, Any]
  outputs: dict[str, Any]


def kfac_ewc(
  strength: Scalar,
  prior: Scalar = 0.0,
  skip: Callable[[str], bool] | None = None,
  biases: bool = True,
  layout: str | None = None,
  name: str = "kfac_ewc",
) -> optax.GradientTransformationExtraArgs:
  """K-FAC EWC: adds the gradient of ``strength/2 sum_l tr(D_l^T L_l D_l R_l)``, ``D = [W; b] - [W; b]*`` of each layer.

  ``L (x) R`` is the precision of all finished tasks, of which :func:`kfac_consolidate` adds one; the anchor is the
  newest end point (online Laplace). The gradient is ``strength * L D R``: no Kronecker product is formed. A penalty
  needs no damping. Before the first task updates pass bit for bit.

  Args:
    strength: lambda, at least 0, may be traced. With precisions of ``rows`` times a mean it is 1 where losses are sums.
    prior: the precision that the state starts with, around 0: ``L = R = sqrt(prior) I``; 0 is none.
    skip, biases, layout: which kernels are left alone, whether biases go with them, as of ``cljax.projectors.owm``.

  Stands before the optimizer. SGD diverges where ``rate * strength * |L| |R| > 2``. Memory: ``d^2 + c^2`` numbers a
  layer. Raises UsageError: no kernel; complex parameters; no ``params`` in update; strength or prior below 0. Ritter,
  Botev and Barber 2018; spec S11.1.
  """
  check_scalar(name, "strength", strength)
  check_scalar(name, "prior", prior)
  kernel_layout.check(name, layout)

  def init(params):
    if tree.is_placeholder(params):
      return KfacState(label(name), *(jnp.zeros(()) for _ in range(3)))  # type: ignore[arg-type]
    check_covers(name, params)
    anchor, inputs, outputs, leaves = {}, {}, {}, tree.by_path(params)
    for layer in layers.found(name, params, skip, biases, layout):
      kind = wide(leaves[layer.kernel].dtype)
      for leaf in (layer.kernel, layer.bias):
        if leaf is not None:
          anchor[leaf] = tree.empty_like(leaves[leaf], kind)
      root = jnp.sqrt(jnp.asarray(prior, kind))
      inputs[layer.kernel] = root * jnp.eye(layer.inputs, dtype=kind)
      outputs[layer.kernel] = root * jnp.eye(layer.outputs, dtype=kind)
    return KfacState(label(name), anchor, inputs, outputs)

  def update(updates, state, params=None, **extra):
    del extra
    now = tree.by_path(check_params(name, params, updates))
    leaves = tree.by_path(updates)
    for leaf, x in leaves.items():
      if jnp.ndim(x) >= 2 and leaf not in state.inputs and not (skip and skip(leaf)):
        raise UsageError(f"{name}: updates: leaf {leaf!r} is unexpected; init must see parameters of the same paths")
    for leaf, anchor in state.anchor.items():
      if leaf not in leaves and leaf not in state.inputs:
        continue  # a bias without an update
      if leaf not in leaves or leaves[leaf].shape != anchor.shape:
        got = f"shape {leaves[leaf].shape}" if leaf in leaves else "missing"
        raise UsageError(f"{name}: updates: leaf {leaf!r} is {got}; expected shape {anchor.shape}")
    out = dict(leaves)
    for kernel, left in state.inputs.items():
      bias = _bias(kernel, state.anchor, layout) if biases else None
      away = {n: now[n].astype(left.dtype) - state.anchor[n] for n in (kernel, bias) if n is not None}
      moved = layers.product(left, layers.joined(kernel, away, bias, layout), state.outputs[kernel])
      pull = layers.parted(jnp.asarray(strength).astype(left.dtype) * moved, kernel, away, bias, layout)
      out |= {n: add(leaves[n], p) for n, p in pull.items() if n in leaves}
    return tree.map_named(lambda n, u: out[n], updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def _bias(kernel: str, leaves, layout):
  return layers.bias_of(kernel, leaves, layout)


def kfac_consolidate(
  opt_state: OptState, params: Params, factors: Mapping[str, tuple[Array, Array]], rows: Scalar = 1.0, merge: str = "kl"
) -> OptState:
  """Ends a task: every :class:`KfacState` in ``opt_state`` anchored at ``params``, ``rows * A (x) G`` added to its
  precision by :func:`kronecker_sum`.

  ``factors``: ``{kernel path: (A [d, d], G [c, c])}`` as from ``cljax.estimators.kronecker_factors``, the mean over
  the task's rows; ``rows``: their number (the precision of a task is the sum over its rows). Raises UsageError: no such
  state, a kernel without factors, factors of another size, an unknown ``merge``.
  """
  check_choice("kfac_consolidate", "merge", merge, MERGES)
  given = tree.by_path(params)

  def end(state: KfacState) -> KfacState:
    inputs, outputs = {}, {}
    for kernel, left in state.inputs.items():
      right = state.outputs[kernel]
      if kernel not in factors:
        raise UsageError(f"factors: {kernel!r} is missing; give it, or exclude the kernel by skip=")
      a, g = (jnp.asarray(f) for f in factors[kernel])
      if a.shape != left.shape or g.shape != right.shape:
        raise UsageError(f"factors: {kernel!r} has {a.shape} and {g.shape}; expected {left.shape} and {right.shape}")
      more = jnp.asarray(rows).astype(left.dtype) * a.astype(left.dtype), g.astype(right.dtype)
      inputs[kernel], outputs[kernel] = kronecker_sum((left, right), more, merge)
    anchor = {n: jnp.array(given[n], dtype=x.dtype, copy=True) for n, x in state.anchor.items()}
    return KfacState(state.name, anchor, inputs, outputs)

  return edit_states(opt_state, KfacState, end, "kfac_consolidate")


def kronecker_sum(
  old: tuple[Array, Array], new: tuple[Array, Array], merge: str = "kl", steps: int = 300
) -> tuple[Array, Array]:
  """``(E, F)`` with ``E (x) F`` near ``L (x) R + A (x) G``, of ``old = (L, R)`` and ``new = (A, G)``, symmetric and at
  least 0.

  'kl': a local minimum of the divergence of N(0, (E (x) F)^-1) and that of the sum, by ``steps`` of ``E <- .7 E + .3
  (e1 L + e2 A)``, ``e1 = tr(R F^-1) / r``, ``e2 = tr(G F^-1) / r``, and F alike; ``r``: the rank, so that singular
  factors do too. T equal tasks give T times one, exactly. All stay in the span of the given two, so that one
  decomposition of each pair serves all steps. 'additive': ``(L + pi A, R + G / pi)``, ``pi^2 = tr L tr G / (tr R tr
  A)``, whose product has the cross terms: T equal tasks give T^2 times one. Kao et al. 2021; spec S11.1.
  """
  (left, right), (a, g) = old, new
  traces = [jnp.trace(m) for m in (left, right, a, g)]
  unit = [m / jnp.where(t > 0, t, 1) for m, t in zip((left, right, a, g), traces, strict=True)]
  weight = jnp.stack([traces[0] * traces[1], traces[2] * traces[3]])
  whole = jnp.where(weight.sum() > 0, weight.sum(), 1)
  weight = weight / whole
  start = jnp.sqrt(weight)
  x = y = start  # E = x0 L + x1 A and F = y0 R + y1 G, of trace 1 each
  if merge == "kl":
    ins, outs = _shares(unit[0], unit[2]), _shares(unit[1], unit[3])

    def step(_, both):
      x, y = both
      return 0.7 * x + 0.3 * weight * _traces(outs, y), 0.7 * y + 0.3 * weight * _traces(ins, x)

    x, y = jax.lax.fori_loop(0, steps, step, (x, y))
  root = jnp.sqrt(whole)
  return root * (x[0] * unit[0] + x[1] * unit[2]), root * (y[0] * unit[1] + y[1] * unit[3])


def _shares(a, b):
  """``(share [d], there [d])``: in a basis in which ``a + b`` is 1, ``a`` is diagonal of these shares; False where the
  sum is singular."""
  values, vectors = jnp.linalg.eigh(a + b)
  there = values > jnp.finfo(values.dtype).eps * len(values) * values[-1]
  scaled = vectors * jnp.where(there, 1 / jnp.sqrt(jnp.where(there, values, 1)), 0)[None]
  inside = layers.product(scaled.T, a, scaled)
  share = jnp.clip(jnp.linalg.eigvalsh(0.5 * (inside + inside.T)), 0, 1)
  # Rising: the zeros of what is not there stand first.
  return share, jnp.arange(len(values), dtype=jnp.int32) >= len(values) - there.sum(dtype=jnp.int32)


def _traces(shares, x):
  """``[tr(a (x0 a + x1 b)^+), tr(b (x0 a + x1 b)^+)] / rank`` of :func:`_shares`."""
  share, there = shares
  both = x[0] * share + x[1] * (1 - share)
  inverse = jnp.where(there & (both > 0), 1 / jnp.where(both > 0, both, 1), 0)
  return jnp.stack([(share * inverse).sum(), ((1 - share) * inverse).sum()]) / jnp.maximum(
    there.sum().astype(share.dtype), 1
  )
