"""Gates on hidden units: what XdG and HAT share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.types import Model, UsageError


def layers_of(model: Model, owner: str) -> dict[str, Any]:
  """``{str(layer): unit}`` of a model whose units form a chain; UsageError, which names ``owner``, for another."""
  units: Sequence[Any] = model.units
  if not units:
    raise UsageError(f"method.name: {owner!r} needs a model that names its units, such as the zoo's mlp or cnn")
  for first, second in itertools.pairwise(units):
    if first.out_kernel != second.in_kernel:
      raise UsageError(
        f"method.name: {owner!r} needs units that form a chain; {first.out_kernel!r} is not {second.in_kernel!r}"
      )
  return {str(i): unit for i, unit in enumerate(units)}


def sizes(model: Model, layers: Mapping[str, Any]) -> dict[str, int]:
  """How many units each layer has."""
  named = tree.by_path(jax.eval_shape(model.init, jax.random.key(0))[0])
  return {i: named[unit.in_kernel].shape[-1] for i, unit in layers.items()}


def gated(weights, layers: Mapping[str, Any], gates: Mapping[str, Any]):
  """The parameters of the network whose units answer ``gate_i h_i``: row i of what reads them is ``gate_i`` times it.

  ``gates {layer: [n]}``. What a network gives as hidden values and features is before the gates."""
  named = tree.by_path(weights)
  edits = {}
  for i, gate in gates.items():
    kernel = named[layers[i].out_kernel]
    edits[layers[i].out_kernel] = kernel * jnp.asarray(gate, kernel.dtype)[:, None].reshape(
      *(1,) * (kernel.ndim - 2), -1, 1
    )
  return tree.edit_leaves(weights, edits)
