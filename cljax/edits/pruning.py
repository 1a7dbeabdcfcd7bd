"""CLNP: neurons that a task uses are frozen, edges that could disturb them are cut, the free ones learn the next
task."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cljax.core import layout as kernel_layout
from cljax.core import tree
from cljax.core.checks import check_scalar
from cljax.core.opt_state import edit_states
from cljax.core.tree import edit_leaves, leaf, paths
from cljax.core.types import Array, OptState, Params, Scalar, Tree, UsageError


class ClnpState(NamedTuple):
  """Which neurons and which classes belong to finished tasks of :func:`clnp`."""

  owned: Any  # per hidden layer [n] bool: neurons of a finished task
  outputs: Any  # [C] bool: classes of the finished tasks


class ClnpUnits(NamedTuple):
  """Units of each hidden layer ``[L]`` int32, after a task: owned by none, used by it, of these owned before."""

  free: Any
  used: Any
  reused: Any


def clnp_units(before: ClnpState, used: Sequence[Array]) -> ClnpUnits:
  """Counts at the end of a task that uses the units ``used``, per hidden layer ``[n]`` bool, of the state before it."""
  count = lambda masks: jnp.stack([m.sum(dtype=jnp.int32) for m in masks])
  pairs = [(o, jnp.asarray(u, bool)) for o, u in zip(before.owned, used, strict=True)]
  return ClnpUnits(count([~(o | u) for o, u in pairs]), count([u for _, u in pairs]), count([o & u for o, u in pairs]))


def clnp_init(params: Params, units: Sequence[Any], layout: str | None = None) -> ClnpState:
  """``units`` as in ``continual_backprop_init``, in order: each layer's outgoing kernel is the next one's incoming.

  ``layout`` says how kernels lie, as for :func:`cljax.projectors.gpm`. Raises UsageError for no units, units that do
  not form a chain, a path that is not there, or an Equinox module without a layout.
  """
  kernel_layout.check("clnp", layout)
  kernel_layout.told("clnp", params, layout)
  if not units:
    raise UsageError("clnp: the model names no units; give a Model with units, such as the zoo's mlp")
  for first, second in itertools.pairwise(units):
    if first.out_kernel != second.in_kernel:
      raise UsageError(f"clnp: units must form a chain; {first.out_kernel!r} is not {second.in_kernel!r}")
  outputs = lambda path: jnp.zeros(kernel_layout.fan_out(leaf(params, path).shape, layout), bool)
  return ClnpState(tuple(outputs(u.in_kernel) for u in units), outputs(units[-1].out_kernel))


def clnp_threshold(evaluate: Callable[[Array], Array], thresholds: ArrayLike, margin: Scalar = 0.05) -> Array:
  """The largest of ``thresholds`` with ``evaluate(threshold) >= evaluate(0) - margin``; 0 where none has.

  ``evaluate(threshold) -> accuracy`` of the network with only the neurons whose mean activity is above the threshold.
  Graceful forgetting: margin is the accuracy given up. Raises UsageError for a negative margin.
  """
  check_scalar("clnp", "margin", margin)
  floor = evaluate(jnp.zeros(())) - margin
  thresholds = jnp.asarray(thresholds)
  return jnp.max(jnp.where(jax.lax.map(evaluate, thresholds) >= floor, thresholds, 0.0))


def _layers(params, state: ClnpState, units):
  """(kernel path, bias path or None, owned inputs or None, owned outputs) of each layer, the head last."""
  last = units[-1].out_kernel.rpartition("/")[0] + "/" + units[-1].in_bias.rpartition("/")[2]
  kernels: list = [(u.in_kernel, u.in_bias) for u in units]
  kernels.append((units[-1].out_kernel, last if last in paths(params) else None))
  inputs, outputs = (None, *state.owned), (*state.owned, state.outputs)
  return [(k, b, i, o) for (k, b), i, o in zip(kernels, inputs, outputs, strict=True)]


def clnp_end_task(
  params: Params, state: ClnpState, units: Sequence[Any], used: Sequence[Array], classes: ArrayLike,
  layout: str | None = None,
) -> tuple[Params, ClnpState]:  # fmt: skip
  """Ends a task: neurons in ``used`` and the classes in ``classes [C]`` are owned from now on; returns (params, state).

  used: per hidden layer ``[n]`` bool, mean activity above the threshold. Edges from free neurons to owned ones are
  set to 0, so nothing learned later reaches them; owned to free edges stay (forward transfer). The outputs of the
  task are unchanged by all later training under ``clnp_trainable`` (BatchNorm apart). Golkar, Kagan and Cho 2019.
  """
  state = ClnpState(
    tuple(o | u for o, u in zip(state.owned, used, strict=True)), state.outputs | jnp.asarray(classes, bool)
  )
  edits = {}
  for kernel, _, inputs, outputs in _layers(params, state, units):
    if inputs is not None:
      edits[kernel] = _zeroed(~inputs[:, None] & outputs[None, :], leaf(params, kernel), layout)
  return edit_leaves(params, edits), state


def _zeroed(mask, x, layout: str | None = None):
  """``x`` with zero where ``mask``, which stands on the last axes of a kernel ``[..., in, out]`` or of a bias."""
  if x.ndim < 2:
    return jnp.where(mask, jnp.zeros_like(x), x)
  kernel = kernel_layout.in_out(x, layout)
  mask = mask.reshape((1,) * (kernel.ndim - mask.ndim) + mask.shape)
  return kernel_layout.back(jnp.where(mask, jnp.zeros_like(kernel), kernel), layout)


def clnp_trainable(updates: Tree, state: ClnpState, units: Sequence[Any], layout: str | None = None) -> Tree:
  """``updates`` with zero for every weight and bias into an owned neuron or class; apply it to the final update."""
  edits = {}
  for kernel, bias, _, outputs in _layers(updates, state, units):
    for path in (kernel, bias):
      if path is not None:
        shape = leaf(updates, path).shape
        if kernel_layout.fan_out(shape, layout) != outputs.size:
          raise UsageError(f"clnp: {path!r} has shape {shape}; its state is of {outputs.size} outputs")
        edits[path] = _zeroed(outputs, leaf(updates, path), layout)
  return edit_leaves(updates, edits)


def clnp(units: Sequence[Any], layout: str | None = None) -> optax.GradientTransformationExtraArgs:
  """:func:`clnp_trainable` on the final update, the :class:`ClnpState` in its own state. Stands last in a chain."""

  def init(params):
    if tree.is_placeholder(params):  # no part of the state is like the parameters
      return ClnpState(tuple(jnp.zeros(()) for _ in units), jnp.zeros(()))
    return clnp_init(params, units, layout)

  def update(updates, state, params=None, **extra):
    del params, extra
    return clnp_trainable(updates, state, units, layout), state

  return optax.GradientTransformationExtraArgs(init, update)


def clnp_state(opt_state: OptState) -> ClnpState:
  """The state of :func:`clnp` inside an optimizer state; UsageError where there is none."""
  is_state = lambda s: isinstance(s, ClnpState)
  found = [s for s in jax.tree.leaves(opt_state, is_leaf=is_state) if is_state(s)]
  if not found:
    raise UsageError("opt_state: no clnp state in it; is clnp in the chain?")
  return tree.unboxed(found[0])


def clnp_consolidate(
  params: Params, opt_state: OptState, units: Sequence[Any], used: Sequence[Array], classes: ArrayLike,
  layout: str | None = None,
) -> tuple[Params, OptState]:  # fmt: skip
  """:func:`clnp_end_task` with the state inside ``opt_state``; returns ``(params, opt_state)``."""
  params, state = clnp_end_task(params, clnp_state(opt_state), units, used, classes, layout)
  return params, edit_states(opt_state, ClnpState, lambda _: state, "clnp")
