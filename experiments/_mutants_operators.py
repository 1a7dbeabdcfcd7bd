"""The operators of mutation: what an expression may become."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from experiments import _mutants_nodes as nodes

Found = tuple[str, str, str]  # operator, what stands there (short), new expression (short, and the code)


def at(node, options: frozenset[str]) -> Iterator[Found]:
  u = ast.unparse
  if isinstance(node, ast.BinOp):
    yield from _at_binary(node)
  elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not nodes.constant(node.operand):
    yield "flipped sign", "", u(node.operand)
  elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
    yield "condition", "", u(node.operand)
  elif isinstance(node, ast.BoolOp) and not any(map(nodes.kind_test, node.values)) and not nodes.of_types(node):
    for i in range(len(node.values)):
      rest = [v for j, v in enumerate(node.values) if j != i]
      yield "condition", "", u(ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0])
  elif isinstance(node, ast.Compare) and len(node.ops) == 1:
    left, right = u(node.left), u(node.comparators[0])
    was = nodes.SYMBOLS.get(type(node.ops[0]), "")
    for symbol in nodes.COMPARED.get(was, ()):
      boundary = symbol[0] == was[0] and was[0] in "<>"
      yield ("boundary" if boundary else "condition"), "", f"{left} {symbol} {right}"
  elif isinstance(node, ast.IfExp) and not nodes.kind_test(node.test) and not nodes.of_types(node):
    yield "swapped branches", "", u(ast.IfExp(node.test, node.orelse, node.body))
  elif isinstance(node, ast.Attribute) and node.attr == "T":
    yield "wrong axis", "", u(node.value)
  elif isinstance(node, ast.Subscript):
    yield from _at_subscript(node)
  elif isinstance(node, ast.Call):
    yield from _at_call(node, options)


def _at_binary(node: ast.BinOp) -> Iterator[Found]:
  left, right, u = node.left, node.right, ast.unparse
  if nodes.listed(left) or nodes.listed(right) or nodes.tiny(left) or nodes.tiny(right):
    return
  both = lambda op: u(ast.BinOp(left, op, right))
  if isinstance(node.op, ast.Add):
    yield "flipped sign", "", both(ast.Sub())
    yield "dropped term", "", u(left)
    yield "dropped term", "", u(right)
  elif isinstance(node.op, ast.Sub):
    yield "flipped sign", "", both(ast.Add())
    yield "dropped term", "", u(left)
  elif isinstance(node.op, ast.Mult):
    for kept, gone in ((left, right), (right, left)):
      yield _factor(gone), "", u(kept)
  elif isinstance(node.op, ast.Div):
    yield "removed coefficient", "", u(left)
    yield "swapped coefficient", "", both(ast.Mult())
  elif isinstance(node.op, ast.Pow | ast.FloorDiv | ast.Mod):
    yield "removed coefficient", "", u(left)
  elif isinstance(node.op, ast.MatMult):
    yield "wrong axis", "", u(ast.BinOp(right, node.op, left))
  elif isinstance(node.op, ast.BitAnd | ast.BitOr):
    yield "removed mask", "", u(left)
    yield "removed mask", "", u(right)


def _factor(gone) -> str:
  return "removed weight" if any("weight" in n or "mask" in n for n in nodes.read(gone)) else "removed coefficient"


def _at_subscript(node: ast.Subscript) -> Iterator[Found]:
  index, u = node.slice, ast.unparse
  if nodes.name(node.value) == "shape":
    return
  parts = index.elts if isinstance(index, ast.Tuple) else [index]
  for i, part in enumerate(parts):
    put = lambda new, i=i: u(
      ast.Subscript(node.value, _sole([*parts[:i], new, *parts[i + 1 :]], isinstance(index, ast.Tuple)), node.ctx)
    )
    if isinstance(part, ast.Slice) and any(map(nodes.number, (part.lower, part.upper, part.step))):
      yield "boundary", "", put(ast.Slice())
    elif nodes.number(part) == -1:
      yield "boundary", "", put(ast.Constant(0))


def _sole(parts: list, several: bool):
  return ast.Tuple(parts, ast.Load()) if several else parts[0]


def _at_call(node: ast.Call, options: frozenset[str]) -> Iterator[Found]:
  u, name, first = ast.unparse, nodes.name(node.func), node.args[0] if node.args else None
  method = isinstance(node.func, ast.Attribute) and not nodes.module(node.func.value)
  called = node.func.value if isinstance(node.func, ast.Attribute) else node.func
  if name in nodes.PLAIN or nodes.check_call(node):
    return
  if name == "stop_gradient" and first is not None:
    yield "removed stop_gradient", "", u(first)
  at = method and isinstance(called, ast.Subscript) and nodes.name(called.value) == "at"
  table = nodes.WRITES if at else nodes.OPPOSITE
  plain = isinstance(node.func, ast.Name)  # the builtin, which may choose among dtypes
  if name in table and (not plain or (name in nodes.BUILTIN and not nodes.of_types(node))):
    renamed = {**vars(node.func), "id" if plain else "attr": table[name]}
    func = type(node.func)(**{k: renamed[k] for k in node.func._fields})
    kind = "mean for sum" if name in ("mean", "sum", "nanmean", "nansum") else "opposite"
    yield kind, f".{name}", u(ast.Call(func, node.args, node.keywords))
  if plain and name == "sum" and len(node.args) == 1:
    yield "opposite", ".sum", f"max({u(node.args[0])})"
  if name in nodes.UNWRAPPED and not at and (inner := called if method else first) is not None:
    yield "removed function", "", u(inner)
  if name == "where" and len(node.args) == 3:
    test, a, b = node.args
    guard = nodes.number(b) == 1 or nodes.number(a) == 1  # of a quotient
    yield "removed mask", "", u(b if nodes.constant(a) else a)
    if not guard:
      yield "swapped branches", "", u(ast.Call(node.func, [test, b, a], node.keywords))
  if name in ("maximum", "minimum") and len(node.args) == 2 and not any(map(nodes.tiny, node.args)):
    for kept in node.args:
      if not nodes.constant(kept):
        yield "removed function", "", u(kept)
  if (axis := nodes.axis_argument(node)) is not None and (value := nodes.number(axis)) is not None:
    new = ast.Constant({0: 1, -1: -2}.get(int(value), int(value) - 1))
    swapped = [new if a is axis else a for a in node.args]
    keywords = [ast.keyword(k.arg, new if k.value is axis else k.value) for k in node.keywords]
    yield "wrong axis", f"axis {u(axis)}", u(ast.Call(node.func, swapped, keywords))
  if name == "range" and len(node.args) == 1:
    yield "boundary", "", f"range({u(node.args[0])} - 1)"
  if not method and nodes.swappable(node):
    yield "swapped arguments", "", u(ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords))
  if name == "_replace" or name[:1].isupper():
    for k in node.keywords:
      if k.arg and not (isinstance(k.value, ast.Constant) and k.value.value is None):
        others = [other for other in node.keywords if other is not k]
        rest = ast.Call(node.func, node.args, others) if others or name != "_replace" else called
        yield "state not updated" if name == "_replace" else "dropped part", f"{k.arg}={u(k.value)}", u(rest)
  library = ast.unparse(node.func).startswith(("jnp.", "np.", "jax.", "nn.", "lax."))
  scaled = lambda value: isinstance(value, ast.Name) and value.id in options
  double = lambda value: ast.BinOp(ast.Constant(2), ast.Mult(), value)
  for i, argument in enumerate(node.args):
    if scaled(argument):
      changed = ast.Call(node.func, [*node.args[:i], double(argument), *node.args[i + 1 :]], node.keywords)
      yield "swapped coefficient", u(argument), u(changed)
  for k in node.keywords:
    if scaled(k.value) and k.arg not in nodes.PLAIN_KEYWORDS:
      changes: list = [ast.keyword(k.arg, double(k.value)) if other is k else other for other in node.keywords]
      yield "swapped coefficient", f"{k.arg}={u(k.value)}", u(ast.Call(node.func, node.args, changes))
    elif nodes.number(k.value) is not None and k.arg not in (*nodes.PLAIN_KEYWORDS, "axis") and not library:
      others = [other for other in node.keywords if other is not k]
      yield "removed coefficient", f"{k.arg}={u(k.value)}", u(ast.Call(node.func, node.args, others))
