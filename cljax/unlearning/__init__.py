"""Forgetting as pure calls, ``method(loss_fn, params, forget=..., retain=...) -> params``: for any model, no Learner.

``loss_fn(params, batch) -> [B]`` gives losses; methods that look at predictions take ``apply_fn(params, batch)``,
which gives logits ``[B, K]`` or :class:`cljax.Outputs`. Rows are ``(x, y)``, a dict of arrays (x, y, id, weight), or
Rows. All may be jitted and vmapped; every continuous hyper-parameter may be traced.
"""

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
from cljax.unlearning.noise import fisher_forgetting
from cljax.unlearning.gs_lora import gs_lora
from cljax.unlearning.retain_projection import adaptive_orthogonality, geometric_disentanglement
from cljax.unlearning.tangent import fast_ntk, ntk
from cljax.unlearning.teachers import bad_teacher, scrub, stochastic_teacher
from cljax.unlearning.unsir import unsir

__all__ = [
  "adaptive_orthogonality",
  "bad_teacher",
  "dampen",
  "erase_at_the_core",
  "famr",
  "fast_ntk",
  "finetune_retain",
  "fisher_forgetting",
  "geometric_disentanglement",
  "graddiff",
  "gradient_ascent",
  "gs_lora",
  "iau",
  "ntk",
  "one_point_contraction",
  "pareto_front",
  "random_labels",
  "scrub",
  "slug",
  "squared_gradients",
  "ssd",
  "stochastic_teacher",
  "unsir",
]
