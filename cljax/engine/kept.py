"""Compiled programs that outlive their process: loaded, they are neither traced nor lowered nor compiled again.

JAX's compilation cache finds a program by what it lowers to, so a start that compiles nothing still traces and lowers
everything. Here it is found by what that follows from: :mod:`cljax.engine.origin` of the function, and what it is
called with, for which devices and under which settings. The file of that name says how the program is called and where
its machine code is: a file whose name follows from the lowered program, so that methods that evaluate alike have one,
and an edit of cljax that leaves a program as it is finds it again.

Files are read by pickle, so they lie in a folder that is private to its owner (:mod:`cljax.io.private`). Whatever goes
wrong, the program is compiled; the log says why (level debug).
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import os
import pickle
import platform
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cljax._cores import processors
from cljax.engine import origin
from cljax.io import private

LOG = logging.getLogger("cljax")
SUFFIX = "-program"
SWITCH = "CLJAX_KEEP_PROGRAMS"  # 0: none are kept
_FOLDER: list[str] = []  # where they are kept, in this process
# Settings that no program depends on.
_NEUTRAL = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size", "jax_log", "jax_logging", "jax_explain",
            "jax_persistent_cache_min", "jax_raise_persistent_cache_errors")  # fmt: skip
_VARIABLES = ("XLA_", "JAX_", "TF_", "LIBTPU", "TPU_", "CUDA", "NVIDIA", "ROCM", "HIP_", "OMP_", "MKL_", "OPENBLAS",
              "NPROC", "CLJAX")  # fmt: skip
_PASSING = ("JAX_COMPILATION_CACHE_DIR", "JAX_LOG", "TF_CPP_MIN_LOG_LEVEL", "CLJAX_CACHE_BYTES", "CLJAX_COLD_START",
            "CLJAX_LOG_TO", SWITCH)  # fmt: skip


class Loaded(NamedTuple):
  """A program that is ready to be called, and what it gives, abstract."""

  call: Any
  shape: Any


def use(folder: str) -> None:
  """Keeps the programs of this process in a folder, from now on; '' or $CLJAX_KEEP_PROGRAMS=0: not any more. JAX's own
  cache must be on, and take every program: only what was compiled anew can be written, and it says what was."""
  _FOLDER.clear()
  if folder and os.environ.get(SWITCH, "1") != "0":
    _FOLDER.append(folder)
    _listen()


def in_use() -> bool:
  return bool(_FOLDER)


@functools.cache
def machine() -> tuple:
  """What code is compiled for, on the host: the instructions that its processor has."""
  told: tuple = ()
  try:
    with open("/proc/cpuinfo") as file:
      lines = [line.partition(":") for line in file.read(2**16).split("\n\n")[0].splitlines()]
    told = tuple((k.strip(), v.strip()) for k, _, v in lines if k.strip() in ("model name", "flags", "Features"))
  except OSError:
    pass
  return platform.machine(), platform.processor(), platform.system(), told


def surroundings(devices) -> str:
  """Devices and settings that a program is compiled for and under, those of this thread included."""
  settings = {n: repr(getattr(jax.config, n, None)) for n in sorted(jax.config.values) if not n.startswith(_NEUTRAL)}
  variables = {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES) and not k.startswith(_PASSING)}
  client = devices[0].client
  every = [(d.id, d.process_index, d.device_kind) for d in client.devices()]
  return repr((client.platform, client.platform_version, every, [d.id for d in devices], processors(), machine(),
               settings, variables))  # fmt: skip


def form(arguments) -> str:
  """Tree, shapes, types and placements of what a program is called with."""
  leaves, tree = jax.tree.flatten(arguments)
  of = lambda a: (a.shape, str(a.dtype), bool(getattr(a, "weak_type", False)), str(getattr(a, "sharding", None)))
  return repr((str(tree), [of(a) for a in leaves]))


def key(origin_digest: str, name: str, arguments, devices) -> str:
  """The name of the file of a program."""
  whole = "\0".join((origin_digest, name, form(arguments), surroundings(devices)))
  return f"{name}-{hashlib.sha256(whole.encode()).hexdigest()}{SUFFIX}"


@functools.cache
def _formats() -> tuple:
  """``(Writer, Reader)``: JAX's own form of an executable, with the name of a file in the place of its machine code.
  Made when they are needed: another JAX may lack what they are made of."""
  from jax.experimental import serialize_executable as jax_form

  class Writer(jax_form._JaxPjrtPickler):
    def __init__(self, file, code: str, write: Callable[[bytes], None] | None):
      super().__init__(file)
      self.code, self.write = code, write

    def persistent_id(self, obj):
      if not isinstance(obj, jax_form._jax.Executable | jax_form.xc.LoadedExecutable):
        return super().persistent_id(obj)
      if self.write is not None:
        self.write(super().persistent_id(obj)[1])
      return "exec", self.code

  class Reader(jax_form._JaxPjrtUnpickler):
    def persistent_load(self, pid):
      if pid[0] != "exec":
        return super().persistent_load(pid)
      payload = private.read(_FOLDER[0], pid[1])
      if payload is None:
        raise FileNotFoundError(pid[1])
      return super().persistent_load(("exec", payload))

  return Writer, Reader


def load(name: str, arguments, devices) -> Loaded | None:
  """The program that is kept under a :func:`key`; None where there is none that can be used."""
  try:
    content = private.read(_FOLDER[0], name)
    if content is None:
      return None
    known, executable, into, out, avals = pickle.loads(content)
    if known != name or into != jax.tree.structure((arguments, {})):
      raise ValueError("it is another program's")
    unloaded, info, no_keywords = _formats()[1](io.BytesIO(executable), devices[0].client, devices).load()
    call = jax.stages.Compiled(unloaded.load(), [], into.unflatten(info), out, no_kwargs=no_keywords)
    return Loaded(call, jax.tree.unflatten(out, [jax.ShapeDtypeStruct(s, d, weak_type=w) for s, d, w in avals]))
  except Exception as error:  # of another machine, damaged, foreign: it is compiled then
    LOG.debug("kept program %s: not used: %s: %s", name, type(error).__name__, error)
    return None


def compiled(name: str, traced, arguments, devices):
  """What ``traced`` compiles to, kept under a :func:`key` if it can be."""
  lowered = traced.lower()
  told = "\0".join((lowered.as_text(), surroundings(devices)))
  code = f"code-{hashlib.sha256(told.encode()).hexdigest()}{SUFFIX}"
  with _LOCKS[int(code[5:13], 16) % len(_LOCKS)]:  # who compiles the same waits, and finds it
    before = _misses()
    made = lowered.compile()
    try:
      _write(name, code, made, traced, arguments, fresh=_misses() > before)
    except Exception as error:
      LOG.debug("kept program %s: not written: %s: %s", name, type(error).__name__, error)
  return made


def _write(name: str, code: str, made, traced, arguments, fresh: bool) -> None:
  """``fresh``: it was compiled just now. What JAX read from its own cache can not be written again (on CPU the copy
  lacks functions): then its code must be there."""
  origin.check_unchanged()
  if not fresh and private.read(_FOLDER[0], code) is None:
    raise ValueError("it was in JAX's own cache")
  if made._params.const_args:
    raise ValueError("it has constants that are arguments")
  flat: Any = jax.tree.flatten(made.args_info)
  info, into = flat
  file = io.BytesIO()
  write = functools.partial(private.write, _FOLDER[0], code) if fresh else None
  _formats()[0](file, code, write).dump((made._executable._unloaded_executable, info, made._no_kwargs))
  avals = [(a.shape, a.dtype, bool(a.weak_type)) for a in traced.jaxpr.out_avals]
  alike = into == jax.tree.structure((arguments, {}))
  if not alike:
    raise ValueError("it is called with another tree")
  private.write(_FOLDER[0], name, pickle.dumps((name, file.getvalue(), into, made.out_tree, avals)))


_LOCKS = [threading.Lock() for _ in range(64)]
_COUNTED = threading.local()


def _heard(event: str, **more) -> None:
  del more
  if event == "/jax/compilation_cache/cache_misses":
    _COUNTED.misses = _misses() + 1


def _misses() -> int:
  """How many programs this thread has compiled that JAX's cache did not have."""
  return getattr(_COUNTED, "misses", 0)


@functools.cache
def _listen() -> None:
  jax.monitoring.register_event_listener(_heard)
