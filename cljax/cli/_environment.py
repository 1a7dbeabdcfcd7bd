"""The process environment of a launcher: host devices, thread count, compilation cache, quiet logs."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from cljax import _dependencies
from cljax._cores import FLAG, processors

T = TypeVar("T")
CACHE = "~/.cache/cljax/jax"  # of compiled programs
# How JAX names a file of its cache, and cljax.engine.kept one of its own, one that a killed process left half written
# included: the function, SHA-256, what it is. Nothing else in the folder is a program.
_JAX_S = re.compile(r".+-[0-9a-f]{64}-cache")
_KEPT = re.compile(r"(.+-[0-9a-f]{64}-program)|(\..+-[0-9a-f]{64}-program\.[0-9]+\.[0-9a-f]+\.part)")
# XLA aborts the process where one device's thread reaches a collective 40 s after another's, as a busy machine lets it.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds"
# As they were before this process set them: what it starts begins with these.
_FOUND = {name: os.environ.get(name) for name in ("NPROC", "XLA_FLAGS")}


# Which libraries get the metrics of a sweep beside metrics.jsonl, for worker processes and jobs.
LOG_TO = "CLJAX_LOG_TO"


def prepare(module: str) -> None:
  """Sets what JAX reads once, at its start; does nothing unless ``module`` is the program being run.

  One host device a core: a population of seeds is sharded over them. Accelerators are not touched by it. A user's own
  XLA_FLAGS win.
  """
  if module != "__main__":
    return
  _dependencies.say_so()
  if "jax" in sys.modules:
    return
  flags = os.environ.get("XLA_FLAGS", "")
  if FLAG not in flags:
    flags = f"{flags} {FLAG}={processors()}".strip()
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


def found_processes() -> bool:
  """Whether the environment says that several processes of one program were started: a step of SLURM with several
  tasks, or a TPU pod whose hosts are named."""
  number = lambda name: int(os.environ.get(name) or 0)
  if cluster() == "slurm":
    step = {"SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= set(os.environ)
    return step and number("SLURM_NTASKS") > 1 and number("SLURM_STEP_NUM_TASKS") > 1
  hosts = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES") or ""
  return cluster() == "tpu" and "," in hosts


def distribute(coordinator: str = "", num_processes: int | None = None, process_id: int | None = None) -> bool:
  """Joins the processes of one run, by ``jax.distributed``; must come before JAX's first computation.

  Given nothing, asks the environment (:func:`found_processes`); ``coordinator='auto'`` leaves all to JAX's own
  detection. Returns whether there are several. Raises UsageError, and CljaxError where they do not find each other.
  """
  from cljax import CljaxError, UsageError

  given = {"num_processes": num_processes, "process_id": process_id}
  if coordinator in ("", "auto"):
    extra = [name for name, value in given.items() if value is not None]
    if extra:
      raise UsageError(f"{extra[0]}: given without --coordinator=HOST:PORT")
    if not coordinator and not found_processes():
      return False
    arguments: dict[str, Any] = {}
  else:
    host, colon, port = coordinator.rpartition(":")
    if not host or not colon or not port.isdigit():
      raise UsageError(f"coordinator: got {coordinator!r}; expected HOST:PORT of process 0, or auto")
    if num_processes is None or num_processes < 1:
      raise UsageError(f"num_processes: got {num_processes}; expected at least 1 with --coordinator")
    if process_id is None or not 0 <= process_id < num_processes:
      raise UsageError(f"process_id: got {process_id}; expected 0 to {num_processes - 1} with --coordinator")
    arguments = {"coordinator_address": coordinator, **given, "cluster_detection_method": "deactivate"}
  import jax

  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  # Its handler of SIGTERM would take the place of ours.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError) as error:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise CljaxError(f"coordinator: the processes did not find each other: {text}") from error
  return jax.process_count() > 1


def in_turn(action: Callable[[bool], T], several: bool) -> T:
  """``action(leads)``, in process 0 first, then in the others; where it raised in one, all raise."""
  if not several:
    return action(True)
  import jax
  import numpy as np
  from jax.experimental import multihost_utils

  from cljax import CljaxError

  leads, out, failed = jax.process_index() == 0, [], None
  for turn in (True, False):
    if turn == leads:
      try:
        out.append(action(leads))
      except (CljaxError, OSError) as error:
        failed = error
    if multihost_utils.process_allgather(np.int32(failed is not None)).any():
      raise failed or CljaxError("another process of this run failed, and says why")
  return out[0]


def quiet() -> None:
  """Libraries stay silent: what goes wrong in their threads is raised in ours, and told there once."""
  for name in ("jax", "etils"):
    logging.getLogger(name).setLevel(logging.ERROR)
  for name in ("orbax", "absl", "asyncio"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


def remote(cache: str) -> bool:
  """Whether JAX keeps compiled programs elsewhere than in a folder of this machine, such as a bucket."""
  return "://" in cache


def kept_folder(cache: str) -> str:
  """Where, in a folder of compiled programs, those of this user are that are kept whole."""
  return os.path.join(cache, f"programs-{os.geteuid() if hasattr(os, 'geteuid') else 0}")


class Compiled(NamedTuple):
  """A file of the folder of compiled programs: bytes, and when it was last read or written (Unix seconds)."""

  path: str
  size: int
  used: float

  @property
  def name(self) -> str:
    return os.path.basename(self.path)


def programs(folder: str) -> list[Compiled]:
  """The compiled programs of a folder, JAX's and those that are kept whole (``cljax.engine.kept``); none where there is
  no folder. What others delete meanwhile is left out."""
  kept = kept_folder(folder)
  return [*_files(folder, _JAX_S), *([] if os.path.islink(kept) else _files(kept, _KEPT))]


def _files(folder: str, named: re.Pattern) -> list[Compiled]:
  found = []
  try:
    with os.scandir(folder) as entries:
      for entry in entries:
        if named.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
          with contextlib.suppress(FileNotFoundError):
            stat = entry.stat(follow_symlinks=False)
            found.append(Compiled(entry.path, stat.st_size, max(stat.st_atime, stat.st_mtime)))
  except (FileNotFoundError, NotADirectoryError, PermissionError):
    return []
  return found


def drop(found: Iterable[Compiled]) -> list[Compiled]:
  """Deletes files of the cache and returns those that are gone; another process may have been faster."""
  gone = []
  for program in found:
    with contextlib.suppress(OSError):
      os.unlink(program.path)
      gone.append(program)
    if program.name.endswith("-cache"):  # JAX keeps when it was read beside it, where its cache has a limit
      with contextlib.suppress(OSError):
        os.unlink(program.path.removesuffix("-cache") + "-atime")
  return gone


def trim(folder: str, limit: int) -> list[Compiled]:
  """Deletes the programs that were not used for longest, until the folder holds at most ``limit`` bytes (0: any)."""
  found = programs(folder) if limit else []
  over, oldest = sum(p.size for p in found) - limit, []
  for program in sorted(found, key=lambda p: p.used):
    if over <= 0:
      break
    oldest.append(program)
    over -= program.size
  return drop(oldest)


def cache_limit() -> int:
  """Bytes that the launchers' own cache may hold: ``$CLJAX_CACHE_BYTES``, or 2 GiB. Raises UsageError."""
  from cljax import UsageError

  given = os.environ.get("CLJAX_CACHE_BYTES", "")
  if given and not given.isdigit():
    raise UsageError(f"CLJAX_CACHE_BYTES: got {given!r}; expected a number of bytes, 0 for no limit")
  return int(given) if given else 2**31


def use_compilation_cache(directory: str) -> None:
  """JAX's persistent compilation cache, small programs included; an empty name leaves JAX's own setting.

  ``$JAX_COMPILATION_CACHE_DIR`` and ``jax_compilation_cache_dir`` of the user win over the default, not over a folder
  that was given. The default folder is kept below :func:`cache_limit`.
  """
  import jax

  if not directory:
    return
  if directory != CACHE or not getattr(jax.config, "jax_compilation_cache_dir", None):
    folder = os.path.expanduser(directory)
    jax.config.update("jax_compilation_cache_dir", folder)
    if directory == CACHE:
      trim(folder, cache_limit())
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  from cljax.engine import kept

  folder = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
  kept.use("" if remote(folder) else kept_folder(folder))


def describe() -> dict[str, str]:
  """What bit-equality depends on beside versions; recorded with each result."""
  out = {"NPROC": str(processors()), "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
  return {**out, "cluster": cluster()} if cluster() else out
