"""The own code of an entry, and digests of entries and tests, from syntax trees.

An entry's own code is its function (and the functions that this one was made of: ``edit(call)`` holds ``call``) and,
transitively, the functions of the same sub-package that it refers to and that are no entries themselves. Digests are
of trees without docstrings, comments and places, so that a move changes none.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import pathlib
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Piece(NamedTuple):
  """One function (with those nested in it) or class of an entry's own code; ``file`` is relative to the root."""

  file: str
  qualname: str
  node: ast.AST
  first: int
  last: int
  core: bool = True  # the entry itself, or what its factory holds; else what these refer to


@functools.lru_cache(maxsize=512)
def parsed(file: str) -> ast.Module:
  return ast.parse((ROOT / file).read_text())


@functools.lru_cache(maxsize=512)
def _by_line(file: str) -> dict[tuple[int, str], ast.AST]:
  """Functions and classes by first line (a decorator's, as in code objects) and name."""
  found: dict[tuple[int, str], ast.AST] = {}
  for node in ast.walk(parsed(file)):
    if isinstance(node, ast.Lambda):
      found.setdefault((node.lineno, "<lambda>"), node)
    elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
      first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
      found[first, node.name] = node
  return found


def bare(value: Any) -> list[types.FunctionType | type]:
  """The plain functions and classes behind a value: a partial, a wrapped or jitted one, a table or tuple of them."""
  if isinstance(value, types.FunctionType) and not hasattr(value, "__wrapped__"):
    return [value]
  if isinstance(value, type):
    return [value]
  if isinstance(value, types.MethodType):
    return bare(value.__func__)
  if isinstance(value, functools.partial):
    return bare(value.func)
  if isinstance(value, dict):
    return [f for v in value.values() for f in bare(v)]
  if isinstance(value, tuple | list):
    return [f for v in value for f in bare(v)]
  parts = [getattr(value, k, None) for k in ("__wrapped__", "fun", "jvp")] if callable(value) else []
  return [f for part in parts if callable(part) and part is not value for f in bare(part)]


def area(module: str) -> str:
  """The sub-package of a module: ``cljax.methods`` of ``cljax.methods.replay.buffers``."""
  return ".".join(module.split(".")[:2])


def _piece(value: types.FunctionType | type) -> Piece | None:
  if isinstance(value, type):
    if not (value.__module__ or "").startswith("cljax"):
      return None
    file = inspect.getsourcefile(value)
    name, line = value.__name__, None
  else:
    file, name, line = value.__code__.co_filename, value.__code__.co_name, value.__code__.co_firstlineno
  if file is None or not pathlib.Path(file).resolve().is_relative_to(ROOT):
    return None
  relative = str(pathlib.Path(file).resolve().relative_to(ROOT))
  table = _by_line(relative)
  if line is None:
    node = next((n for (_, k), n in table.items() if k == name and isinstance(n, ast.ClassDef)), None)
    qualname = value.__qualname__
  else:
    node = table.get((line, name))
    qualname = value.__code__.co_qualname
  if node is None:
    return None
  return Piece(relative, qualname, node, node.lineno, node.end_lineno)


def _names(node: ast.AST) -> Iterator[tuple[str, ...]]:
  """Chains ``a.b.c`` that are read in a tree and whose first name is bound nowhere in it."""
  bound = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
  bound |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
  for n in ast.walk(node):
    chain: list[str] = []
    while isinstance(n, ast.Attribute):
      chain.append(n.attr)
      n = n.value
    if isinstance(n, ast.Name) and n.id not in bound:
      yield n.id, *reversed(chain)


def _resolve(chain: tuple[str, ...], space: dict[str, Any]) -> Any:
  """What a chain means: only modules are looked into."""
  value = space.get(chain[0])
  for name in chain[1:]:
    if not isinstance(value, types.ModuleType):
      break
    value = getattr(value, name, None)
  return value


def own_code(entry: Any, stops: frozenset[int] = frozenset()) -> list[Piece]:
  """The pieces of an entry, its own function first. ``stops``: ids of the functions of other entries.

  What is nested in a piece is part of it and no piece of its own. Empty where an entry has no Python code of cljax.
  """
  todo = list(bare(entry))
  todo += [f for v in todo for f in _held(v)]
  core = {id(f) for f in todo}
  homes = {area(f.__module__) for f in todo}
  seen = {id(f) for f in todo}
  pieces: list[Piece] = []
  while todo:
    value = todo.pop(0)
    piece = _piece(value)
    if piece is None:
      continue
    pieces.append(piece._replace(core=id(value) in core))
    functions = [value] if isinstance(value, types.FunctionType) else _methods(value)
    for function in functions:
      cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
      space = {**function.__globals__, **{name: _content(cell) for name, cell in cells}}
      for chain in _names(piece.node):
        for f in bare(_resolve(chain, space)):
          if id(f) not in seen and id(f) not in stops and area(f.__module__ or "") in homes and _private_code(f):
            seen.add(id(f))
            todo.append(f)
  return _outermost(pieces)


def _held(f: Any) -> list[types.FunctionType]:
  """Functions of cljax in the closure of a factory."""
  cells = getattr(f, "__closure__", None) or ()
  held = [g for cell in cells for g in bare(_content(cell))]
  return [g for g in held if isinstance(g, types.FunctionType) and g.__module__.startswith("cljax")]


def _private_code(f: Any) -> bool:
  """State types have no code: classes count where they define methods."""
  return isinstance(f, types.FunctionType) or bool(_methods(f))


def _methods(cls: type) -> list[types.FunctionType]:
  own = [f for v in vars(cls).values() for f in bare(getattr(v, "__func__", getattr(v, "fget", v)))]
  functions = [f for f in own if isinstance(f, types.FunctionType)]
  return [f for f in functions if f.__module__ == cls.__module__ and not f.__code__.co_filename.startswith("<")]


def _content(cell: types.CellType) -> Any:
  try:
    return cell.cell_contents
  except ValueError:
    return None


def _outermost(pieces: list[Piece]) -> list[Piece]:
  """Without those that lie within another one."""
  inside = lambda a, b: a is not b and a.file == b.file and b.first <= a.first and a.last <= b.last and a != b
  return [a for a in dict.fromkeys(pieces) if not any(inside(a, b) for b in pieces)]


def body_lines(piece: Piece) -> set[int]:
  """First lines of the statements in the function bodies of a piece: what runs only when a function is called."""
  lines: set[int] = set()
  for node in ast.walk(piece.node):
    if isinstance(node, ast.Lambda):
      lines |= set(range(node.body.lineno, node.body.end_lineno + 1))
    elif isinstance(node, FUNCTIONS):
      body = node.body[1:] if _is_docstring(node.body[0]) else node.body
      lines |= {n.lineno for s in body for n in ast.walk(s) if isinstance(n, ast.stmt | ast.expr)}
  return lines


def _is_docstring(node: ast.AST) -> bool:
  return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def dump(node: Any) -> str:
  """A tree as text without docstrings, annotations and places, equal in every Python version."""
  if isinstance(node, list):
    return "[" + ",".join(dump(n) for n in node if not _is_docstring(n)) + "]"
  if not isinstance(node, ast.AST):
    return repr(node)
  skip = ("annotation", "returns", "type_comment", "type_params", "kind", "ctx", "simple")
  fields = [(k, v) for k, v in ast.iter_fields(node) if k not in skip and v is not None and v != []]
  return f"{type(node).__name__}({','.join(f'{k}={dump(v)}' for k, v in fields)})"


def _sha(texts: list[str]) -> str:
  return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def digest(pieces: list[Piece]) -> str:
  """SHA-256 (16 digits) of an entry's pieces; their order and their places do not count."""
  return _sha(sorted(dump(p.node) for p in pieces))


# Tests: found statically, since a suite is no package.


@functools.cache
def suite(folder: str = "tests") -> dict[str, list[tuple[str, ast.FunctionDef]]]:
  """``test_*`` functions of the suite by name, with their files; and ``stem::name`` for each."""
  found: dict[str, list[tuple[str, ast.FunctionDef]]] = {}
  for path in sorted((ROOT / folder).rglob("test_*.py")):
    file = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    for node in parsed(file).body:
      for f in node.body if isinstance(node, ast.ClassDef) else [node]:
        if isinstance(f, ast.FunctionDef) and f.name.startswith("test_"):
          for key in (f.name, f"{path.stem}::{f.name}"):
            found.setdefault(key, []).append((file, f))
  return found


@functools.cache
def _top(file: str) -> dict[str, ast.AST]:
  """What a file's top level binds, by name."""
  found: dict[str, ast.AST] = {}
  for node in parsed(file).body:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
      found[node.name] = node
    elif isinstance(node, ast.Assign):
      found.update({n.id: node for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)})
  return found


@functools.cache
def _imported(file: str) -> dict[str, tuple[str, str | None]]:
  """Names a file imports from helpers of the suite: name -> (file, name there, None for the whole file)."""
  found: dict[str, tuple[str, str | None]] = {}
  helper = lambda module: next(
    (p for d in (pathlib.Path("tests"), pathlib.Path(file).parent) if (ROOT / (p := f"{d / module}.py")).exists()), None
  )
  for node in parsed(file).body:
    if isinstance(node, ast.ImportFrom) and node.module and (where := helper(node.module)):
      found.update({a.asname or a.name: (where, a.name) for a in node.names})
    elif isinstance(node, ast.Import):
      found.update({a.asname or a.name: (where, None) for a in node.names if (where := helper(a.name))})
  return found


def pieces_of_test(file: str, function: ast.FunctionDef) -> list[tuple[str, ast.AST]]:
  """A test and what it refers to in its file, in the conftest files above it and in the suite's helpers."""
  folders = [p for p in pathlib.Path(file).parents if "tests" in p.parts]
  conftests = [str(p / "conftest.py") for p in folders if (ROOT / p / "conftest.py").exists()]
  todo: list[tuple[str, ast.AST]] = [(file, function)]
  todo += [(file, _top(file)["pytestmark"])] if "pytestmark" in _top(file) else []
  seen: dict[int, tuple[str, ast.AST]] = {id(node): (where, node) for where, node in todo}
  while todo:
    where, node = todo.pop()
    imported = _imported(where)
    read = {(n.id, None) for n in ast.walk(node) if isinstance(n, ast.Name)}
    read |= {(n.arg, None) for n in ast.walk(node) if isinstance(n, ast.arg)}  # fixtures
    read |= {
      (n.value.id, n.attr) for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }
    for name, attribute in sorted(read, key=str):
      other, there = imported.get(name, (None, None))
      for place, key in [(other, there or attribute)] if other else [(f, name) for f in (where, *conftests)]:
        target = _top(place).get(key) if (key and attribute is None) or other else None
        if target is not None and id(target) not in seen:
          seen[id(target)] = (place, target)
          todo.append((place, target))
  return list(seen.values())


def skips(file: str, function: ast.FunctionDef) -> list[str]:
  """Which of skip, skipif, xfail and importorskip a test's own text, or its file's ``pytestmark``, speaks of."""
  nodes = [function, *([_top(file)["pytestmark"]] if "pytestmark" in _top(file) else [])]
  words = {n.attr for node in nodes for n in ast.walk(node) if isinstance(n, ast.Attribute)}
  return sorted(words & {"skip", "skipif", "xfail", "importorskip"})


@functools.cache
def digest_of_test(file: str, name: str) -> str:
  """SHA-256 (16 digits) of a test, by its file and name in the suite, with what it refers to."""
  function = next(f for where, f in suite()[name] if where == file)
  return _sha(sorted(dump(node) for _, node in pieces_of_test(file, function)))
