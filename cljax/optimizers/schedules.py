"""Learning-rate schedules for continual pre-training, as optax schedules ``count -> rate``."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike

from cljax.core.checks import check_choice, check_scalar
from cljax.core.types import Array, Scalar


def rewarm_redecay(
  peak: Scalar, floor: Scalar, warmup_steps: Scalar, task_steps: Scalar
) -> Callable[[ArrayLike], Array]:
  """Per task: linear from 0 to ``peak`` over ``warmup_steps``, then cosine to ``floor``; repeated every ``task_steps``.

  ``floor + 1/2 (peak - floor)(1 + cos(pi (n - N_w) / (N - N_w)))``; the papers use about 1% warm-up and ``floor =
  peak/10``. Steps may be shares of a task too: ``warmup_steps=0.01, task_steps=1``. Raises UsageError for negative
  rates or ``task_steps`` below ``warmup_steps``. Ibrahim et al. 2024.
  """
  check_scalar("rewarm_redecay", "peak", peak)
  check_scalar("rewarm_redecay", "floor", floor)
  check_scalar("rewarm_redecay", "warmup_steps", warmup_steps)
  check_scalar("rewarm_redecay", "task_steps", task_steps, warmup_steps, above=True)

  def schedule(count):
    n = jnp.asarray(count, jnp.float32) % task_steps
    share = jnp.clip((n - warmup_steps) / (task_steps - warmup_steps), 0, 1)
    decayed = floor + 0.5 * (peak - floor) * (1 + jnp.cos(jnp.pi * share))
    return jnp.where(n < warmup_steps, peak * n / jnp.where(warmup_steps > 0, warmup_steps, 1), decayed)

  return schedule


def infinite(
  peak: Scalar, constant: Scalar, floor: Scalar, warmup_steps: Scalar, cooldown_steps: Scalar, anneal_start: Scalar,
  anneal_steps: Scalar, shape: str = "cosine", sharpness: Scalar = 10.0,
) -> Callable[[ArrayLike], Array]:  # fmt: skip
  """Warm-up to ``peak``, cool-down to ``constant``, then constant as long as wanted (tasks change there, without a
  jump), and from ``anneal_start`` exponentially to ``floor``: ``constant (floor / constant)^((n - n0) / (n1 - n0))``.

  shape of the cool-down: 'cosine', or 'inverse_sqrt': ``peak + (constant - peak) h(x) / h(1)``,
  ``h(x) = 1/sqrt(1 + sharpness x) - 1`` (UNVERIFIED). Never annealed: ``anneal_start=float('inf')``. Raises
  UsageError for another shape, negative rates or steps, or an anneal that starts before the cool-down ends.
  Ibrahim et al. 2024; Singh et al. 2025.
  """
  check_choice("infinite", "shape", shape, ("cosine", "inverse_sqrt"))
  for argument, value in (("peak", peak), ("constant", constant), ("floor", floor)):
    check_scalar("infinite", argument, value)
  for argument, value in (("warmup_steps", warmup_steps), ("cooldown_steps", cooldown_steps)):
    check_scalar("infinite", argument, value)
  check_scalar("infinite", "anneal_start", anneal_start, warmup_steps + cooldown_steps)
  check_scalar("infinite", "anneal_steps", anneal_steps, above=True)
  check_scalar("infinite", "sharpness", sharpness, above=True)
  bend = lambda x: 1 / jnp.sqrt(1 + sharpness * x) - 1

  def schedule(count):
    n = jnp.asarray(count, jnp.float32)
    share = jnp.clip((n - warmup_steps) / jnp.maximum(cooldown_steps, 1), 0, 1)
    if shape == "cosine":
      cooled = constant + 0.5 * (peak - constant) * (1 + jnp.cos(jnp.pi * share))
    else:
      cooled = peak + (constant - peak) * bend(share) / bend(1.0)
    annealing = jnp.clip((n - anneal_start) / anneal_steps, 0, 1)
    rate = jnp.where(n < warmup_steps, peak * n / jnp.maximum(warmup_steps, 1), cooled)
    return jnp.where(n > anneal_start, constant * (floor / constant) ** annealing, rate)

  return schedule
