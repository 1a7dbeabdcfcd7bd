"""References: what no continual learning does, and what having all the data does."""

from cljax.core.method import Method
from cljax.core.types import Access
from cljax.methods.registry import Entry, register


def finetune(model, spec) -> Method:
  """Plain training on one task after the other: the floor. ``L = mean CE(current rows)``."""
  del model, spec
  return Method()


def joint(model, spec) -> Method:
  """Training on all tasks mixed from the start, for as many steps as the others take: the ceiling."""
  del model, spec
  return Method()


def cumulative(model, spec) -> Method:
  """At each task, ``epochs`` passes over all rows seen so far; its cost grows with the number of tasks."""
  del model, spec
  return Method()


register("finetune", Entry(finetune, {}, Access(needs=()), "reference"))
register("joint", Entry(joint, {}, Access(trains_on="all", needs=()), "reference"))
register("cumulative", Entry(cumulative, {}, Access(trains_on="seen", needs=()), "reference"))
