"""cljax: continual learning and machine unlearning in JAX."""

from cljax.method import Method, Reference, compose
from cljax.types import Access, Batch, Forget, Learn, Learner, Memory, Model, Outputs, UsageError

__all__ = [
  "Access",
  "Batch",
  "Forget",
  "Learn",
  "Learner",
  "Memory",
  "Method",
  "Model",
  "Outputs",
  "Reference",
  "UsageError",
  "compose",
]
