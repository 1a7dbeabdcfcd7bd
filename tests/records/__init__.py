"""The proof records: for each entry of cljax what it was compared with and which laws it keeps.

An entry is what computes a formula or has a law; every exported or registered name is one, or stands in ``HELPERS``
with a line that says what it is. A record is one ``name: Record(...)`` in the module of its kind (of methods: of their
family), keyed by kind and name. To add one:

1. Write the test that compares the entry's loss, update, state or edit with NumPy or a closed form, and those of its
   laws. A test that enters the code through a traced program counts; one that only runs does not.
2. Name them by function: ``compared=("test_f",)``, ``"test_f[id]"`` for one parameter, ``"stem::test_f"`` where two
   files have one of that name. Without ``[id]``: the parameters of which the entry's name is a part, else the first.
   A comparison has to enter the entry itself; the tests of a private part of it may stand beside it.
3. A method has a ``claim``, or ``no_claim`` with one line why; and ``arguments``, with which it enters the contract
   suite by its record alone. ``deviations`` from the paper or its code, a line each.
4. ``python -m experiments.proofs --only=NAME`` (or ``kind/NAME``, or a module of records) proves and writes it.

``tests/test_records.py`` compares; ``experiments/proofs.py`` proves; ``experiments/mutations.py`` breaks the code.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from records.form import KINDS, Kind, Record

__all__ = [
  "KINDS", "Kind", "Record", "arguments", "entry", "exported", "helpers", "method", "modules_of", "network", "records",
  "stops",
]  # fmt: skip
Key = tuple[str, str]  # (kind, name)


@functools.cache
def _modules() -> tuple[Any, ...]:
  names = sorted(m.name for m in pkgutil.iter_modules(__path__))
  found = [importlib.import_module(f"{__name__}.{n}") for n in names]
  return tuple(m for m in found if hasattr(m, "RECORDS"))


@functools.cache
def records() -> dict[Key, Record]:
  """Every record by kind and name. Raises ValueError where two modules have one."""
  found: dict[Key, Record] = {}
  for module in _modules():
    for name, record in module.RECORDS.items():
      if (module.KIND, name) in found:
        raise ValueError(f"{module.__name__}: a second record of {module.KIND} {name!r}")
      found[module.KIND, name] = record
  return found


@functools.cache
def modules_of() -> dict[Key, str]:
  """The module of records in which each stands."""
  return {(m.KIND, name): m.__name__.rsplit(".", 1)[-1] for m in _modules() for name in m.RECORDS}


@functools.cache
def helpers() -> dict[str, dict[str, str]]:
  """Exported names that are no entries: ``{package: {name: what it is}}``."""
  found: dict[str, dict[str, str]] = {}
  for module in _modules():
    found.setdefault(KINDS[module.KIND].package, {}).update(getattr(module, "HELPERS", {}))
  return found


def method(name: str) -> Record:
  """The record of a method; an empty one for a method that a test has registered itself."""
  return records().get(("method", name), Record())


def arguments(name: str) -> Mapping[str, Any]:
  """The options under which the suite runs a method."""
  return method(name).arguments


def network(name: str, otherwise: Any, shape=(4, 4, 1), classes: int = 4) -> Any:
  """The model on which a method is tried: ``otherwise``, an MLP, unless the method asks for what that lacks."""
  return _network(name, tuple(shape), classes) or otherwise


@functools.cache
def _network(name: str, shape: tuple[int, ...], classes: int) -> Any:
  from cljax import methods, models

  kind = methods.METHODS[name].network if name in methods.METHODS else "mlp"
  small = {"vit": {"patch": 2, "width": 8, "depth": 2, "heads": 2, "mlp_ratio": 1}, "cnn": {"widths": (4, 3)}}
  return None if kind == "mlp" else models.build(kind, shape, classes, **small[kind])


def exported(package: str) -> list[str]:
  """The public names of a package; none of ''."""
  if not package:
    return []
  module = importlib.import_module(package)
  return list(getattr(module, "__all__", [n for n in dir(module) if not n.startswith("_")]))


def entry(key: Key) -> Any:
  """What a key names: a method's factory, what the kind's package exports, or what its module of records says.

  Raises KeyError or AttributeError where there is none.
  """
  kind, name = key
  if not KINDS[kind].package:
    return next(m.OBJECTS[name] for m in _modules() if kind == m.KIND)
  if kind == "method":
    return importlib.import_module("cljax.methods").METHODS[name].factory
  if kind == "objective":
    package = importlib.import_module("cljax.objectives")
    return package.OBJECTIVES[name].make if name in package.OBJECTIVES else getattr(package, name)
  return getattr(importlib.import_module(KINDS[kind].package), name)


@functools.cache
def stops() -> frozenset[int]:
  """The functions at which own code ends: what any package exports, and the factories of methods."""
  from records.code import bare

  methods = importlib.import_module("cljax.methods").METHODS
  exports = [getattr(importlib.import_module(k.package), n) for k in KINDS.values() for n in exported(k.package)]
  values = [v for v in exports if callable(v) and not isinstance(v, type)] + [e.factory for e in methods.values()]
  return frozenset(id(f) for v in values for f in bare(v))
