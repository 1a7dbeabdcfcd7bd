"""The registry: every method by name, as plain entries."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

import cljax.evaluators
import cljax.objectives  # noqa: F401  (names of these two are there before any method's)
from cljax.core import names
from cljax.core.method import Method, compose
from cljax.core.options import Option, checked
from cljax.core.types import Access, Model, Spec, UsageError, name_what_is_gone
from cljax.methods.papers import Paper


class Entry(NamedTuple):
  """``factory(model, spec, **options) -> Method``, its options, its declared access, and where it comes from.

  ``exactness`` marks an unlearning method: 'exact', 'certified' or 'approximate'. What a method is checked by stands
  beside the tests, in its record (``tests/records``). ``network`` is the zoo's kind of model on which the suite and the
  tables try it: another than an MLP where it asks for what that lacks. ``papers`` are those that its card shows with
  BibTeX, beside those which ``papers.toml`` has for its name.
  """

  factory: Callable[..., Method]
  options: Mapping[str, Option]
  access: Access
  reference: str
  exactness: str = ""
  network: str = "mlp"
  papers: tuple[Paper, ...] = ()


def declared(entry: Entry, made: Method) -> Method:
  """The method with its entry's access, without the task at test where it infers that."""
  access = entry.access._replace(task_id_at_test=False) if made.infers_task else entry.access
  return made._replace(access=access)


_RECORD = "what a method is checked by stands in its proof record, beside the tests"
name_what_is_gone(Entry, dict.fromkeys(("test", "neutral", "first_task_plain"), _RECORD))
METHODS: dict[str, Entry] = {}
names.TABLES["method.name"] = METHODS
EXACTNESS = ("", "exact", "certified", "approximate")
_NAME = re.compile(r"[\w@.+/-]+")  # what a flag, a list of names and the name of a folder can hold


def register(name: str, entry: Entry) -> Entry:
  """Adds a method to the registry. Raises UsageError where the name is taken, or none that a command could name."""
  if not isinstance(name, str) or not _NAME.fullmatch(name):
    raise UsageError(f"method.name: got {name!r:.80}; expected letters, digits and any of _@.+-/")
  if name in METHODS:
    raise UsageError(f"method.name: {name!r} is already registered")
  names.check_free("method.name", name)
  if not isinstance(entry, Entry):
    raise UsageError(
      f"{name}: got {entry!r:.80}; expected cljax.methods.Entry(factory, {{option: Option(default)}}, "
      "cljax.Access(...), reference)"
    )
  if entry.exactness not in EXACTNESS:
    raise UsageError(f"{name}: exactness: got {entry.exactness!r:.80}; allowed: {', '.join(EXACTNESS[1:])}, or ''")
  METHODS[name] = entry
  return entry


def lookup(name: str) -> Entry:
  """The entry of a name; UsageError with the nearest names where there is none."""
  if not isinstance(name, str) or name not in METHODS:
    near = difflib.get_close_matches(str(name), METHODS, 3)
    hint = f"did you mean {', '.join(near)}?" if near else f"allowed: {', '.join(sorted(METHODS))}"
    raise UsageError(f"method.name: unknown {name!r}; {hint}")
  return METHODS[name]


def check_options(name: str, given: Mapping[str, Any], label: str = "method") -> dict[str, Any]:
  """Defaults merged with ``given``, each checked: UsageError names the option, what was given and what is allowed."""
  entry = lookup(name)
  for key in given:
    if key not in entry.options:
      allowed = ", ".join(sorted(entry.options)) or "none"
      raise UsageError(f"{label}.{key}: {name!r} has no such option; allowed: {allowed}")
  values = {}
  for key, option in entry.options.items():
    value = given.get(key, option.default)
    values[key] = checked(f"{label}.{key}", value, option)
  for key, option in entry.options.items():
    for other, with_these in option.needs.items() if values[key] != option.default else ():
      if values[other] not in with_these:
        raise UsageError(
          f"{label}.{key}: got {values[key]!r}, which {name!r} does not read with {other}={values[other]!r}; it does "
          f"with {', '.join(map(repr, with_these))}"
        )
  # More rows than a memory holds can not be drawn from it: such a size would be that of the memory, silently.
  for key in ("replay_batch", "reference_batch"):
    asked = key in values and values[key] != entry.options[key].default  # a default above it is not asked for
    if asked and "capacity" in values and values[key] > values["capacity"]:
      raise UsageError(
        f"{label}.{key}: got {values[key]}, above {label}.capacity, which is {values['capacity']}; "
        "expected at most that"
      )
  return values


def check_needs(name: str, needs: Sequence[str], spec: Spec | None, label: str = "method") -> None:
  """UsageError where the objective has not what ``name`` needs; before it is made, else the default of one of its
  options is refused, which nobody gave."""
  objective = getattr(spec, "objective", None)
  for need in needs:
    if objective is not None and not getattr(objective, need):
      raise UsageError(f"{label}.name: {name} needs {need}, which the objective {objective.name!r} does not have")


def make(name: str, model: Model, spec: Spec, **options: Any) -> Method:
  """A registered method with its declared access, for :func:`cljax.compose` inside a factory of your own.

  Options that are left out take their defaults; concrete ones are checked, traced ones are passed through.
  """
  entry = lookup(name)
  concrete = {k: v for k, v in options.items() if not isinstance(v, jax.Array)}
  values = {**check_options(name, concrete), **options}
  check_needs(repr(name), entry.access.needs, spec)
  return declared(entry, entry.factory(model, spec, **values))


def of_one_model(makers: Mapping[str, Callable[[Model], Method]], model: Model) -> dict[str, Method]:
  """Each maker's method, made on the model that one of them puts in place of ``model``, if one does.

  What a method does with the model (a Fisher pass, a teacher) has to be done on the one that is trained, wherever its
  owner stands among the parts.
  """
  made = {name: make(model) for name, make in makers.items()}
  owner = next((name for name, method in made.items() if method.model is not None), None)
  if owner is None:
    return made
  shared = made[owner].model or model
  return {name: made[name] if name == owner else make(shared) for name, make in makers.items()}


class Plan(NamedTuple):
  """Methods by name with checked options; ``hyper`` holds the traced ones, keyed ``section.option``."""

  parts: tuple  # (section, name, Entry, static options)
  hyper: dict[str, float]

  def build(self, model: Model, spec: Spec, values: Mapping[str, Any]) -> Method:
    """The composed Method; ``values`` are this trace's hyper-parameters."""
    makers: dict[str, Callable[[Model], Method]] = {}
    made_with = lambda entry, given: lambda model: declared(entry, entry.factory(model, spec, **given))
    for section, name, entry, static in self.parts:
      check_needs(repr(name), entry.access.needs, spec, section)
      traced = {k.split(".", 1)[1]: v for k, v in values.items() if k.startswith(section + ".")}
      makers[name if name not in makers else f"{name}_{section}"] = made_with(entry, {**static, **traced})
    built = of_one_model(makers, model)
    if len(built) == 1:
      only = next(iter(built.values()))
      return only._replace(model=only.model or model)
    return compose(**built)


def plan(sections: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Plan:
  """Checks ``{'method': (name, options), 'forget': (name, options)}`` and splits traced from static options."""
  parts, hyper = [], {}
  for section, (name, given) in sections.items():
    values = check_options(name, given, section)
    hyper.update({f"{section}.{k}": v for k, v in values.items() if isinstance(v, float)})
    parts.append((section, name, lookup(name), {k: v for k, v in values.items() if not isinstance(v, float)}))
  return Plan(tuple(parts), hyper)
