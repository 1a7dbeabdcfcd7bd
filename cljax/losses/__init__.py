"""Losses, per example; ``reduce`` applies the row weights."""

from cljax.losses.distillation import (
  bregman,
  center_loss,
  distillation,
  logit_mse,
  negative_entropy,
  squared_norm,
  update_centers,
)
from cljax.losses.supervised import binary_cross_entropy, cross_entropy, masked_log_softmax, reduce

__all__ = [
  "binary_cross_entropy",
  "bregman",
  "center_loss",
  "cross_entropy",
  "distillation",
  "logit_mse",
  "masked_log_softmax",
  "negative_entropy",
  "reduce",
  "squared_norm",
  "update_centers",
]
