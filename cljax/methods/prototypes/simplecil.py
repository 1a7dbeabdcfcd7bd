"""SimpleCIL and APER: the cosine to class means of features, under a network that is frozen, and beside a tuned one."""

from __future__ import annotations

import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Spec
from cljax.estimators import class_moments
from cljax.methods.prototypes.frozen import ACCESS, FIRST, OPTIONS, closed_form
from cljax.methods.registry import Entry, Option, register


def normed(f):
  """Rows of norm 1; zeros stay."""
  return f / jnp.maximum(jnp.linalg.norm(f, axis=-1, keepdims=True), 1e-12)


def simplecil(model, spec: Spec, *, first_task: str, requests: str, features: str = "own") -> Method:
  """SimpleCIL: ``argmax_c cos(f(x), mu_c)``, mu_c the mean of the (un-normalised) features of class c.

  Nothing is trained: the network is the one that ``model.init`` gives, meant to be pre-trained. With ``first_task``
  'train' it is tuned on the first task and frozen then, and with ``features`` 'both' f is the concatenation of the
  features of the first and of the tuned network: APER, whose tuning of few parameters is a model's affair
  (``cljax.models.adapters``). Keeps ``[C, D]`` means and counts, and APER a copy of the first parameters. Requests as
  in :func:`cljax.methods.prototypes.frozen.closed_form`. Raises UsageError for a model without features. Spec F1; Zhou
  et al., 2024.
  """

  def first(key, learner, width):
    del key, width
    return tree.copy((learner.params, learner.model_state))

  def both(fixed, f, look):
    return jnp.concatenate([look(*fixed), f], axis=-1)

  concatenated = {"fixed": first, "embed": both} if features == "both" else {}
  return closed_form(
    model, spec, class_moments("none"), first_task=first_task, requests=requests,
    fit=lambda moments, hint: normed(moments.means), scores=lambda state, h: normed(h) @ state.rule.T, **concatenated,
  )  # fmt: skip


register(
  "simplecil",
  Entry(
    simplecil,
    {
      **OPTIONS,
      "first_task": Option("frozen", choices=FIRST),
      "features": Option("own", choices=("own", "both"), needs={"first_task": ("train",)}),
    },
    ACCESS,
    "Zhou et al. 2024",
    exactness="exact",
  ),
)
