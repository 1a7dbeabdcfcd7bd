"""The source of the user's own code that a run depends on: a function, and what it reaches in modules of their own.

Modules of Python, of installed packages and of cljax are known by their versions, not by their source. Comments and
layout do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import os
import re
import sysconfig
import textwrap
import types
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

_CLJAX = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


@functools.cache
def _of_others() -> tuple[str, ...]:
  """The folders in which code is not the user's own."""
  paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
  return tuple({os.path.realpath(p) + os.sep for p in paths if p} | {_CLJAX + os.sep})


def is_own(value: Any) -> bool:
  """Whether a function, class or module is written in a file of the user's own (or typed in, in no file at all)."""
  value = inner(value)
  if isinstance(value, types.ModuleType):
    file = getattr(value, "__file__", None)
  elif isinstance(value, types.FunctionType):
    file = value.__code__.co_filename
  elif isinstance(value, type):
    try:
      file = inspect.getfile(value)
    except (TypeError, OSError):
      return False
  else:
    return False
  if file is None or file.startswith("<frozen"):
    return False
  place = os.path.realpath(file)
  return not place.startswith(_of_others()) and f"{os.sep}site-packages{os.sep}" not in place


def inner(value: Any) -> Any:
  """The function inside decorations and partial applications."""
  while isinstance(value, functools.partial) or hasattr(value, "__wrapped__") or hasattr(value, "__func__"):
    value = (
      value.func if isinstance(value, functools.partial) else getattr(value, "__wrapped__", None) or value.__func__
    )
  return value


def digest(roots: Iterable[Any]) -> str:
  """SHA-256 of the source of ``roots`` and of all that they reach: what their names mean in their modules, what they
  close over, their defaults, and plain values. '' where none of them is the user's own."""
  roots = [r for r in roots if _owned(r)]
  if not roots:
    return ""
  h, seen, kept = hashlib.sha256(), set[int](), []
  left: list[Any] = list(roots)
  while left:
    value = left.pop(0)
    if id(value) in seen:
      continue
    seen.add(id(value))
    kept.append(value)  # else another may have its id
    h.update(_told(value).encode())
    left += _reached(value)
  return h.hexdigest()


def _owned(value: Any) -> bool:
  if isinstance(value, functools.partial):
    return any(map(_owned, (value.func, *value.args, *value.keywords.values())))
  return is_own(value) or is_own(type(value))


def _told(value: Any) -> str:
  """What a value is, in itself."""
  if isinstance(value, types.FunctionType | type) and is_own(value):
    return f"{value.__qualname__}\n{_source(value)}"
  if isinstance(value, np.ndarray | jax.Array):
    a = np.ascontiguousarray(value)
    return f"{a.dtype}{a.shape}{hashlib.sha256(a.tobytes()).hexdigest()}"
  if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type | types.ModuleType):
    return f"{getattr(value, '__module__', '')}.{value.__name__}"
  if isinstance(value, bool | int | float | complex | str | bytes | None):
    return repr(value)
  if isinstance(value, set | frozenset):
    return repr(sorted(map(repr, value)))
  return type(value).__qualname__


def _source(value: Any) -> str:
  """The source without comments and layout; of what has none that can be read, its bytecode."""
  try:
    text = textwrap.dedent(inspect.getsource(value))
  except (OSError, TypeError):
    code = getattr(value, "__code__", None)
    return re.sub(r"0x[0-9a-f]+", "", repr((code.co_code, code.co_consts))) if code else value.__qualname__
  try:
    return ast.unparse(ast.parse(text))
  except SyntaxError:  # a lambda in the middle of an expression
    return text


def _reached(value: Any) -> list[Any]:
  """What a value leads to."""
  if isinstance(value, functools.partial):
    return [value.func, *value.args, *value.keywords.values()]
  if isinstance(value, types.MethodType):
    return [value.__func__, value.__self__]
  if isinstance(value, types.FunctionType):
    wrapped = [value.__wrapped__] if hasattr(value, "__wrapped__") else []
    if not is_own(value):
      return wrapped
    cells = [c.cell_contents for c in value.__closure__ or () if not _empty(c)]
    plain = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    return [*wrapped, *cells, *plain, *_named(value.__code__, value.__globals__)]
  if isinstance(value, type):
    return [v for k, v in sorted(vars(value).items()) if not k.startswith("__") or callable(v)] if is_own(value) else []
  if isinstance(value, tuple | list):
    return list(value)
  if isinstance(value, dict):
    return [part for pair in sorted(value.items(), key=lambda p: repr(p[0])) for part in pair]
  if isinstance(value, staticmethod | classmethod | property):
    return [v for v in (getattr(value, "__func__", None), getattr(value, "fget", None)) if v is not None]
  if is_own(type(value)):
    return [type(value), dict(vars(value)) if hasattr(value, "__dict__") else {}]
  return []


def _empty(cell) -> bool:
  try:
    cell.cell_contents  # noqa: B018
  except ValueError:
    return True
  return False


def _named(code: types.CodeType, names: dict) -> list[Any]:
  """What a function's names mean in its module; of the user's own modules, what they mean there."""
  codes = [code]
  for one in codes:
    codes += [c for c in one.co_consts if isinstance(c, types.CodeType)]
  used = dict.fromkeys(n for one in codes for n in one.co_names)
  out = [names[n] for n in used if n in names]
  seen = [v for v in out if isinstance(v, types.ModuleType) and is_own(v)]
  for module in seen:
    more = [vars(module)[n] for n in used if n in vars(module)]
    out += more
    seen += [v for v in more if isinstance(v, types.ModuleType) and is_own(v) and v not in seen]
  return out
