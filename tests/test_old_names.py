"""Every public name of 0.1.0 is there, or one line says what to write instead; so for the arguments of its functions.

``names_0_1_0.txt`` has a line a module: its public names, with the arguments of what can be called (``=``: by name
alone). They were read off that version by ``inspect``.
"""

import importlib
import inspect
import pathlib
import subprocess
import sys
import warnings

import jax.numpy as jnp
import pytest

import cljax
from cljax import Batch, CljaxError, UsageError, _old_names, methods
from cljax.core.calls import since_0_2
from cljax.objectives.objective import reduced

LINES = (pathlib.Path(__file__).parent / "names_0_1_0.txt").read_text().splitlines()


def parsed(text):
  name, called, given = text.rstrip(")").partition("(")
  return name, given.split(",") if given else [] if called else None


OLD = {module: dict(map(parsed, names)) for module, *names in map(str.split, LINES)}
# What 0.1 called so was inside: of the engine, of streams' own arithmetic, or a state that only its functions make.
INSIDE = {
  "cljax.feed": ("read", "rows"),
  "cljax.estimators.per_sample": ("thinned",),
  "cljax.methods.plasticity": ("elephant",),  # factories, which get new options from the registry
  "cljax.methods.pruning": ("clnp",),
  "cljax.methods.unlearning_edits": ("head_of",),
  "cljax.memory": ("ClassBalancedState",),
  "cljax.memory.class_balanced": ("ClassBalancedState",),
  "cljax.models.images": ("ViT", "ClassToken"),  # modules that models are made of
  "cljax.programs": ("Blocks", "Members"),
  "cljax.step": ("Where", "shown_rows"),
  "cljax.streams.rows": ("class_groups", "held_rows", "thin"),
  "cljax.types": ("Task",),
  "cljax.unlearning.matching": ("matching_pool",),
}
ELSEWHERE = {"cljax.methods.refresh": "cljax.methods.refresh is now cljax.methods.replay.refresh"}
# Tuples whose fields are told at their own door; ``(*values, **given)`` hides them from inspect.
TUPLES = {"Access", "Batch", "Entry", "Request", "Teacher", "Tools"}


def imported(module):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    return importlib.import_module(module)


def one_line(text):
  return "\n" not in text and " since 0.2" in text and text.endswith("(docs/porting.md)")


def asked(module, name):
  """What ``from module import name`` says: '' where it works."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", DeprecationWarning)
      exec(f"from {module} import {name}", {})
  except ImportError as error:
    return str(error)
  return ""


@pytest.mark.parametrize("module", sorted(OLD))
def test_every_name_is_there_or_one_line_says_what_is(module):
  if module in ELSEWHERE:
    with pytest.raises(ImportError, match=ELSEWHERE[module]):
      imported(module)
    return
  holds = imported(module)
  for name in OLD[module]:
    told = asked(module, name)
    if told:
      assert told.startswith(f"{module}.{name} (<string>, line 1) is gone since 0.2; "), told
      assert one_line(told)
      assert not hasattr(holds, name)


KINDS = {
  inspect.Parameter.VAR_POSITIONAL: "*",
  inspect.Parameter.VAR_KEYWORD: "**",
  inspect.Parameter.KEYWORD_ONLY: "=",
}


def fits(old, function):
  """Whether calls of 0.1 are calls of now: arguments by place where they were, all of them by name, and none that is
  new and needed."""
  try:
    given = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):
    return True
  if hasattr(function, "_fields"):  # made by name; those that are made by ours alone may need more
    return {*old} <= {*function._fields}
  now = [KINDS.get(p.kind, "") + p.name for p in given]
  by_place = [a for a in old if a[0] not in "*="]
  named = {a.lstrip("=") for a in old if a[0] != "*"}
  needed = {p.name for p in given if p.default is p.empty and p.kind not in KINDS} | {
    p.name for p in given if p.default is p.empty and p.kind is p.KEYWORD_ONLY
  }
  return now[: len(by_place)] == by_place and named <= {a.lstrip("=") for a in now} and needed <= named


def changed():
  """``(function, its name, its arguments in 0.1)`` of all that calls of 0.1 do not fit."""
  for module, names in OLD.items():
    for name, old in names.items():
      if module not in ELSEWHERE and old is not None and name not in INSIDE.get(module, ()):
        with warnings.catch_warnings():
          warnings.simplefilter("ignore", DeprecationWarning)
          function = getattr(imported(module), name, None)
        if function is not None and not fits(old, function):
          yield function, name, old


# Calls as 0.1 had them; what stands in their places now wants something else.
CALLS = {
  "reduce": ("cljax.losses", (lambda f: f(1.0, 1.0, 2.0), lambda f: f(1.0, 1.0, coefficient=2.0))),
  "drawn": (
    "cljax.methods.replay",
    (
      lambda f: f(None, {}, 1.0, 0, 2.0),
      lambda f: f(None, {}, 1.0, current_task=0),
      lambda f: f(0, {}, 1, coefficient=1),
    ),
  ),
  "freeze": ("cljax.edits", (lambda f: f("embed", "head", "body"), lambda f: f("embed", "head", "body", active=1))),
  "fisher": ("cljax.methods.penalties", (lambda f: f(0, 1, 2, 3, "exact", 64),)),
  "evaluated_loss": ("cljax.methods.projection.with_replay", (lambda f: f(1),)),
  "layer_rows": ("cljax.methods.projection", (lambda f: f(0, 1, 2),)),
  "task_gradient": ("cljax.methods.projection.subspaces", (lambda f: f(0, 1, 2, 3),)),
  "approximate": ("cljax.methods.unlearning.entries", (lambda f: f("mine", None, {}, "mine", test="a::b"),)),
}


def test_a_call_that_changed_is_known():
  names = {name for _, name, _ in changed()}
  assert names | {"approximate"} == {*CALLS, *TUPLES}  # that took any field of an Entry


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_call_of_0_1_says_what_to_write(name):
  module, calls = CALLS[name]
  function = getattr(imported(module), name)
  for call in calls:
    with pytest.raises(UsageError, match=r"\(.*test_old_names.py, line \d+\); since 0\.2 ") as error:
      call(function)
    assert str(error.value).startswith(f"{name}() ")
    assert one_line(str(error.value))


def test_a_field_that_is_gone_says_what_there_is():
  for kind, name, old in changed():
    gone = [a for a in old if name in TUPLES and a not in kind._fields]
    assert gone or name not in TUPLES, name
    for field in gone:
      place = rf"{name}\.{field} \(.*test_old_names\.py, line \d+\) is gone"
      with pytest.raises(CljaxError, match=place) as error:
        kind(**{field: None})
      assert one_line(str(error.value))


def test_fields_by_place():
  """The seventh of a Batch was a coefficient, the fifth of an Entry its test."""
  batch = Batch(
    jnp.zeros((1, 1)), jnp.zeros(1, int), jnp.ones(1), jnp.zeros(1, int), jnp.zeros(1, int), None, jnp.ones(1)
  )
  with pytest.raises(UsageError, match=r"batch\.group: has no scale beside it; methods\.replay\.append"):
    reduced(jnp.ones(1), None, batch)
  with pytest.raises(UsageError, match=r"mine: exactness: got 'a::b'; allowed: exact, certified, approximate, or ''"):
    methods.register("mine", methods.Entry(None, {}, cljax.Access(), "mine", "a::b"))
  assert "mine" not in methods.METHODS


def test_what_is_inside_has_changed_indeed():
  """Else a line of INSIDE would hide a call that breaks."""
  for module, names in INSIDE.items():
    for name in names:
      assert not fits(OLD[module][name], getattr(imported(module), name)), (module, name)


def test_an_error_from_the_inside_of_a_function_is_its_own():
  @since_0_2("nothing")
  def function(a):
    return a + "text"

  with pytest.raises(TypeError, match="unsupported operand"):
    function(1)
  assert function("a ") == "a text"
  with pytest.raises(UsageError, match=r"missing 1 .* 'a' \(.*line \d+\); since 0\.2 nothing"):
    function()


def test_a_script_ends_with_the_line():
  code = "from cljax.methods.replay import share"
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert out.stderr.strip().splitlines()[-1] == (
    "ImportError: cljax.methods.replay.share (<string>, line 1) is gone since 0.2; replayed rows are a group of their "
    "own: append(batch, more, scale=) (docs/porting.md)"
  )


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in _old_names.NAMES.items() for n in names])
def test_a_name_that_moved_out_of_its_module(module, name):
  told = _old_names.NAMES[module][name]
  home, _, new = told.partition(":")
  assert name in OLD[module], "0.1 had no such name"
  if home == "gone":
    with pytest.raises(AttributeError, match=r"is gone since 0\.2"):
      getattr(imported(module), name)
    return
  with pytest.deprecated_call(match=rf"{module}.{name} is now {home}.{new or name}; "):
    assert getattr(imported(module), name) is getattr(importlib.import_module(home), new or name)
