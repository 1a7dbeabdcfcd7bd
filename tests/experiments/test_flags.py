"""Experiments that are imported together define no flag of the same name."""

import ast
import pathlib

import experiments

HOME = pathlib.Path(experiments.__file__).parent


def defined_on_import(source: str) -> list[str]:
  """The flags that a module defines when it is imported, not when it is run."""
  run = lambda node: isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
  body = [n for n in ast.parse(source).body if not run(n) and not isinstance(n, ast.FunctionDef | ast.ClassDef)]
  calls = [n for statement in body for n in ast.walk(statement) if isinstance(n, ast.Call)]
  return [ast.unparse(c.args[0]) for c in calls if ast.unparse(c.func).rpartition(".")[2].startswith("DEFINE_")]


def test_an_experiment_that_is_imported_defines_no_flag():
  assert defined_on_import("_OUT = flags.DEFINE_string('out', '', 'folder')") == ["'out'"]
  assert {str(p): found for p in HOME.rglob("*.py") if (found := defined_on_import(p.read_text()))} == {}
