"""Methods that keep the old model's outputs."""

from cljax.methods.distillation.outputs import Teacher, lwf

__all__ = ["Teacher", "lwf"]
