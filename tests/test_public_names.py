"""Every public name is documented and typed: what stands in ``__all__`` of a package that users import."""

import importlib
import inspect
import re
import typing

import pytest

PACKAGES = (
  "cljax", "cljax.streams", "cljax.data", "cljax.models", "cljax.objectives", "cljax.evaluators", "cljax.losses",
  "cljax.regularizers", "cljax.projectors", "cljax.optimizers", "cljax.edits", "cljax.memory", "cljax.estimators",
  "cljax.unlearning", "cljax.methods", "cljax.metrics", "cljax.metrics.unlearning", "cljax.theory", "cljax.engine",
)  # fmt: skip

# Tables and the like, which hold what is tested under its own name; a value has no docstring.
VALUES = {
  "cljax.__version__", "cljax.streams.KINDS", "cljax.streams.READS", "cljax.objectives.OBJECTIVES",
  "cljax.evaluators.EVALUATORS", "cljax.methods.METHODS", "cljax.metrics.ROW_METRICS", "cljax.metrics.unlearning",
}  # fmt: skip

# What is left: the calls that ``offered`` makes have the annotations of what they wrap (``-> Objective`` for a
# ``Chosen``), and none for ``given``.
LEFT = {
  f"cljax.objectives.{name}" for name in (
    "adversarial", "classification", "contrastive", "denoising", "multi_label", "ranking", "reconstruction",
    "regression", "sequence",
  )
}  # fmt: skip


def public():
  """``{name: function or class}``, each under the first name that it has."""
  found = {}
  for package in PACKAGES:
    module = importlib.import_module(package)
    for name in module.__all__:
      thing = inspect.unwrap(getattr(module, name))
      if f"{package}.{name}" not in VALUES and thing not in found.values():
        found[f"{package}.{name}"] = thing
  return found


PUBLIC = public()
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if inspect.isfunction(thing)}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}


def methods(cls):
  """``{name: function}`` of the public methods and properties that a class itself defines."""
  own = {n: v.fget if isinstance(v, property) else getattr(v, "__func__", v) for n, v in vars(cls).items()}
  return {n: f for n, f in own.items() if not n.startswith("_") and inspect.isfunction(f)}


def undocumented(name, thing):
  doc = inspect.getdoc(thing) or ""
  if not doc or doc.startswith(f"{thing.__name__}("):  # what a NamedTuple is given
    return [f"{name}: no docstring"]
  first = " ".join(doc.split("\n\n")[0].split())
  # A sentence, or a formula: a word in capitals, a number, code or a set in front, a stop or code at the end.
  starts, ends = re.match(r"[A-Z0-9`\[({:]", first), re.search(r"[.;:]$|``$", first)
  return [] if starts and ends else [f"{name}: begins with no sentence or formula: {first[:60]!r}"]


def untyped(name, function, bound=False):
  signature = inspect.signature(function)
  parameters = list(signature.parameters.values())[bound:]
  faults = [f"{name}: {p.name} has no annotation" for p in parameters if p.annotation is p.empty]
  if signature.return_annotation is signature.empty:
    faults.append(f"{name}: no annotation of what it returns")
  return faults


def unresolved(name, thing):
  try:
    typing.get_type_hints(thing)
  except Exception as error:
    return [f"{name}: {error!r}"]
  return []


def listed(faults):
  assert not faults, "\n" + "\n".join(faults)


def test_every_public_name_is_a_function_a_class_or_a_table():
  listed([name for name in PUBLIC if name not in FUNCTIONS and name not in CLASSES])
  assert set(FUNCTIONS) >= LEFT
  assert len(FUNCTIONS) > 300


def test_every_public_name_has_a_docstring_that_begins_with_a_sentence_or_a_formula():
  listed([fault for name, thing in PUBLIC.items() for fault in undocumented(name, thing)])


def test_every_parameter_and_result_of_a_public_function_is_annotated():
  listed([fault for name, thing in FUNCTIONS.items() if name not in LEFT for fault in untyped(name, thing)])
  stale = [name for name in LEFT if not untyped(name, FUNCTIONS[name])]
  assert not stale, f"typed by now; take off the list: {stale}"


def test_methods_of_public_classes_are_documented_and_annotated():
  faults = []
  for name, cls in CLASSES.items():
    for method, function in methods(cls).items():
      bound = not isinstance(vars(cls)[method], staticmethod)
      faults += [] if function.__doc__ else [f"{name}.{method}: no docstring"]
      faults += untyped(f"{name}.{method}", function, bound)
  listed(faults)


def test_annotations_resolve():
  listed([fault for name, thing in PUBLIC.items() for fault in unresolved(name, thing)])


@pytest.mark.parametrize(
  ("doc", "sound"),
  [("Mean of x.", True), ("``a + b``", True), ("[N] bool: rows.", True), (None, False), ("of x", False)],
)
def test_what_counts_as_documented(doc, sound):
  def thing(x: int) -> int:
    return x

  thing.__doc__ = doc
  assert (not undocumented("thing", thing)) is sound


def test_what_is_left_out_is_named():
  def half(x, *, y: int = 0):
    return x + y

  def lost(x: "Nowhere") -> int:  # noqa: F821
    return x

  assert untyped("half", half) == ["half: x has no annotation", "half: no annotation of what it returns"]
  assert len(unresolved("lost", lost)) == 1
