"""What a traced function depends on, as a digest: the code and the values that it reaches, and everything around it.

Two functions of one origin, called with arguments of the same form, trace to the same program; that is what
:mod:`cljax.engine.kept` keeps compiled programs by. It must never be the other way round, so whatever is not known to
be covered is refused (:class:`Undetermined`), and the program is compiled as if nothing were kept.

- cljax: the content of all its files, unchanged since this process began, no function of it replaced from outside, and
  the plain values in its modules as they are.
- Installed packages (TRUSTED): their versions.
- The user's own functions: their bytecode as it is loaded, and that of all that they name, in their modules and in
  those that these import. They may use TRUSTED and the pure modules of Python; what could read a file, a clock, the
  environment or a random number is refused, and so is what stands in no file.
- What functions close over: numbers, texts, arrays by content, containers, functions, records.
"""

from __future__ import annotations

import builtins
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.metadata
import os
import sys
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cljax.io import own_code

TRUSTED = ("jax", "jaxlib", "numpy", "optax", "flax", "chex", "ml_dtypes", "opt_einsum", "scipy")
PURE = (
  "__future__", "abc", "collections", "contextlib", "copy", "dataclasses", "enum", "functools", "itertools", "math",
  "numbers", "operator", "string", "typing", "types", "warnings",
)  # fmt: skip
# Of the user's own code these may depend on what no digest sees.
_READING = {
  "open", "eval", "exec", "compile", "input", "__import__", "globals", "locals", "vars", "getattr", "setattr", "id",
  "hash", "dir", "breakpoint",
}  # fmt: skip
_READING_NAMES = {
  "random", "load", "loadtxt", "genfromtxt", "fromfile", "memmap", "open_memmap", "DataSource", "fromregex", "lib",
  "ctypeslib", "testing", "io_callback", "pure_callback", "callback", "os", "sys", "time", "environ", "subprocess",
  "socket", "io", "pathlib", "importlib", "datetime", "secrets", "uuid", "platform", "threading", "builtins", "gc",
  "inspect", "__dict__", "__globals__", "__code__", "__class__", "__builtins__", "modules",
}  # fmt: skip
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice)
_CLJAX = os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep
# Packages of which nothing is ever traced.
_UNTRACED = ("cljax.cli", "cljax.io", "cljax.evaluation", "cljax.data", "cljax.theory")


class Undetermined(Exception):
  """Something that a program may depend on and that no digest says; its text names it."""


def digest(value: Any) -> str:
  """SHA-256 of what ``value`` and all that it reaches are, with the surroundings. Raises Undetermined."""
  walk = _Walk()
  for part in (sources(), versions(), registered(), value):
    walk.add(part)
  return walk.told()


def sources() -> str:
  """SHA-256 of cljax's files. Undetermined where one may have changed after this process had read it."""
  check_unchanged()
  return _read(_CLJAX)


def check_unchanged() -> None:
  """Undetermined where a file of cljax is younger than this process: what is loaded may be what it was before."""
  import cljax

  for path in _files():
    stat = os.stat(path)
    if max(stat.st_mtime, stat.st_ctime) > cljax._BEGAN - 0.05:  # the clock of a file system lags behind
      raise Undetermined(f"{path} changed while this process was running")


def _files() -> list[str]:
  found = []
  for folder, _, names in os.walk(_CLJAX):
    found += [os.path.join(folder, n) for n in names if n.endswith((".py", ".so"))]
  return sorted(found)


@functools.cache
def _read(folder: str) -> str:
  h = hashlib.sha256()
  for path in _files():
    with open(path, "rb") as file:
      text = file.read()
    h.update(f"{path.removeprefix(folder)}\0{len(text)}\0".encode() + text)
  return h.hexdigest()


@functools.cache
def versions() -> tuple:
  """Of Python and of the packages whose code is known by them."""

  def of(name: str) -> str:
    try:
      return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      return ""

  return sys.version, sys.implementation.cache_tag, tuple((name, of(name)) for name in TRUSTED)


def registered() -> tuple:
  """What of the user's own stands in cljax's modules, and the plain values there. Undetermined where a function of
  cljax was replaced."""
  own, plain = [], []
  for name in sorted(n for n in list(sys.modules) if n == "cljax" or n.startswith("cljax.")):
    module = sys.modules[name]
    if name.startswith(_UNTRACED) or module is None:
      continue
    for key, value in list(vars(module).items()):
      kind = type(value)
      if kind is types.FunctionType or kind is type:
        if _replaced(value, name):
          raise Undetermined(f"{name}.{key} is not cljax's own any more")
      elif key.startswith("__") or key == "_BEGAN":
        continue
      elif kind in (int, float, str, bool):
        plain.append((name, key, value))
      elif kind in (dict, list, set):
        for at, entry in list(value.items()) if kind is dict else [(None, v) for v in list(value)]:
          if any(type(p) not in _PLAIN and own_file(p) for p in (entry if isinstance(entry, tuple) else (entry,))):
            own.append((name, key, at, entry))
      elif kind is types.ModuleType:
        if not _known(value.__name__) and own_code.is_own(value):
          raise Undetermined(f"{name}.{key} is not the module that it was")
      elif callable(value) and own_file(value):
        raise Undetermined(f"{name}.{key} is not cljax's own any more")
  return tuple(own), tuple(plain)


def _replaced(value: Any, module: str) -> bool:
  """Whether a function or a class in a module of cljax, or a method of that class, is the user's own."""
  if isinstance(value, types.FunctionType):
    return _place(value.__code__.co_filename) == "" or (hasattr(value, "__wrapped__") and own_file(value))
  if value.__module__ != module:
    return not _known(value.__module__) and own_file(value)
  return any(own_file(p) and not _generated(p) for p in vars(value).values() if type(p) in _METHODS)


_METHODS = (types.FunctionType, staticmethod, classmethod, property, functools.partial)


def own_file(value: Any) -> bool:
  """Whether a function or class, or what an object is one of, is neither cljax's nor an installed package's."""
  value = own_code.inner(value.fget if isinstance(value, property) and value.fget else value)
  if isinstance(value, types.FunctionType):
    return _place(value.__code__.co_filename) == ""
  kind = value if isinstance(value, type) else type(value)
  return not _known(kind.__module__) and own_code.is_own(kind)


def _generated(value: Any) -> bool:
  """Whether a method was written by Python, for a record or a dataclass."""
  value = own_code.inner(value)
  return isinstance(value, types.FunctionType) and value.__code__.co_filename == "<string>"


@functools.cache
def _place(filename: str) -> str:
  """'cljax', 'python', the name of an installed package, or '' for a file of the user's own."""
  path = os.path.realpath(filename)
  if path.startswith(_CLJAX):
    return "cljax"
  marker = f"{os.sep}site-packages{os.sep}"
  if marker in path:
    return path.rpartition(marker)[2].partition(os.sep)[0].removesuffix(".py")
  if filename.startswith("<frozen") or path.startswith(os.path.dirname(os.path.realpath(os.__file__)) + os.sep):
    return "python"
  return ""


def _known(module: str) -> bool:
  """Whether what is defined in a module is known by cljax's source or a version."""
  top = module.partition(".")[0]
  return top == "cljax" or top in TRUSTED or top in PURE or top in ("builtins", "_functools", "_operator", "_thread")


class _Walk:
  """Everything that is reached from what is added, in an order that the values alone decide."""

  def __init__(self):
    self._hash, self._seen, self._kept = hashlib.sha256(), {}, []

  def told(self) -> str:
    return self._hash.hexdigest()

  def _say(self, *texts: str) -> None:
    for text in texts:
      raw = text.encode(errors="surrogatepass")
      self._hash.update(len(raw).to_bytes(8, "little") + raw)

  def add(self, value: Any) -> None:
    if type(value) in _PLAIN:
      self._say(type(value).__name__, repr(value))
      return
    if id(value) in self._seen:
      self._say("again", str(self._seen[id(value)]))
      return
    self._seen[id(value)] = len(self._seen)
    self._kept.append(value)  # else another may have its id
    try:
      self._whole(value)
    except RecursionError:
      raise Undetermined("what it closes over is nested too deeply") from None

  def _all(self, kind: str, values) -> None:
    values = list(values)
    self._say(kind, str(len(values)))
    for value in values:
      self.add(value)

  def _array(self, value) -> None:
    if value.dtype.hasobject:
      raise Undetermined("an array of objects")
    a = np.ascontiguousarray(value)
    self._say("array", str(a.dtype), str(a.shape), hashlib.sha256(a.tobytes()).hexdigest())

  def _whole(self, value: Any) -> None:
    kind = type(value)
    if isinstance(value, jax.core.Tracer):
      raise Undetermined("a value that is being traced")
    if isinstance(value, jax.Array):
      if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        self._say("key", str(value.dtype))
        value = jax.random.key_data(value)
      self._say("jax", str(value.weak_type), str(value.sharding))
      self._array(np.asarray(value))
    elif isinstance(value, np.ndarray | np.generic):
      self._array(value)
    elif isinstance(value, np.dtype | jax.sharding.PartitionSpec):
      self._say(kind.__name__, repr(value))
    elif isinstance(value, jax.ShapeDtypeStruct):
      self._say("abstract", str(value.shape), str(value.dtype), str(value.weak_type), str(value.sharding))
    elif isinstance(value, types.FunctionType):
      self._function(value)
    elif isinstance(value, functools.partial):
      self._all("partial", (value.func, value.args, value.keywords))
    elif isinstance(value, types.MethodType):
      self._all("method", (value.__func__, value.__self__))
    elif isinstance(value, types.ModuleType):
      self._module(value)
    elif isinstance(value, type):
      self._type(value)
    elif isinstance(value, enum.Enum):
      self.add(kind)
      self._say(value.name)
    elif kind is dict or isinstance(value, types.MappingProxyType):
      self._all("dict", [part for pair in value.items() for part in pair])
    elif kind in (tuple, list):
      self._all(kind.__name__, value)
    elif kind in (set, frozenset):
      if any(type(v) not in _PLAIN for v in value):
        raise Undetermined("a set of more than numbers and texts")
      self._say(kind.__name__, repr(sorted(map(repr, value))))
    elif self._by_name(value):
      pass
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
      self.add(kind)
      self._all("record", value)
    elif isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
      self._say("built in", value.__qualname__)
      self.add(value.__self__)
    elif hasattr(value, "cache_parameters") and hasattr(value, "__wrapped__"):  # functools.cache
      self._all("cached", (value.__wrapped__,))
    elif isinstance(value, staticmethod | classmethod):
      self._all(kind.__name__, (value.__func__,))
    elif isinstance(value, property):
      self._all("property", (value.fget, value.fset, value.fdel))
    elif isinstance(value, Mapping) and _known(kind.__module__):
      self.add(kind)
      self._all("mapping", [part for pair in value.items() for part in pair])
    elif isinstance(value, jax.custom_jvp | jax.custom_vjp):
      self._say(kind.__name__)
      self.add(dict(vars(value)))
    elif dataclasses.is_dataclass(value):
      # Of a Flax module its parent is None unless it is bound.
      self.add(kind)
      self._all("dataclass", [p for f in dataclasses.fields(value) for p in (f.name, getattr(value, f.name, None))])
    else:
      raise Undetermined(f"a {kind.__module__}.{kind.__qualname__}")

  def _by_name(self, value: Any) -> bool:
    """Of what an installed package offers under a name (a jitted function, a ufunc): that name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", getattr(value, "__name__", None))
    if isinstance(value, np.ufunc):
      module = "numpy"
    if not isinstance(module, str) or not isinstance(name, str) or not _known(module):
      return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
      found = getattr(found, part, None)
    if found is not value:
      return False
    self._say("named", module, name)
    return True

  def _type(self, value: type) -> None:
    if own_file(value) or not _known(value.__module__):
      if not own_file(value):
        raise Undetermined(f"the class {value.__module__}.{value.__qualname__}")
      if not (issubclass(value, tuple) and hasattr(value, "_fields")) and not dataclasses.is_dataclass(value):
        raise Undetermined(f"the class {value.__qualname__} of the user's own")
      self._say("class", value.__qualname__, repr([b.__qualname__ for b in value.__mro__]))
      made = (types.GetSetDescriptorType, types.MemberDescriptorType)
      inside = {k: v for k, v in vars(value).items() if not k.startswith("__") or isinstance(v, types.FunctionType)}
      plain = {k: v for k, v in inside.items() if not (_generated(v) or isinstance(v, made))}
      self.add({k: v for k, v in plain.items() if type(v).__name__ != "_tuplegetter"})
      return
    if not self._by_name(value):
      raise Undetermined(f"the class {value.__module__}.{value.__qualname__}, which is made inside a function")

  def _module(self, value: types.ModuleType) -> None:
    name = value.__name__
    if _known(name):
      if name.partition(".")[0] == "numpy" and set(name.split(".")) & _READING_NAMES:
        raise Undetermined(f"the module {name}")
      self._say("module", name)
      return
    if not own_code.is_own(value):
      raise Undetermined(f"the module {name}")
    self._say("own module")
    self.add({k: v for k, v in vars(value).items() if not k.startswith("__")})

  def _function(self, value: types.FunctionType) -> None:
    place = _place(value.__code__.co_filename)
    if place not in ("", "cljax", "python", *TRUSTED):
      raise Undetermined(f"{value.__qualname__} of {place}")
    self._say("function", str(value.__module__) if place else "", value.__qualname__)
    self._code(value.__code__)
    self._all("defaults", (value.__defaults__, value.__kwdefaults__))
    cells = []
    for cell in value.__closure__ or ():
      try:
        cells.append(cell.cell_contents)
      except ValueError:
        raise Undetermined(f"{value.__qualname__} closes over what is not there yet") from None
    self._all("cells", cells)
    self.add(dict(vars(value)))
    if not place:
      self._own_names(value)

  def _code(self, code: types.CodeType) -> None:
    self._say(
      code.co_qualname, str(code.co_flags), str((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)),
      repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)), code.co_code.hex(),
      code.co_exceptiontable.hex(),
    )  # fmt: skip
    for constant in code.co_consts:
      self._constant(constant)

  def _constant(self, value) -> None:
    if isinstance(value, types.CodeType):
      self._code(value)
    elif isinstance(value, tuple):
      self._say("tuple", str(len(value)))
      for part in value:
        self._constant(part)
    elif isinstance(value, frozenset):
      self._say("frozenset", repr(sorted(map(repr, value))))
    else:
      self._say(type(value).__name__, repr(value))

  def _own_names(self, function: types.FunctionType) -> None:
    """What the names of a function of the user's own mean in its module."""
    filename = function.__code__.co_filename
    if not os.path.isfile(filename):
      raise Undetermined(f"{function.__qualname__}, which stands in no file")
    codes = [function.__code__]
    for code in codes:
      codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    used = dict.fromkeys(n for code in codes for n in code.co_names)
    for name in used:
      if name in _READING_NAMES and not (name == "random" and not _uses_numpy_random(codes, function.__globals__)):
        raise Undetermined(f"{function.__qualname__} names {name!r}")
      if name in function.__globals__:
        self._say("name", name)
        self.add(function.__globals__[name])
      elif name in _READING and hasattr(builtins, name):
        raise Undetermined(f"{function.__qualname__} calls {name}")
    for code in codes:
      for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
          raise Undetermined(f"{function.__qualname__} imports {step.argval}")


def _uses_numpy_random(codes, names: dict) -> bool:
  """Whether ``random`` may be NumPy's: it is an attribute, or a name, of anything but JAX."""
  for code in codes:
    steps = list(dis.get_instructions(code))
    for before, step in zip([None, *steps], steps, strict=False):
      if step.argval != "random" or step.opname in ("LOAD_CONST", "LOAD_FAST", "STORE_FAST"):
        continue
      meant = names.get("random") if step.opname == "LOAD_GLOBAL" else getattr(before, "argval", None)
      if step.opname == "LOAD_GLOBAL":
        if getattr(meant, "__name__", "") != "jax.random":
          return True
      elif not isinstance(meant, str) or getattr(names.get(meant), "__name__", "") != "jax":
        return True
  return False
