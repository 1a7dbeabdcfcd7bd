"""Metrics as pure functions."""

from cljax.metrics.matrix import (
  average_accuracy,
  average_incremental_accuracy,
  backward_transfer,
  forgetting,
  forward_transfer,
  summarize,
)

__all__ = [
  "average_accuracy",
  "average_incremental_accuracy",
  "backward_transfer",
  "forgetting",
  "forward_transfer",
  "summarize",
]
