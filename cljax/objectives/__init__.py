"""Ready-made objectives, by name; the form is :class:`cljax.objectives.objective.Objective`.

A call gives a factory ``(model, spec, values) -> Objective`` for ``cljax.run(..., objective=...)``; without arguments
it has its defaults. One of one's own is such a factory too.
"""

from cljax.objectives.adversarial import adversarial
from cljax.objectives.diffusion import ddpm_sample, denoising
from cljax.objectives.objective import Objective, Score, supervised
from cljax.objectives.ranking import ranking
from cljax.objectives.reconstruct import reconstruction
from cljax.objectives.registry import OBJECTIVES, Chosen, chosen, defaults, given
from cljax.objectives.targets import classification, multi_label, regression, sequence
from cljax.objectives.views import contrastive

__all__ = [
  "OBJECTIVES", "Chosen", "Objective", "Score", "adversarial", "chosen", "classification", "contrastive", "ddpm_sample",
  "defaults", "denoising", "given", "multi_label",
  "ranking", "reconstruction", "regression", "sequence", "supervised",
]  # fmt: skip
