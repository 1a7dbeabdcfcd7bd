"""A host device for each core, so that a population of seeds is trained on all of them.

JAX decides once, when its first array is made. Launchers see to it at their start, ``cljax.run`` where nothing has
started JAX before it.
"""

from __future__ import annotations

import os

from cljax import _callers

FLAG = "--xla_force_host_platform_device_count"
_CHOSEN: list[int] = []  # what use_cores was called with
_TOLD: list[int] = []  # once


def processors() -> int:
  """``$NPROC``, else the cores that SLURM gave each task, else the cores that this process may use."""
  for name in ("NPROC", "SLURM_CPUS_PER_TASK"):
    given = os.environ.get(name, "")
    if given.isdigit() and int(given):
      return int(given)
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(count: int | None = None) -> int:
  """Gives JAX ``count`` host devices (None: one for each core that this process may use), over which a population is
  shared out; returns how many it then has.

  To be called before the first array is made, where that happens before :func:`cljax.run`, which calls it by itself.
  ``use_cores(1)`` leaves one. Accelerators are not touched. ``--xla_force_host_platform_device_count`` in the user's
  XLA_FLAGS, and a ``jax_num_cpu_devices`` of theirs, win over the default. Raises UsageError for a count below 1, and
  where JAX has started with another number.
  """
  from cljax.core.checks import check_count
  from cljax.core.types import UsageError

  if count is not None:
    check_count("use_cores: count", count)
  import jax

  wanted = processors() if count is None else int(count)
  if count is None and _decided():
    return jax.local_device_count("cpu")
  _CHOSEN.append(wanted)
  try:
    jax.config.update("jax_num_cpu_devices", wanted)
  except RuntimeError:  # it has started
    has = jax.local_device_count("cpu")
    if has != wanted:
      raise UsageError(f"use_cores: JAX has started with {has} host devices; call it before the first array") from None
  return wanted


def _decided() -> bool:
  """Whether the user, or a launcher, has said how many host devices there are."""
  import jax

  return bool(_CHOSEN) or FLAG in os.environ.get("XLA_FLAGS", "") or getattr(jax.config, "jax_num_cpu_devices", -1) > 0


def offer(members: int) -> None:
  """A device a core for a population, where nobody has decided; one line, once, where JAX has started with one."""
  import jax

  cores = processors()
  if cores < 2 or _decided():
    return
  try:
    jax.config.update("jax_num_cpu_devices", cores)
  except RuntimeError:
    if members > 1 and not _TOLD and jax.default_backend() == "cpu" and jax.local_device_count() == 1:
      _TOLD.append(members)
      use = min(members, cores)
      _callers.warn(
        f"cljax: JAX has started with one host device, so {members} members train on one of {cores} cores, which takes "
        f"up to {use} times as long; call cljax.use_cores() before the first array (use_cores(1) is what this is now)"
      )
