"""Losses, per example; ``reduce`` applies the row weights."""

from cljax.losses.adversarial import fgsm, pgd
from cljax.losses.distillation import (
  bregman,
  center_loss,
  distillation,
  logit_mse,
  negative_entropy,
  squared_norm,
  update_centers,
)
from cljax.losses.flattening import dual_step, flat, mean_probability, pdu
from cljax.losses.generative import gaussian_kl
from cljax.losses.likelihoods import ceu, dpo, npo, satimp, sequence_nll, simnpo, undial, wga
from cljax.losses.pairs import barlow_twins, bpr, nt_xent, supcon
from cljax.losses.submodular import facility_location, graph_cut, log_determinant
from cljax.losses.supervised import binary_cross_entropy, cross_entropy, masked_log_softmax, policy_gradient, reduce
from cljax.losses.unlearning import (
  contrast,
  contrast_within,
  group_lasso,
  kl_divergence,
  safe_norm,
  uniform_cross_entropy,
)

__all__ = [
  "barlow_twins",
  "binary_cross_entropy",
  "bpr",
  "bregman",
  "center_loss",
  "ceu",
  "contrast",
  "contrast_within",
  "cross_entropy",
  "distillation",
  "dpo",
  "dual_step",
  "facility_location",
  "fgsm",
  "flat",
  "gaussian_kl",
  "graph_cut",
  "group_lasso",
  "kl_divergence",
  "log_determinant",
  "logit_mse",
  "masked_log_softmax",
  "mean_probability",
  "negative_entropy",
  "npo",
  "nt_xent",
  "pdu",
  "pgd",
  "policy_gradient",
  "reduce",
  "safe_norm",
  "satimp",
  "sequence_nll",
  "simnpo",
  "squared_norm",
  "supcon",
  "undial",
  "uniform_cross_entropy",
  "update_centers",
  "wga",
]
