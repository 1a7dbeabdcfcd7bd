"""Hostile command lines: values for every key of the configuration, grids, requests, seeds, meshes, sizes in bytes."""

from __future__ import annotations

import functools
import types

from cljax import Member, data, methods, models, objectives, streams
from cljax.cli import _build, _config, _grid, _shared, _values, sweep
from cljax.cli.reporting import _table
from cljax.cli.sweeps import _plan
from cljax.engine import mesh, recipe
from cljax.models.build import ZOO

BASE: dict[str, dict] = {
  "data": {"name": "digits"},
  "stream": {"kind": "class", "tasks": 2, "rows": 100},
  "model": {"name": "mlp", "hidden": (4,)},
}
FILE = _config.File(BASE, {}, types.ModuleType("fuzz"))
_CACHE: dict = {}

WORDS = (
  "", " ", "0", "-1", "1", "2", "3", "7", "True", "true", "none", "null", "nan", "inf", "-inf", "1e999", "1e308",
  "1e-320", "-0.0", "0.5", "1.5", "2147483647", "2147483648", "-2147483649", "4294967296", "9223372036854775807",
  "9223372036854775808", "1" + "0" * 400, "1" * 5000, "()", "[]", "{}", "(,)", "[[]]", "[1,[2]]", "{[]:1}", "{1:2}",
  "{1,2}", "{'a':1}", "b'x'", "1j", "'x'", "'", '"', "[1,'a']", "1,2", "0,1", "1,0", "0,0", "3,1,2", "1.5,2", "-1,2",
  "[None]", "[True]", "[nan]", "a,b", "...", "lambda: 0", "__import__('os')", "x" * 3000, "(" * 3000, "[" * 100_000,
  "-" * 5000 + "1", "1+" * 3000 + "1", "2**2**2**9", "0x10", "1_000", "\u0661", "\u2460", "\ud800", "\x00", "\x1b[2J",
  "é", "日本", "a/b", "..", "/", "~", "%s%n", "${HOME}", "a=b", "a:b", ";", "&", "+", "1;2", "1:2",
)  # fmt: skip
REQUESTS = (
  "2:class=1", "1:class=0; 2:ids=3", "2:task=0", "2:group=0", "class=3", "ids=1-9", "class=1+ids=2", "class=1&ids=2",
  "2:class=0-9", "2:ids=0-99999999999", "1:class='1'", "1:class=#1", "3:class=1", "0:class=1", "2:ids=5-1", "2:",
)  # fmt: skip
GRIDS = (
  "method.strength=[1,10]", "method.name=['er','ewc']", "optimizer.momentum=[0,0.5]", "train.epochs=[1,2]",
  "stream.kind=['class','permuted']", "config.model.hidden=[(4,),(5,)]", "method.strength=[]", "method.strength=1",
)  # fmt: skip
SEEDS = ("1", "3", "0,1", "[3,7]", "5,5", "-1", "1e9", "1000000000000")


def mutated(rng, text: str) -> str:
  """A text with a few characters dropped, doubled, changed or taken from elsewhere."""
  for _ in range(rng.integers(1, 4)):
    at = int(rng.integers(0, len(text) + 1))
    other = str(rng.choice(WORDS))
    piece = other[: int(rng.integers(0, 6))]
    how = rng.integers(0, 4)
    cut = int(rng.integers(0, 4))
    text = {
      0: text[:at] + piece + text[at:],
      1: text[:at] + text[at + cut :],
      2: text[:at] + piece + text[at + cut :],
      3: text + text[:at],
    }[int(how)]
  return text


def value(rng, default) -> str:
  """Command-line text for a field: hostile, or near what is meant."""
  shown = ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
  how = rng.integers(0, 10)
  if how < 5:
    return str(rng.choice(WORDS))
  if how < 8:
    return mutated(rng, shown)
  if isinstance(default, int | float) and not isinstance(default, bool):
    return repr(type(default)(default * rng.choice([0, 1, 2, 3, 100]) + rng.choice([0, 1])))
  return shown


@functools.cache
def keys() -> tuple[tuple[str, str, object], ...]:
  """``(key, what must be given beside it, its default)`` of every field there is."""
  out = []
  for section in _config.SECTIONS:
    for name in {"data": ("digits", "glyphs"), "model": ZOO, "objective": objectives.OBJECTIVES}.get(section, ("",)):
      beside = f"{section}.name={name}" if name else ""
      out += [(f"{section}.{k}", beside, v) for k, v in _config.defaults(section, name).items()]
  for name, entry in methods.METHODS.items():
    out += [(f"method.{k}", f"method.name={name}", o.default) for k, o in entry.options.items()]
    if entry.access.forgets:
      beside = f"forget.name={name} stream.forget=2:class=1"
      out += [(f"forget.{k}", beside, o.default) for k, o in entry.options.items()]
  kinds = {"kind": streams.KINDS}
  for kind in kinds["kind"]:
    out += [(f"stream.{k}", f"stream.kind={kind}", v) for k, v in _config.defaults("stream").items()]
  for name in recipe.OPTIMIZERS:
    out += [(f"optimizer.{k}", f"optimizer.name={name}", v) for k, v in _config.defaults("optimizer").items()]
  return tuple(out)


GLYPHS = "data.alphabets=latin data.styles=mono data.samples_per_class=2 data.test_samples_per_class=1 data.classes=2"


def arguments(rng) -> list[str]:
  """``--config.*`` flags: one to three hostile ones, behind what they need."""
  out: list[str] = []
  for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
    key, beside, default = keys()[int(rng.integers(0, len(keys())))]
    if beside == "data.name=glyphs":
      beside += f" {GLYPHS}"  # as many as by default take seconds to draw
    given = value(rng, default)
    if key == "stream.forget" and rng.integers(0, 2):
      given = mutated(rng, str(rng.choice(REQUESTS)))
    if key.endswith(("data_dir", "data.name")):
      given = given.replace("/", "_").replace("..", "_").replace("~", "_")  # it must not walk this machine
    out += [f"--config.{part}" for part in beside.split()]
    out.append(f"--config.{key if rng.integers(0, 20) else mutated(rng, key)}={given}")
  return out


def flags(rng, folder):
  """As launch.train reads its command line, up to the point where it would train."""
  argv = ["fuzz", "--config=x", f"--workdir={folder}", f"--seeds={_of(rng, SEEDS)}", *arguments(rng)]
  if not rng.integers(0, 8):
    argv.append(f"--mesh={_of(rng, ('population:2', 'data:2,fsdp:1', 'data:-1', 'x:1'))}")
  if not rng.integers(0, 20):
    argv.append(mutated(rng, "--seeds=3"))
  prepares = not rng.integers(0, 12)

  def call():
    known = _shared.common_flags()
    _shared.mesh_flags(known)
    overrides = _shared.parse(argv, known)
    seeds = _values.parse_seeds(known.seeds)
    mesh.parse(known.mesh)
    config = _config.resolve(FILE, overrides)
    made = _build.build(config, _small_cache())
    _config.essence(made.identity)
    _config.from_identity(made.identity, {"checkpoint": config["checkpoint"]})
    if prepares:
      _build.prepare(made, [Member(seeds[0])])

  return argv, call


def _small_cache() -> dict:
  """Datasets are kept between inputs, streams are not: hostile ones are large, and all unlike."""
  for key in list(_CACHE):
    if not isinstance(_CACHE[key], data.Dataset) or len(_CACHE) > 20:
      del _CACHE[key]
  return _CACHE


def _of(rng, texts) -> str:
  """One of some good texts, mutated, or a hostile word."""
  how = rng.integers(0, 6)
  text = str(rng.choice(texts))
  return text if how < 3 else mutated(rng, text) if how < 5 else str(rng.choice(WORDS))


def grids(rng, folder):
  """As launch.sweep reads its command line, up to its plan."""
  given = [_of(rng, GRIDS) for _ in range(int(rng.choice([1, 1, 2])))]
  names = [str(n) for n in rng.choice(sorted(methods.METHODS), int(rng.integers(0, 3)))]
  argv = ["fuzz", "--config=x", f"--workdir={folder}", f"--max_bytes={_of(rng, ('', '4GiB', '1e9', '500MB'))}"]
  argv += [f"--grid={g}" for g in given] + ([f"--methods={','.join(names)}"] if names else [])
  argv += arguments(rng) if rng.integers(0, 2) else []

  def call():
    known = sweep._flags()
    overrides = _shared.parse(argv, known)
    if known.max_bytes:
      sweep.parse_bytes(known.max_bytes)
    points = _grid.points(known.grid, known.methods, FILE.module)
    if len(points) <= 12:
      _plan.groups(_plan.plan(FILE, overrides, points))

  return argv, call


@functools.cache
def _digits_stream():
  return streams.build(data.load("digits"), "class", tasks=2, rows=100)


def requests(rng, folder):
  """Requests of launch.unlearn, protocols of launch.report, and models by name."""
  text, which = _of(rng, REQUESTS), int(rng.integers(0, 4))

  def call():
    if which == 0:
      for _, request in streams.parse_forget(text):
        streams.resolve(request, _digits_stream().dataset.train, _digits_stream().train, 10)
    elif which == 1:
      streams.parse_request(text)
    elif which == 2:
      _table.parse_select(text)
    else:
      models.build(text, (8, 8, 1), 10)

  return [which, text], call
