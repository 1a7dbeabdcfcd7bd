"""Methods that give each task a part of the network."""

from cljax.methods.masks.supermasks import hold_other_tasks, supsup

__all__ = ["hold_other_tasks", "supsup"]
