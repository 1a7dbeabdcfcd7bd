"""Every function of cljax.metrics is reached by a command or an evaluator: a call graph of the source says which."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pathlib
import pkgutil

import pytest

from cljax import metrics
from cljax.cli.main import COMMANDS
from cljax.metrics import unlearning

ROOT = pathlib.Path(inspect.getfile(metrics)).parents[2]
TOP = ""  # what a module does when it is imported
# What a user starts: the commands of cljax, that which draws the theory, those of the tables downstream and of what is
# memorised. Evaluators are what modules register.
STARTS = [(f"cljax.cli.{name}", "main") for name in COMMANDS] + [
  ("experiments.theory", "main"), ("experiments.unlearn_downstream", "main"), ("experiments.memorization", "main"),
  ("experiments.gradient_inversion", "main"),
]  # fmt: skip
MODULES = [importlib.import_module(m.name) for m in pkgutil.walk_packages(metrics.__path__, "cljax.metrics.")]
FUNCTIONS = {
  (module.__name__, name): function
  for module in MODULES
  if not module.__name__.rpartition(".")[2].startswith("_")  # what the others share
  for name, function in vars(module).items()
  if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
}


class Source:
  """One module: what its names stand for, and for each of its functions and classes the names that it says."""

  def __init__(self, name: str, text: str, package: bool):
    tree = ast.parse(text)
    self.imports: dict[str, str] = {}  # name -> dotted path
    for node in ast.walk(tree):
      if isinstance(node, ast.Import):
        self.imports |= {a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                         for a in node.names}  # fmt: skip
      elif isinstance(node, ast.ImportFrom):
        parts = name.split(".") if package else name.split(".")[:-1]
        base = parts[: len(parts) - node.level + 1] if node.level else []
        prefix = ".".join([*base, *([node.module] if node.module else [])])
        self.imports |= {a.asname or a.name: f"{prefix}.{a.name}" for a in node.names}
    self.said: dict[str, set[str]] = {TOP: set()}
    for node in tree.body:
      if isinstance(node, ast.Import | ast.ImportFrom):
        continue
      own = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else TOP
      self.said.setdefault(own, set()).update(_names(node))
      for bound in _bound(node):  # a constant is reached as its module is
        self.said.setdefault(bound, set())


def _dotted(node) -> str:
  """``a.b.c`` of a name or of attributes of one."""
  parts: list[str] = []
  while isinstance(node, ast.Attribute):
    parts.append(node.attr)
    node = node.value
  return ".".join([node.id, *parts[::-1]]) if isinstance(node, ast.Name) else ""


def _names(node) -> set[str]:
  """All that a piece of source says; of ``(a if b else c).d`` also ``a.d`` and ``c.d``."""
  parts = list(ast.walk(node))
  inner = {id(p.value) for p in parts if isinstance(p, ast.Attribute)}
  bare = {p.id for p in parts if isinstance(p, ast.Name) and id(p) not in inner}
  chosen = [p for p in parts if isinstance(p, ast.Attribute) and isinstance(p.value, ast.IfExp)]
  either = {f"{b.id}.{p.attr}" for p in chosen for b in (p.value.body, p.value.orelse) if isinstance(b, ast.Name)}
  return bare | either | {dotted for p in parts if isinstance(p, ast.Attribute) and (dotted := _dotted(p))}


def _bound(node) -> list[str]:
  targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
  return [t.id for t in targets if isinstance(t, ast.Name)]


@functools.cache
def sources() -> dict[str, Source]:
  found = {}
  for folder in ("cljax", "experiments", "launch"):
    for path in sorted((ROOT / folder).rglob("*.py")):
      parts = path.relative_to(ROOT).with_suffix("").parts
      package = parts[-1] == "__init__"
      name = ".".join(parts[:-1] if package else parts)
      found[name] = Source(name, path.read_text(), package)
  return found


def resolved(dotted: str, within, depth: int = 0) -> tuple[str, str] | None:
  """``(module, name)`` that a dotted path means, through what packages pass on; None for what is not ours."""
  parts = dotted.split(".")
  for cut in range(len(parts), 0, -1):
    module = ".".join(parts[:cut])
    if module in within:
      parent, _, own = module.rpartition(".")
      bound = within[parent].imports.get(own) if parent in within else None
      if cut == len(parts) and bound and bound != module:  # a function of the module's own name stands before it
        return resolved(bound, within, depth + 1)
      if cut == len(parts):
        return module, TOP
      name, source = parts[cut], within[module]
      if name in source.said:
        return module, name
      passed_on = source.imports.get(name)
      if passed_on and depth < 9:
        return resolved(".".join([passed_on, *parts[cut + 1 :]]), within, depth + 1)
      return None
  return None


def reached(starts, without: str = "", within=None) -> set[tuple[str, str]]:
  """All ``(module, name)`` that the starts get to; nothing is got to through the module ``without``."""
  within = within or sources()
  todo, seen = list(starts), set()
  while todo:
    at = todo.pop()
    if at in seen or at[0] == without:
      continue
    seen.add(at)
    module, name = at
    source = within[module]
    if name != TOP:
      todo.append((module, TOP))
    for dotted in source.said.get(name, ()):
      head, _, rest = dotted.partition(".")
      if head in source.said and head != TOP:
        todo.append((module, head))
      elif head in source.imports:
        end = resolved(source.imports[head] + ("." + rest if rest else ""), within)
        todo += [end] if end else []
  return seen


def starts():
  evaluators = [(name, TOP) for name in sources() if name.startswith("cljax.evaluators")]
  return [*STARTS, *evaluators]


@functools.cache
def all_reached():
  return reached(starts())


def test_all_that_is_exported_is_asked_about():
  exported = [getattr(p, n) for p in (metrics, unlearning) for n in p.__all__]
  assert {f for f in exported if inspect.isfunction(f)} <= set(FUNCTIONS.values())
  assert len(FUNCTIONS) > 90


@pytest.mark.parametrize(("module", "name"), sorted(FUNCTIONS), ids=lambda v: v)
def test_a_command_or_an_evaluator_reaches(module, name):
  assert (module, name) in all_reached(), (
    f"{name}: no command and no evaluator prints it; launch.analyze prints what a run has kept, launch.unlearn the "
    "evidence, launch.efficiency what it cost"
  )


def test_the_graph_knows_what_is_not_reached():
  """It is a graph of what is called: no import, no list of exports and no comment makes a function reached."""
  there = set(all_reached())
  for start in STARTS:
    assert start in there
  assert ("cljax.evaluation.cost", "more_than_forgetting") in there
  assert ("cljax.engine.frames", "to_pandas") in there, "through the class that has it"
  assert ("cljax.theory.linear", "ideal_member") not in there, "exported, and drawn by no figure"
  assert ("cljax.metrics.tradeoffs", "fuar") in there
  less = reached(starts(), without="cljax.cli.reporting._analysis_numbers")
  assert {n for m, n in there - less if m == "cljax.metrics.tradeoffs"} == {"fuar"}
  assert ("cljax.metrics.mechanism", "gradient_interference") in there - less
  assert ("cljax.metrics.tradeoffs", "netscore") in there - reached(starts(), without="cljax.evaluation.efficiency")


def test_a_new_function_that_nothing_calls_is_seen():
  module = "cljax.metrics.tradeoffs"
  text = (ROOT / "cljax/metrics/tradeoffs.py").read_text() + "\n\ndef lonely(a):\n  return netscore(a, a, a)\n"
  within = {**sources(), module: Source(module, text, False)}
  found = reached(starts(), within=within)
  assert (module, "netscore") in found
  assert (module, "lonely") not in found
  assert (module, "lonely") in reached([*starts(), (module, "lonely")], within=within)
