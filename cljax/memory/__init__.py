"""Fixed-capacity buffers for replay (:class:`cljax.types.Memory`)."""

from cljax.memory.reservoir import ReservoirState, reservoir

__all__ = ["ReservoirState", "reservoir"]
