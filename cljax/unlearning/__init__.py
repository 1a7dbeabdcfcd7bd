"""Forgetting as pure calls, ``method(loss_fn, params, forget=..., retain=...) -> params``: for any model, no Learner.

``loss_fn(params, batch) -> [B]`` gives losses; methods that look at predictions take ``apply_fn(params, batch)``,
which gives logits ``[B, K]`` or :class:`cljax.Outputs`. Rows are ``(x, y)``, a dict of arrays (x, y, id, weight), or
Rows. All may be jitted and vmapped; every continuous hyper-parameter may be traced.
"""

from cljax.unlearning.dampening import dampen, squared_gradients, ssd
from cljax.unlearning.descent import graddiff
from cljax.unlearning.gradient_steps import iau, pareto_front, slug
from cljax.unlearning.noise import fisher_forgetting
from cljax.unlearning.retain_projection import adaptive_orthogonality, geometric_disentanglement
from cljax.unlearning.tangent import fast_ntk, ntk

__all__ = [
  "adaptive_orthogonality",
  "dampen",
  "fast_ntk",
  "fisher_forgetting",
  "geometric_disentanglement",
  "graddiff",
  "iau",
  "ntk",
  "pareto_front",
  "slug",
  "squared_gradients",
  "ssd",
]
