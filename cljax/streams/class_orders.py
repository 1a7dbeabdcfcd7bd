"""Orders of classes that papers share, by name: facts, each with where it is found.

Two orders of CIFAR-100 go by "1993": NumPy's permutation of that seed, which PyCIL and all that grew from it draw, and
the list that iCaRL's baseline fixes. Published numbers follow one or the other, and are not of the same tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cljax.core.types import UsageError


class ClassOrder(NamedTuple):
  """``places``: the data set's own numbers of the classes, in the order in which they are learned."""

  dataset: str
  places: tuple[int, ...]
  used_by: str
  source: str


def _order(dataset: str, text: str, used_by: str, source: str) -> ClassOrder:
  return ClassOrder(dataset, tuple(map(int, text.split())), used_by, source)


CLASS_ORDERS = {
  "numpy_1993": _order(
    "cifar100",
    "68 56 78 8 23 84 90 65 74 76 40 89 3 92 55 9 26 80 43 38 58 70 77 1 85 "
    "19 17 50 28 53 13 81 45 82 6 59 83 16 15 44 91 41 72 60 79 52 20 10 31 54 "
    "37 95 14 71 96 98 97 2 64 66 42 22 35 86 24 34 87 21 99 0 88 27 18 94 11 "
    "12 47 25 30 46 62 69 36 61 7 63 75 5 32 4 51 48 73 93 39 67 29 49 57 33 ",
    "PyCIL, LAMDA-PILOT, RevisitingCIL, EASE, RanPAC, C3Box (shuffle=true, seed 1993)",
    "numpy.random.RandomState(1993).permutation(100); equals the list printed in LAMDA-CL/PyCIL issue #50",
  ),
  "icarl_1993": _order(
    "cifar100",
    "87 0 52 58 44 91 68 97 51 15 94 92 10 72 49 78 61 14 8 86 84 96 18 24 32 "
    "45 88 11 4 67 69 66 77 47 79 93 29 50 57 83 17 81 41 12 37 59 25 20 80 73 "
    "1 28 6 46 62 82 53 9 31 75 38 63 33 74 27 22 36 3 16 21 60 19 70 90 89 "
    "43 5 42 65 76 40 30 23 85 2 95 56 48 71 64 98 13 99 7 34 55 54 26 35 39 ",
    "Avalanche's iCaRL baseline, PODNet, DER-ClassIL, GDumb, MoE-Adapters, LibContinual's RAPF",
    "ContinualAI/continual-learning-baselines@4900462:experiments/split_cifar100/icarl.py",
  ),
}
CLASS_ORDERS["icarl"] = CLASS_ORDERS["icarl_1993"]


def known_order(names: Sequence[str], given: Any) -> tuple[int, ...] | None:
  """The order that ``given`` names, alone or in a list of one; None where it names none, or a class is called so.

  Raises UsageError where the data, whose classes are ``names``, have another number of classes than the order.
  """
  (given,) = given if isinstance(given, list | tuple) and len(given) == 1 else (given,)
  if not isinstance(given, str) or given not in CLASS_ORDERS or given in names:
    return None
  order = CLASS_ORDERS[given]
  if len(order.places) != len(names):
    raise UsageError(
      f"stream.class_order: {given!r} orders the {len(order.places)} classes of {order.dataset}; the data have "
      f"{len(names)}"
    )
  return order.places
