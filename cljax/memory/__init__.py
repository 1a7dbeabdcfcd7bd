"""Fixed-capacity buffers for replay (:class:`cljax.core.types.Memory`), and exemplar sets."""

from cljax.memory.class_balanced import ClassBalancedState, class_balanced, greedy_balanced
from cljax.memory.diverse import Diverse, DiverseState, diverse
from cljax.memory.exemplars import Exemplars, ExemplarState, exemplars, herding
from cljax.memory.first_come import FirstComeState, first_come_balanced
from cljax.memory.reservoir import ReservoirState, reservoir
from cljax.memory.ring import RingState, ring

__all__ = [
  "ClassBalancedState",
  "Diverse",
  "DiverseState",
  "ExemplarState",
  "Exemplars",
  "FirstComeState",
  "ReservoirState",
  "RingState",
  "class_balanced",
  "diverse",
  "exemplars",
  "first_come_balanced",
  "greedy_balanced",
  "herding",
  "reservoir",
  "ring",
]
