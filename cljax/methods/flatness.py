"""Methods whose gradient looks for flat minima."""

from __future__ import annotations

from cljax import optimizers
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register


def c_flat(model, spec: Spec, *, radius, strength, surrogate: str = "c_flat") -> Method:
  """C-Flat: the step along ``g1 + strength (g3 - g2)`` in place of the gradient; four passes back a step.

  Owns the ``gradient`` (:func:`cljax.optimizers.c_flat`), so that any other part's rows and terms count in each of the
  four; gradients of penalties that are optax transforms are added at the parameters themselves. ``surrogate`` 'sam'
  leaves ``g3 - g2`` out: sharpness-aware minimisation, two passes. Statistics of BatchNorm come from the first pass.
  ``radius`` and ``strength`` default to the released code's (INFTY has 0.1 and 0.1). Spec E6; Bian et al., 2024.
  """
  del model, spec

  def gradient(key, loss_fn, learner):
    del key
    if surrogate == "sam":
      return optimizers.sam(loss_fn, learner.params, radius=radius)
    return optimizers.c_flat(loss_fn, learner.params, radius=radius, strength=strength)

  return Method(gradient=gradient)


register(
  "c_flat",
  Entry(
    c_flat,
    {
      "radius": Option(0.2, 0),
      "strength": Option(0.2, 0, needs={"surrogate": ("c_flat",)}),
      "surrogate": Option("c_flat", choices=("c_flat", "sam")),
    },
    Access(needs=()),
    "Bian et al. 2024",
  ),
)
