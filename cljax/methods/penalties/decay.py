"""Penalties that know no tasks: they act from the first step, for plasticity as much as against forgetting."""

from __future__ import annotations

from cljax import regularizers
from cljax.core.method import Method
from cljax.core.types import Access
from cljax.methods.penalties.pulls import DECOUPLED, quadratic
from cljax.methods.registry import Entry, Option, register


def l2(model, spec, *, strength, decoupled: bool = False) -> Method:
  """Plain L2 in the loss, ``strength * |theta|^2``; spec 1.5.

  ``decoupled`` as of :func:`cljax.methods.penalties.pulls.ewc`: ``theta <- theta' / (1 + 2 rate * strength)``.
  """
  del model, spec
  return Method(**quadratic(regularizers.l2, strength, decoupled=decoupled))


def l2_init(model, spec, *, strength, decoupled: bool = False) -> Method:
  """L2 towards the initialisation, ``strength * |theta - theta_0|^2``; spec 1.5. Kumar et al., 2023.

  ``decoupled`` as of :func:`cljax.methods.penalties.pulls.ewc`, with ``a = 2 rate * strength``.
  """
  del model, spec
  return Method(**quadratic(regularizers.l2_init, strength, decoupled=decoupled))


def spectral(model, spec, *, strength) -> Method:
  """Spectral regularization: every layer's top singular value near 1, biases near 0; spec 2.1. Lewandowski 2025."""
  del model, spec
  return Method(penalty=regularizers.spectral(strength))


def wasserstein(model, spec, *, strength, refresh: int = 1) -> Method:
  """Sorted weights towards sorted initial weights; spec 2.2. Lewandowski et al., 2024.

  ``refresh``: sort at each so many steps alone, and pull each weight to the value that it was paired with until then.
  A sort costs as much as many steps of a small network; 1 is the paper's.
  """
  del model, spec
  return Method(penalty=regularizers.wasserstein(strength, refresh=refresh))


for _factory, _source, _more in (
  (l2, "weight decay in the loss", DECOUPLED),
  (l2_init, "Kumar et al. 2023", DECOUPLED),
  (spectral, "Lewandowski et al. 2025", {}),
  (wasserstein, "Lewandowski et al. 2024", {"refresh": Option(1, 1)}),
):
  register(
    _factory.__name__,
    Entry(
      _factory,
      {"strength": Option(0.001, 0), **_more},
      Access(needs=()),
      _source,
    ),
  )
