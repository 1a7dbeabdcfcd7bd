"""Methods that decide which weights may move, and how fast."""

from cljax.methods.plasticity.units import classp, continual_backprop, elephant, tag

__all__ = ["classp", "continual_backprop", "elephant", "tag"]
