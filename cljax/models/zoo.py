"""The zoo: small networks in Linen, each with features, hidden activations and one-draw initialisation."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn

from cljax.core.types import Model, Outputs, UsageError
from cljax.models.initial import flat_init, relu_gain
from cljax.models.linen import from_linen

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu, "elu": nn.elu, "leaky_relu": nn.leaky_relu}


class Unit(NamedTuple):
  """The hidden units of one layer: leaf paths as :func:`cljax.core.tree.paths` names them.

  Unit ``i`` is written by ``in_kernel[..., i]`` and ``in_bias[i]``, read by ``out_kernel[..., i, :]``, and its
  activation is ``outputs.hidden[hidden][..., i]``.
  """

  in_kernel: str
  in_bias: str
  out_kernel: str
  hidden: int


def chain_units(*layers: str) -> tuple[Unit, ...]:
  """One :class:`Unit` between each two layers that follow each other."""
  pairs = enumerate(itertools.pairwise(layers))
  return tuple(Unit(f"{a}/kernel", f"{a}/bias", f"{b}/kernel", i) for i, (a, b) in pairs)


def activation_of(name: str | Callable) -> Callable:
  """An activation by name; a function is taken as it is. Called inside a module, it may make submodules of its own."""
  if callable(name):
    return name
  if name not in ACTIVATIONS:
    raise UsageError(f"activation: got {name!r}; allowed: {', '.join(sorted(ACTIVATIONS))}")
  return ACTIVATIONS[name]


class MLP(nn.Module):
  num_classes: int
  widths: tuple[int, ...]
  activation: str | Callable
  dropout: float

  @nn.compact
  def __call__(self, x, train=False):
    act = activation_of(self.activation)
    x, hidden = x.reshape(x.shape[0], -1), []
    for i, width in enumerate(self.widths):
      x = act(nn.Dense(width, name=f"hidden_{i}")(x))
      hidden.append(x)
      if self.dropout:
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return Outputs(nn.Dense(self.num_classes, name="head")(x), x, tuple(hidden))


def mlp(
  input_shape: Sequence[int], num_classes: int, hidden: Sequence[int] = (256, 256),
  activation: str | Callable = "relu", dropout: float = 0.0,
) -> Model:  # fmt: skip
  """A multilayer perceptron on the flattened input; ``hidden`` are the widths, ``dropout`` the rate after each.

  ``activation``: a name of ACTIVATIONS or a function.
  """
  activation_of(activation)
  module = MLP(num_classes, tuple(hidden), activation, dropout)
  units = chain_units(*(f"hidden_{i}" for i in range(len(tuple(hidden)))), "head")
  again = lambda activation: mlp(input_shape, num_classes, hidden, activation, dropout)
  init = functools.partial(flat_init, gain=relu_gain)
  return from_linen(module, input_shape, init=init, units=units, with_activation=again)
