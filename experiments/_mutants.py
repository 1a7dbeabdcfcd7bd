"""Mutants of a piece of code: small rewritings of one node of its syntax tree, each of which marks itself as executed.

A mutant is spliced into the file's text, ``a - b`` becoming ``(mutant_ran(), a + b)[1]``, so that no line moves and
everything else stays. What can not matter is left out: docstrings, annotations, defaults, error messages and argument
checks, casts and dtypes, shapes, logging. What an operator does is said beside it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from experiments import _mutants_nodes as nodes
from experiments._mutants_operators import at


class Mutant(NamedTuple):
  file: str
  function: str  # qualified name
  line: int
  operator: str
  statement: str  # the statement, without comments and line breaks; of a compound one its head
  old: str
  new: str
  number: int  # among equal ones of the function
  edits: tuple[tuple[int, int, str], ...]  # bytes from, to, and what stands there instead
  lines: tuple[int, int]  # of the statement, or its head

  @property
  def place(self) -> tuple[str, str, str, str, int]:
    """What it is, whatever else is edited."""
    return (self.function, self.statement, self.old, self.new, self.number)

  @property
  def key(self) -> str:
    return hashlib.sha256(repr(self.place).encode()).hexdigest()[:16]


class Scope(NamedTuple):
  qualname: str
  params: tuple[str, ...]  # of this function
  options: frozenset[str]  # numbers among the parameters of the functions around it
  bound: set[str]  # names that have a value so far


def mutants(text: str, file: str, pieces: Iterable[tuple[str, ast.AST]]) -> list[Mutant]:
  """All mutants of the pieces (``qualname, node``; functions, classes or lambdas) of a file's text, in order."""
  found: list[Mutant] = []
  for qualname, node in pieces:
    found += _Walk(text, file).piece(qualname, node)
  counts: dict[tuple, int] = {}
  numbered: list[Mutant] = []
  for mutant in reversed({m.edits: m for m in reversed(found)}.values()):
    number = counts[mutant.place] = counts.get(mutant.place, -1) + 1
    numbered.append(mutant._replace(number=number))
  return numbered


def applied(mutant: Mutant, text: str) -> str:
  """The file's text with the mutant in it."""
  data = text.encode()
  for start, end, new in sorted(mutant.edits, reverse=True):
    data = data[:start] + new.encode() + data[end:]
  return data.decode()


def chosen(candidates: Sequence[Mutant], count: int, seed: str) -> list[Mutant]:
  """``count`` of them: an operator after the other, as the seed and each mutant's key order them.

  Edits elsewhere in the code leave most of the choice as it was.
  """
  rank = lambda m: hashlib.sha256(f"{seed} {m.key}".encode()).hexdigest()
  groups: dict[str, list[Mutant]] = {}
  for mutant in sorted(candidates, key=rank):
    groups.setdefault(mutant.operator, []).append(mutant)
  order = sorted(groups, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).hexdigest())
  rounds = [groups[name][i] for i in range(len(candidates)) for name in order if i < len(groups[name])]
  return rounds[:count]


class _Walk:
  """One pass over a piece: ``expressions`` and ``statements`` descend, ``_at_*`` say what a node may become."""

  def __init__(self, text: str, file: str):
    self.file, self.found = file, list[Mutant]()
    self.data = text.encode()
    self.starts = [0]
    for line in self.data.splitlines(keepends=True):
      self.starts.append(self.starts[-1] + len(line))

  def piece(self, qualname: str, node: ast.AST) -> list[Mutant]:
    head = qualname.rpartition(".")[0]
    scope = Scope(head, (), frozenset(), set())
    if isinstance(node, ast.Lambda):
      self.expression(node, scope._replace(qualname=qualname), node)
    else:
      self.statements([node], scope)
    return self.found

  # Places

  def span(self, node) -> tuple[int, int]:
    return (
      self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset
    )  # fmt: skip

  def note(self, scope, statement, node, operator, old, new, edits) -> None:
    lines = (statement.lineno, nodes.last_line(statement))
    self.found.append(
      Mutant(self.file, scope.qualname, node.lineno, operator, nodes.head(statement), old, new, 0, tuple(edits), lines)
    )

  def replace(self, scope, statement, node, operator, code, old="", new=None) -> None:
    """``node``, an expression, becomes ``code``; the lines it took stay taken."""
    lines = "\n" * (node.end_lineno - node.lineno)
    edit = (*self.span(node), f"(mutant_ran(), {code}{lines})[1]")
    self.note(scope, statement, node, operator, old or ast.unparse(node), code if new is None else new, [edit])

  def remove(self, scope, statement, operator) -> None:
    lines = "mutant_ran()" + "\n" * (statement.end_lineno - statement.lineno)
    self.note(
      scope, statement, statement, operator, nodes.head(statement), "(nothing)", [(*self.span(statement), lines)]
    )

  # Statements

  def statements(self, body, scope: Scope) -> None:
    for i, node in enumerate(body):
      if isinstance(node, nodes.Functions):
        self.function(node, scope)
        scope.bound.add(node.name)
        continue
      if isinstance(node, ast.ClassDef):
        self.statements(node.body, scope._replace(qualname=nodes.join(scope.qualname, node.name)))
        continue
      if not scope.params and not scope.qualname.endswith("<locals>"):  # a class body runs at import
        continue
      if nodes.plain_statement(node):
        scope.bound.update(nodes.written(node))
        continue
      if i + 1 < len(body):
        self.swap(node, body[i + 1], scope)
      self.statement(node, scope)
      scope.bound.update(nodes.written(node))

  def function(self, node, scope: Scope) -> None:
    values = [n for n in ast.walk(node) if isinstance(n, ast.Return) and n.value is not None]
    raises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
    refuses = raises and not values and not nodes.yields(node)
    if refuses or node.name.startswith(("check", "_check", "is_concrete", "__repr__")):
      return
    args = node.args
    params = tuple(a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs))
    options = scope.options | nodes.options(args)
    name = nodes.join(scope.qualname, node.name)
    inner = Scope(name, params or ("",), frozenset(options), set(params))
    self.statements(node.body, inner)

  def statement(self, node, scope: Scope) -> None:
    if isinstance(node, ast.If):
      if not nodes.kind_test(node.test) and not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.BoolOp):
        self.replace(scope, node, node.test, "condition", f"not ({ast.unparse(node.test)})")
      self.expression(node.test, scope, node)
      self.statements(node.body, scope)
      self.statements(node.orelse, scope)
    elif isinstance(node, ast.For | ast.While | ast.With | ast.Try):
      for name in ("iter", "test"):
        if (part := getattr(node, name, None)) is not None:
          self.expression(part, scope, node)
      scope.bound.update(nodes.written(node))
      for name in ("body", "orelse", "finalbody"):
        self.statements(getattr(node, name, []), scope)
    elif isinstance(node, ast.Return):
      self.returned(node, scope)
    elif isinstance(node, ast.AugAssign):
      self.remove(scope, node, "state not updated")
      self.expression(node.value, scope, node)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      if node.value is None:
        return
      names = nodes.written(node)
      attribute = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
      if (attribute or (names and names <= scope.bound)) and not nodes.converts(node.value):
        self.remove(scope, node, "state not updated")
      self.expression(node.value, scope, node)
    elif isinstance(node, ast.Expr):
      call = node.value
      if isinstance(call, ast.Call) and nodes.name(call.func) in ("append", "extend", "update", "add", "insert"):
        self.remove(scope, node, "state not updated")
        self.expression(call, scope, node)
      elif isinstance(call, ast.Yield) and call.value is not None:
        self.expression(call.value, scope, node)

  def returned(self, node: ast.Return, scope: Scope) -> None:
    value = node.value
    if value is None:
      return
    kept = next((p for p in ("learner", "state") if p in scope.params), "")
    for part in value.elts if isinstance(value, ast.Tuple) else [value]:
      if kept and nodes.updates(part, kept):
        self.replace(scope, node, part, "state not updated", kept)
    self.expression(value, scope, node)

  def swap(self, first, second, scope: Scope) -> None:
    """``x = f(s); s = g(..)``: written before it is read."""
    simple = (ast.Assign, ast.AugAssign)
    if not isinstance(first, simple) or not isinstance(second, simple):
      return
    written = nodes.written(second) & nodes.read(first)
    if not written or not written <= scope.bound or nodes.written(first) & (nodes.read(second) | written):
      return
    if nodes.plain_statement(second):
      return
    (a, b), (c, d) = self.span(first), self.span(second)
    one, two = self.data[a:b].decode(), self.data[c:d].decode()
    edits = [(a, b, f"mutant_ran(); {two}"), (c, d, one)]
    self.note(scope, first, first, "update before read", nodes.head(first), f"{nodes.head(second)}; first", edits)

  # Expressions

  def expression(self, node, scope: Scope, statement) -> None:
    """``node`` and what is in it."""
    for operator, old, code in at(node, scope.options):
      self.replace(scope, statement, node, operator, code, *nodes.short(node, old, code))
    for child in self.children(node):
      self.expression(child, scope, statement)

  def children(self, node) -> Iterator[ast.expr]:
    if isinstance(node, ast.JoinedStr | ast.Constant | ast.Slice):
      if isinstance(node, ast.Slice):
        yield from (c for c in (node.lower, node.upper) if c is not None and not nodes.constant(c))
      return
    if isinstance(node, ast.Lambda):
      yield node.body
      return
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
      yield from [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
      for loop in node.generators:
        yield from (loop.iter, *loop.ifs)
      return
    if isinstance(node, ast.Call):
      if isinstance(node.func, ast.Attribute):
        yield node.func.value  # the object of a method: masks and sums stand there too
      elif isinstance(node.func, ast.Call):
        yield node.func
      if nodes.name(node.func) in nodes.PLAIN or nodes.check_call(node):
        return
      axis = nodes.axis_argument(node)
      for argument in node.args:
        argument = argument.value if isinstance(argument, ast.Starred) else argument
        if argument is not axis:
          yield argument
      yield from (k.value for k in node.keywords if k.arg not in (*nodes.PLAIN_KEYWORDS, "axis"))
      return
    if isinstance(node, ast.Attribute) and node.attr in ("shape", "ndim", "dtype", "size"):
      return
    if isinstance(node, ast.BinOp) and (nodes.listed(node.left) or nodes.listed(node.right)):
      return
    yield from (c for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr))
