"""Published settings: one table, and the configurations made of those of its rows that cljax can run.

``presets.tsv`` holds facts, a row for each setting that a paper or a repository states: method, benchmark, optimizer,
options, the published mean and standard deviation, the number of runs, and where each stands. A row becomes a preset
``BENCHMARK/METHOD[/SETTING]`` where a protocol (one of :data:`PROTOCOLS`) says how its options are called here.
A preset names every field that its numbers depend on, so that a default that moves does not move it.
"""

from __future__ import annotations

import csv
import difflib
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from cljax import UsageError
from cljax.cli.presets import avalanche, mammoth, van_de_ven

FILE = pathlib.Path(__file__).parent / "presets.tsv"
PREFIX = "preset"
PROTOCOLS = (mammoth, avalanche, van_de_ven)


class Published(NamedTuple):
  """A published accuracy in percent, its standard deviation over ``runs``, where it stands and what it is the mean of.

  ``deviation`` and ``runs`` are None where the source does not say them; ``digit`` is the unit of the mean's last one.
  """

  mean: float
  deviation: float | None
  runs: int | None
  source: str
  metric: str
  digit: float = 0.0

  @property
  def is_final(self) -> bool:
    """Whether it is the mean over tasks after the last one: what a run's accuracy is."""
    return self.metric.startswith("final avg acc")


class Preset(NamedTuple):
  """A setting that can be run: its name, its row, its configuration by section, what was published, what differs."""

  name: str
  row: Mapping[str, str]
  sections: Mapping[str, Mapping[str, Any]]
  published: Published | None
  differs: tuple[str, ...]

  @property
  def benchmark(self) -> str:
    return self.name.partition("/")[0]

  @property
  def called(self) -> str:
    """What its method is called where it was published, such as ``der``, our ``derpp`` without labels."""
    return self.name.split("/")[1]

  @property
  def method(self) -> str:
    """The method of the registry."""
    return self.sections["method"]["name"]


@functools.cache
def rows() -> tuple[dict[str, str], ...]:
  """The table, a dict for each row, as text. Ids are unique."""
  with open(FILE, newline="", encoding="utf-8") as file:
    return tuple(csv.DictReader(file, delimiter="\t"))


def published(row: Mapping[str, str]) -> Published | None:
  """What a row says was measured, in percent; None where it says nothing, or not where it read it."""
  if not row["accuracy"] or not row["result_source"]:
    return None
  scale = 100.0 if row["metric"].endswith("(0-1)") else 1.0
  number = lambda text: round(float(text) * scale, 4)
  deviation = number(row["std"]) if row["std"] else None
  runs = int(row["runs"]) if row["runs"] else None
  digit = scale * 10.0 ** -len(row["accuracy"].partition(".")[2])
  return Published(number(row["accuracy"]), deviation, runs, row["result_source"], row["metric"], digit)


def options(row: Mapping[str, str]) -> dict[str, Any]:
  """A row's own options, as its source calls them."""
  return json.loads(row["options"]) if row["options"] else {}


@functools.cache
def presets() -> dict[str, Preset]:
  """Every preset by name, in the order of the table."""
  out: dict[str, Preset] = {}
  for row in rows():
    made = next((m for p in PROTOCOLS if (m := p.configuration(row, options(row))) is not None), None)
    if made is None:
      continue
    parts = (made.benchmark or row["benchmark"], made.called or made.sections["method"]["name"], row["buffer"])
    name = "/".join(part for part in parts if part)
    if name in out:
      raise ValueError(f"{FILE}: {row['id']} and {out[name].row['id']} are both {name}")
    out[name] = Preset(name, row, made.sections, published(row), made.differs)
  return out


def benchmarks() -> list[str]:
  """Benchmarks that presets exist for."""
  return list(dict.fromkeys(p.benchmark for p in presets().values()))


def of_method(method: str) -> list[Preset]:
  """The presets of a method of the registry."""
  return [p for p in presets().values() if p.method == method]


def find(name: str) -> Preset:
  """A preset by its name. Raises UsageError with the nearest names."""
  if name in presets():
    return presets()[name]
  inside = [n for n in presets() if n.startswith(f"{name}/")]
  if inside:
    raise UsageError(f"preset: {name!r} is several; allowed: {', '.join(inside)}")
  near = difflib.get_close_matches(name, presets(), 3, 0.5)
  hint = f"; did you mean {', '.join(near)}?" if near else ""
  raise UsageError(
    f"preset: unknown {name!r}; expected BENCHMARK/METHOD[/SETTING] with a benchmark of {', '.join(benchmarks())}{hint}"
  )


def chosen(benchmark: str, methods: Sequence[str] = ()) -> list[Preset]:
  """The presets of a benchmark; ``methods`` keeps those of a METHOD or METHOD/SETTING. Raises UsageError."""
  if benchmark not in benchmarks():
    raise UsageError(f"benchmark: got {benchmark!r}; allowed: {', '.join(benchmarks())}")
  mine = [p for p in presets().values() if p.benchmark == benchmark]
  if not methods:
    return mine
  out: list[Preset] = []
  for word in methods:
    asked = f"{benchmark}/{word}"
    found = [p for p in mine if p.name == asked or p.name.startswith(f"{asked}/")]
    if not found:
      known = dict.fromkeys(p.called for p in mine)
      raise UsageError(f"methods: {benchmark} has no preset {word!r}; allowed: {', '.join(known)}, or METHOD/SETTING")
    out += [p for p in found if p not in out]
  return out


def flat(preset: Preset) -> dict[str, Any]:
  """``{section.field: value}``."""
  return {f"{s}.{k}": v for s, fields in preset.sections.items() for k, v in fields.items()}


def common(several: Sequence[Preset]) -> dict[str, Any]:
  """``{section.field: value}`` of what all of them have, and agree in."""
  first, *others = map(flat, several)
  return {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}


def points(benchmark: str, methods: Sequence[str] = ()) -> list[dict[str, Any]]:
  """The settings of a benchmark that ``methods`` names as points of a sweep whose file is :func:`configuration`'s."""
  out = []
  for preset in chosen(benchmark, methods):
    of_method = common([p for p in chosen(benchmark) if p.method == preset.method])
    held = {**common(chosen(benchmark)), **{k: v for k, v in of_method.items() if k.startswith("method.")}}
    out.append({"method.name": preset.method, **{k: v for k, v in flat(preset).items() if k not in held}})
  return out


def _by_section(fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  out: dict[str, dict[str, Any]] = {}
  for key, value in fields.items():
    section, _, field = key.partition(".")
    out.setdefault(section, {})[field] = value
  return out


def configuration(name: str, several: bool = False) -> tuple[dict[str, dict], dict[str, dict], ModuleType]:
  """``(sections, method_defaults, module)`` in the place of a configuration file's, for ``--config=preset:NAME``.

  ``several``: NAME may be a benchmark. What its presets agree in are then the sections, what those of a method agree in
  its ``method_defaults``, and the module's ``get_hyper(h)`` and ``preset_points(methods)`` give the rest as points of a
  sweep. Raises UsageError.
  """
  module: Any = ModuleType(PREFIX)
  if not several or name not in benchmarks():
    if name in benchmarks():
      raise UsageError(f"config: {PREFIX}:{name} is a benchmark; expected {PREFIX}:{name}/METHOD[/SETTING]")
    module.get_hyper = lambda h: [{}]  # a sweep over its seeds alone
    return {s: dict(fields) for s, fields in find(name).sections.items()}, {}, module
  mine = chosen(name)
  sections = _by_section(common(mine))
  defaults = {}
  for method in dict.fromkeys(p.method for p in mine):
    fields = _by_section(common([p for p in mine if p.method == method]))["method"]
    defaults[method] = {k: v for k, v in fields.items() if k != "name"}
  module.preset_points = lambda methods: points(name, methods)
  module.get_hyper = lambda h: points(name)
  return sections, defaults, module
