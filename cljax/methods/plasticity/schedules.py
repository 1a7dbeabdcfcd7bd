"""Methods that are a learning-rate schedule over tasks: a factor on the optimizer's update."""

from __future__ import annotations

import jax
import optax

from cljax import optimizers
from cljax.core.method import Method
from cljax.core.types import Access
from cljax.methods.registry import Entry, Option, register


def scale_by_progress(schedule) -> optax.GradientTransformationExtraArgs:
  """``u <- schedule(progress) u`` with the engine's ``progress`` in [0, 1)."""

  def update(updates, state, params=None, *, progress, **extra):
    del params, extra
    factor = schedule(progress)
    return jax.tree.map(lambda u: factor.astype(u.dtype) * u, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def rewarm_redecay(model, spec, *, floor, warmup) -> Method:
  """Each task: linearly from 0 to the run's learning rate over a share ``warmup`` of its steps, then by cosine to
  ``floor`` times it.

  Give the optimizer a constant rate; the run's ``schedule_over`` must be 'task' (the default). ``floor=1, warmup=0`` is
  the constant rate. Compose with ``er`` for the paper's replay. Spec 6.4; Ibrahim et al., 2024.
  """
  del model, spec
  return Method(finalize=scale_by_progress(optimizers.rewarm_redecay(1.0, floor, warmup, 1.0)))


def infinite(
  model, spec, *, constant, floor, warmup_steps: int, cooldown_steps: int, anneal_start: int = 0,
  anneal_steps: int = 100,
) -> Method:  # fmt: skip
  """One schedule for all tasks: up to the run's learning rate, down to ``constant`` times it, and flat across tasks.

  ``warmup_steps`` of linear warm-up, ``cooldown_steps`` of cosine cool-down; from step ``anneal_start`` of the run (0:
  never) exponentially to ``floor`` times the rate within ``anneal_steps``. Give the optimizer a constant rate. The
  default of ``constant`` is UNVERIFIED. Spec 6.4; Ibrahim et al., 2024; Singh et al., 2025.
  """
  del model, spec
  start = anneal_start or float("inf")
  return Method(
    finalize=optax.scale_by_schedule(
      optimizers.infinite(1.0, constant, floor, warmup_steps, cooldown_steps, start, anneal_steps)
    )
  )


register(
  "rewarm_redecay",
  Entry(
    rewarm_redecay,
    {"floor": Option(0.1, 0, 1), "warmup": Option(0.01, 0, 0.99)},
    Access(needs=()),
    "Ibrahim et al. 2024",
  ),
)
register(
  "infinite",
  Entry(
    infinite,
    {
      "constant": Option(0.5, 1e-6, 1),
      "floor": Option(0.1, 1e-6, 1),
      "warmup_steps": Option(10, 0),
      "cooldown_steps": Option(50, 0),
      "anneal_start": Option(0, 0),
      "anneal_steps": Option(100, 1),
    },
    Access(needs=()),
    "Ibrahim et al. 2024",
  ),
)
