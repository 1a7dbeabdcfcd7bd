"""Forgetting as pure calls, ``method(loss_fn, params, forget=..., retain=...) -> params``: for any model, no Learner.

``loss_fn(params, batch) -> [B]`` gives losses; methods that look at predictions take ``apply_fn(params, batch)``,
which gives logits ``[B, K]`` or :class:`cljax.Outputs`. Rows are ``(x, y)``, a dict of arrays (x, y, id, weight), or
Rows. All may be jitted and vmapped; every continuous hyper-parameter may be traced.
"""

from cljax.unlearning.certified import (
  Removed,
  certified_budget,
  fit_head,
  head_gradient,
  remove_rows,
  unit_features,
)
from cljax.unlearning.class_statistics import feature_statistics, streaming
from cljax.unlearning.coreset import core_rows, inliers, path_lengths, upcore
from cljax.unlearning.coreset_forget import coreset_rows, coreset_scores
from cljax.unlearning.dampening import dampen, squared_gradients, ssd
from cljax.unlearning.descent import (
  famr,
  finetune_retain,
  graddiff,
  gradient_ascent,
  one_point_contraction,
  random_labels,
)
from cljax.unlearning.erase_at_the_core import erase_at_the_core
from cljax.unlearning.gradient_steps import iau, pareto_front, slug
from cljax.unlearning.groups import donsker_varadhan, group_reweight, group_weights, miu
from cljax.unlearning.gs_lora import gs_lora
from cljax.unlearning.likelihoods import npo, satimp, simnpo, undial, wga
from cljax.unlearning.matching import datamodel_effect, datamodel_matching, oracle_matching
from cljax.unlearning.misdirection import rmu
from cljax.unlearning.noise import fisher_forgetting
from cljax.unlearning.retain_projection import adaptive_orthogonality, geometric_disentanglement
from cljax.unlearning.sharding import shard_of, sisa_cost
from cljax.unlearning.subset_fidelity import fidelity, fidelity_sums, modhifi_u
from cljax.unlearning.tangent import fast_ntk, ntk
from cljax.unlearning.teachers import bad_teacher, scrub, stochastic_teacher
from cljax.unlearning.unsir import unsir

__all__ = [
  "Removed",
  "adaptive_orthogonality",
  "bad_teacher",
  "certified_budget",
  "core_rows",
  "coreset_rows",
  "coreset_scores",
  "dampen",
  "datamodel_effect",
  "datamodel_matching",
  "donsker_varadhan",
  "erase_at_the_core",
  "famr",
  "fast_ntk",
  "feature_statistics",
  "fidelity",
  "fidelity_sums",
  "finetune_retain",
  "fisher_forgetting",
  "fit_head",
  "geometric_disentanglement",
  "graddiff",
  "gradient_ascent",
  "group_reweight",
  "group_weights",
  "gs_lora",
  "head_gradient",
  "iau",
  "inliers",
  "miu",
  "modhifi_u",
  "npo",
  "ntk",
  "one_point_contraction",
  "oracle_matching",
  "pareto_front",
  "path_lengths",
  "random_labels",
  "remove_rows",
  "rmu",
  "satimp",
  "scrub",
  "shard_of",
  "simnpo",
  "sisa_cost",
  "slug",
  "squared_gradients",
  "ssd",
  "stochastic_teacher",
  "streaming",
  "undial",
  "unit_features",
  "unsir",
  "upcore",
  "wga",
]
