"""Projectors on the final update, where momentum, Adam or weight decay would break a guarantee on the gradient."""

from __future__ import annotations

import optax


def on_update(projector: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
  """``u -> -projector(-u)``: the projector's guarantee for the update ``u`` that is added to the parameters.

  Chain it last (or give it as a method's ``finalize``). ``<g, r> >= 0`` becomes ``<u, r> <= 0``: the step does not
  increase the reference loss to first order, whatever the optimizer did. The state is the projector's own. Projectors
  that add a term (:func:`gem` with a margin, :func:`cuber` with a strength) would add it without the learning rate: set
  those to 0 here.
  """
  inner = optax.with_extra_args_support(projector)

  def negative(a):
    return optax.tree.scale(-1, a)

  def update(updates, state, params=None, **extra):
    projected, state = inner.update(negative(updates), state, params, **extra)
    return negative(projected), state

  return optax.GradientTransformationExtraArgs(inner.init, update)
