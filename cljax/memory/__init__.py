"""Fixed-capacity buffers for replay (:class:`cljax.core.types.Memory`)."""

from cljax.memory.class_balanced import ClassBalancedState, class_balanced, greedy_balanced
from cljax.memory.reservoir import ReservoirState, reservoir
from cljax.memory.ring import RingState, ring

__all__ = [
  "ClassBalancedState",
  "ReservoirState",
  "RingState",
  "class_balanced",
  "greedy_balanced",
  "reservoir",
  "ring",
]
