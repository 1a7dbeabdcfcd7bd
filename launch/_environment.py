"""The process environment of a launcher: host devices, thread count, compilation cache, quiet logs."""

from __future__ import annotations

import logging
import os
import sys

_DEVICES = "--xla_force_host_platform_device_count"
# XLA aborts the process where one device's thread reaches a collective 40 s after another's, as a busy machine lets it.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds"
# As they were before this process set them: what it starts begins with these.
_FOUND = {name: os.environ.get(name) for name in ("NPROC", "XLA_FLAGS")}


def processors() -> int:
  """``$NPROC``, else the cores that SLURM gave each task, else the cores that this process may use."""
  for name in ("NPROC", "SLURM_CPUS_PER_TASK"):
    given = os.environ.get(name, "")
    if given.isdigit() and int(given):
      return int(given)
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(module: str) -> None:
  """Sets what JAX reads once, at its start; does nothing unless ``module`` is the program being run.

  One host device a core: a population of seeds is sharded over them. Accelerators are not touched by it. A user's own
  XLA_FLAGS win.
  """
  if module != "__main__" or "jax" in sys.modules:
    return
  flags = os.environ.get("XLA_FLAGS", "")
  if _DEVICES not in flags:
    flags = f"{flags} {_DEVICES}={processors()}".strip()
  if _PATIENCE not in flags:
    flags = f"{flags} {_PATIENCE}=1200"
  os.environ["XLA_FLAGS"] = flags
  os.environ.setdefault("NPROC", str(processors()))
  # LAPACK's own threads beside XLA's: on two busy cores a step with small SVDs took 26 times as long.
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("GLOG_minloglevel", "3")


def of_worker(workers: int) -> dict[str, str]:
  """The environment of one of ``workers`` processes on this machine: an equal share of the cores, where the user has
  not set ``NPROC``."""
  kept = {k: v for k, v in os.environ.items() if k not in _FOUND}
  kept.update({k: v for k, v in _FOUND.items() if v is not None})
  kept.setdefault("NPROC", str(max(1, processors() // workers)))
  return kept


def cluster() -> str:
  """The scheduler or machine that this process runs under: 'slurm', 'tpu', or '' for neither."""
  if "SLURM_JOB_ID" in os.environ:
    return "slurm"
  return "tpu" if {"TPU_WORKER_ID", "TPU_NAME", "CLOUD_TPU_TASK_ID"} & set(os.environ) else ""


def quiet() -> None:
  """Libraries stay silent: what goes wrong in their threads is raised in ours, and told there once."""
  for name in ("jax", "etils"):
    logging.getLogger(name).setLevel(logging.ERROR)
  for name in ("orbax", "absl"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


def use_compilation_cache(directory: str) -> None:
  """JAX's persistent compilation cache, small programs included; an empty directory name turns it off."""
  import jax

  if not directory:
    return
  jax.config.update("jax_compilation_cache_dir", os.path.expanduser(directory))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def describe() -> dict[str, str]:
  """What bit-equality depends on beside versions; recorded with each result."""
  out = {"NPROC": str(processors()), "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
  return {**out, "cluster": cluster()} if cluster() else out
