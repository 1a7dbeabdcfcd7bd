"""Zoo models by name, for configurations."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from cljax.models.images import cnn, resnet18, vit
from cljax.models.zoo import mlp
from cljax.types import Model, UsageError

ZOO: dict[str, Callable[..., Model]] = {"mlp": mlp, "cnn": cnn, "resnet18": resnet18, "vit": vit}


def options(name: str) -> dict:
  """The options of a zoo model and their defaults; UsageError for an unknown name."""
  if name not in ZOO:
    raise UsageError(f"model: got {name!r}; allowed: {', '.join(ZOO)}")
  parameters = inspect.signature(ZOO[name]).parameters
  return {n: p.default for n, p in parameters.items() if p.default is not p.empty}


def build(name: str, input_shape, num_classes: int, **given) -> Model:
  """The zoo model ``name``; UsageError for an unknown name or option."""
  known = options(name)
  for option in given:
    if option not in known:
      raise UsageError(f"{option}: no such option of {name}; allowed: {', '.join(known)}")
  if num_classes < 1:
    raise UsageError(f"num_classes: got {num_classes}; must be at least 1")
  return ZOO[name](tuple(input_shape), num_classes, **given)
