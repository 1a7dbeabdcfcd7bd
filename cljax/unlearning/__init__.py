"""Forget edits and forget loops, as pure functions."""

from cljax.unlearning.dampening import dampen

__all__ = ["dampen"]
