"""Parameters by module: which modules move, and what a model is like with one module of another time."""

from __future__ import annotations

import re

import jax
import numpy as np

from cljax.core import tree
from cljax.core.types import Params, UsageError


def module_of(path: str) -> str:
  """``hidden_0`` of the leaf path ``hidden_0/kernel``; a leaf at the top is a module of its own."""
  return path.rpartition("/")[0] or path


def module_names(params: Params) -> list[str]:
  """The modules of a parameter tree, numbers in their natural order and the head last."""
  names = {module_of(p) for p in tree.paths(params)}
  natural = lambda name: [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in _parts(name)]
  return sorted(names, key=lambda name: (name.rpartition("/")[2].startswith("head"), natural(name)))


def _parts(name: str) -> list[str]:
  return [part for part in re.split(r"(\d+)", name) if part]


def module_sensitivity(before: Params, after: Params) -> dict[str, float]:
  """``||theta_l' - theta_l||_1 / |theta_l|`` of each module ``l``: how far its average parameter moved.

  Of two parameter trees, such as those at the ends of two tasks (Zhao et al., ICML 2023, by a secondary source, who
  then finetune only the most sensitive modules). Raises UsageError where the trees differ.
  """
  tree.match(after, before, "after")
  total = dict.fromkeys(module_names(before), 0.0)
  size = dict.fromkeys(total, 0)
  for path, a, b in zip(tree.paths(before), jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    total[module_of(path)] += float(np.abs(b - a).sum())
    size[module_of(path)] += a.size
  return {name: total[name] / size[name] for name in total if size[name]}


def with_module(params: Params, source: Params, module: str) -> Params:
  """``params`` with one module's values from ``source``: the parameters of another time, or of another run.

  Raises UsageError where the trees differ or there is no such module.
  """
  tree.match(source, params, "source")
  if module not in {module_of(p) for p in tree.paths(params)}:
    raise UsageError(f"module: no {module!r}; there are {', '.join(module_names(params))}")
  return tree.map_named(lambda path, a, b: b if module_of(path) == module else a, params, source)
