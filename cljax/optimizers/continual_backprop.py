"""Continual backprop: a tiny fraction of low-utility mature units is reset after each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.checks import check_choice, check_scalar
from cljax.core.dtypes import wide
from cljax.core.layout import in_out_only
from cljax.core.opt_state import edit_moments
from cljax.core.tree import edit_leaves, leaf, paths
from cljax.core.types import Array, OptState, Params, Scalar, UsageError


class CbpState(NamedTuple):
  """Per hidden layer, in the order of ``units``: age, utility and mean activation ``[n]``, and units due ``[]``; in the
  dtype of the layer's kernel, but at least float32."""

  age: Any
  utility: Any
  mean: Any
  due: Any


def continual_backprop_init(params: Params, units: Sequence[Any]) -> CbpState:
  """``units``: for each hidden layer the paths ``in_kernel [..., n]``, ``in_bias [n]``, ``out_kernel [..., n, out]``
  and the index ``hidden`` of its activations, as ``Model.units`` has them. Kernels of Equinox and PyTorch, ``[out, in,
  ...]``, are not read: transpose them. Raises UsageError for no units, a wrong path or an Equinox module."""
  if not units:
    raise UsageError("continual_backprop: the model names no units; give a Model with units, such as the zoo's mlp")
  in_out_only("continual_backprop", params)
  kernels = [leaf(params, u.in_kernel) for u in units]
  zeros = lambda: tuple(jnp.zeros(w.shape[-1], wide(w.dtype)) for w in kernels)
  ages = tuple(jnp.zeros(w.shape[-1], jnp.int32) for w in kernels)
  return CbpState(ages, zeros(), zeros(), tuple(jnp.zeros((), wide(w.dtype)) for w in kernels))


def _row_mean(h, weight):
  """Mean of ``h [B, ..., n]`` over all but the last axis; rows of weight 0 are absent."""
  w = (weight != 0).reshape(-1, *(1,) * (h.ndim - 1))
  each = jnp.sum(jnp.where(w, h, 0), axis=tuple(range(h.ndim - 1)))
  return each / jnp.maximum(jnp.sum(w) * (h[0, ..., 0].size), 1).astype(each.dtype)


def _warm(decay, age, dtype):
  """``1 - decay^age``, with all the digits that the dtype has: the power alone would round to it near 1."""
  return -jnp.expm1(age.astype(dtype) * jnp.log1p(-jnp.asarray(1 - decay, dtype)))


def continual_backprop_step(
  key: Array, params: Params, opt_state: OptState, state: CbpState, hidden: Sequence[Array], weight: Array,
  units: Sequence[Any], *, rate: Scalar = 1e-4, maturity: Scalar = 100, decay: Scalar = 0.99,
  utility: str = "contribution", gain: Scalar = 2.0**0.5, compensate: bool = True,
) -> tuple[Params, OptState, CbpState]:  # fmt: skip
  """One call after each optimizer step; returns ``(params, opt_state, state)``.

  ``f <- decay f + (1 - decay) mean h``; ``u`` likewise of ``mean|h| mean|w_out|`` ('contribution') or of
  ``mean|h - f/c| mean|w_out| / mean|w_in|`` ('adaptable'), ``c = 1 - decay^age``. Of the units older than ``maturity``,
  ``rate`` times their number (fractions accumulate) are reset each step, lowest ``u/c`` first: new incoming weights
  uniform within ``gain sqrt(3 / fan_in)``, bias and outgoing weights 0, age, u and f 0, the optimizer's moments there
  0. With ``compensate`` the next bias takes over the mean contribution ``w_out f/c`` that goes (the paper's intent;
  in the published code it is always 0). Optax counts steps once, so per-weight step counts are not reset.

  hidden: the activations ``[B, ..., n]`` per layer; weight ``[B]``, rows of 0 are absent. Raises UsageError for another
  utility or a rate outside [0, 1]. Dohare et al. 2024.
  """
  check_choice("continual_backprop", "utility", utility, ("contribution", "adaptable"))
  check_scalar("continual_backprop", "rate", rate, 0, 1)
  check_scalar("continual_backprop", "decay", decay, 0, 1)
  out, before = [], params
  for i, unit in enumerate(units):
    w_in, w_out = leaf(before, unit.in_kernel), leaf(before, unit.out_kernel)
    h = hidden[unit.hidden]
    age = state.age[i] + 1
    correction = _warm(decay, age, state.mean[i].dtype)
    mean = decay * state.mean[i] + (1 - decay) * _row_mean(h, weight)
    outgoing = jnp.mean(jnp.abs(w_out), axis=tuple(a for a in range(w_out.ndim) if a != w_out.ndim - 2))
    if utility == "contribution":
      now = _row_mean(jnp.abs(h), weight) * outgoing
    else:
      incoming = jnp.mean(jnp.abs(w_in), axis=tuple(range(w_in.ndim - 1)))
      now = _row_mean(jnp.abs(h - mean / correction), weight) * outgoing / jnp.maximum(incoming, 1e-30)
    worth = decay * state.utility[i] + (1 - decay) * now

    eligible = age > maturity
    due = state.due[i] + rate * jnp.sum(eligible).astype(state.due[i].dtype)
    number = jnp.floor(due)
    rank = jnp.argsort(jnp.argsort(jnp.where(eligible, worth / correction, jnp.inf)))
    reset = eligible & (rank < number.astype(rank.dtype))
    bound = gain * (3.0 / (w_in.size // w_in.shape[-1])) ** 0.5

    def renew(carry, i=i, unit=unit, reset=reset, bound=bound, removed=mean / correction):
      params, opt_state = carry
      w_in, w_out = leaf(params, unit.in_kernel), leaf(params, unit.out_kernel)
      drawn = jax.random.uniform(jax.random.fold_in(key, i), w_in.shape, w_in.dtype, -1.0, 1.0) * bound
      edits = {
        unit.in_kernel: jnp.where(reset, drawn, w_in).astype(w_in.dtype),
        unit.in_bias: jnp.where(reset, 0, leaf(params, unit.in_bias)),
        unit.out_kernel: jnp.where(reset[:, None], 0, w_out),
      }
      next_bias = unit.out_kernel.rpartition("/")[0] + "/" + unit.in_bias.rpartition("/")[2]
      if compensate and next_bias in paths(params):
        moved = jnp.where(reset, removed, 0)[:, None] * w_out
        bias = leaf(params, next_bias)
        edits[next_bias] = (bias + jnp.sum(moved, axis=tuple(range(moved.ndim - 1)))).astype(bias.dtype)
      where = {unit.in_kernel: reset, unit.in_bias: reset, unit.out_kernel: reset[:, None]}
      emptied = lambda name, m: jnp.where(where[name], 0, m).astype(m.dtype) if name in where else m
      return edit_leaves(params, edits), edit_moments(opt_state, params, emptied)

    params, opt_state = jax.lax.cond(jnp.any(reset), renew, lambda carry: carry, (params, opt_state))
    zeroed = lambda x, reset=reset: jnp.where(reset, 0, x).astype(x.dtype)
    out.append((zeroed(age), zeroed(worth), zeroed(mean), due - number))
  return params, opt_state, CbpState(*(tuple(v) for v in zip(*out, strict=True)))
