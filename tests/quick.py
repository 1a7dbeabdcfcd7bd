"""Compilation, which is most of a test's time, made quick: to be imported before JAX.

LLVM optimises little, the older emitters of fused kernels take a third of the time of the newer ones, and what several
tests, workers and processes build is compiled once. AVX has no multiplication that adds and rounds once: what stands to
the bit does not hang on what the compiler fused, nor on the processor. All is set in the environment, so that the
processes that tests start are compiled so too. Compiled programs are kept with pytest's own cache (``--cache-clear``
drops them): a second run compiles what changed, which halves its time. $JAX_COMPILATION_CACHE_DIR is another folder.
"""

from __future__ import annotations

import atexit
import os
import pathlib
import shutil
import tempfile
from importlib import metadata

# XLA ends the process at a flag that it does not know: jaxlib 0.12 has the newer emitters alone.
_OLDER = tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 12)
FLAGS = (
  f"{'--xla_cpu_use_fusion_emitters=false ' * _OLDER}--xla_cpu_enable_concurrency_optimized_scheduler=false "
  "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_max_isa=AVX"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a worker a core is enough; LAPACK's threads would fight over them
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if FLAGS not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
KEPT = 2**30  # bytes


def _trim(folder: str) -> None:
  from cljax.cli import _environment

  _environment.trim(folder, KEPT)


if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _programs = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "d" / "programs"
  try:
    _programs.mkdir(parents=True, exist_ok=True)
    if not os.access(_programs, os.W_OK):
      raise OSError
    atexit.register(_trim, str(_programs))
  except OSError:  # a checkout that one may read only
    _programs = pathlib.Path(tempfile.mkdtemp(prefix="cljax-tests-"))
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_programs)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
MEMORY = "/dev/shm"  # a file system in memory: what tests write is forced to the disk again and again
if os.path.isdir(MEMORY) and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2 * 2**30:
  os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)


def with_devices(count: int) -> str:
  """``XLA_FLAGS`` for a process of its own with so many host devices."""
  return f"{FLAGS} --xla_force_host_platform_device_count={count}"
