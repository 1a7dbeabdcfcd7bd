"""What a sweep is going to run: configurations, and the populations that they are run in.

A run is a configuration and a seed. Runs that differ only in seeds and float hyper-parameters share a program; a unit
is a population of such runs that is trained together, by one process, from one checkpoint sequence. Each unit is a
folder ``groups/NAME`` whose ``unit.json`` says all that it takes to run it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from cljax import Member, UsageError, engine
from cljax.cli import _build, _config, _grid, _workdir
from cljax.core import tree
from cljax.evaluation import results
from cljax.io import checkpoint, files, formats, ledger, tables
from cljax.io import owner as _owner

TRACEBACK = "error.txt"  # in the folder of a population that failed


class Run(NamedTuple):
  """One configuration of a sweep: its place on disk, its label in tables, and what varies inside its program."""

  label: str
  folder: str
  point: Mapping[str, Any]
  built: _build.Built
  traced: dict[str, float]
  more: dict[str, dict[str, Any]]  # the configuration that is no part of its identity


class Unit(NamedTuple):
  """A population: the name of its folder, and the content of its ``unit.json``."""

  name: str
  content: dict[str, Any]

  @property
  def label(self) -> str:
    return self.content["label"]

  @property
  def members(self) -> list[tuple[str, int]]:
    """``(folder, seed)`` of each run."""
    return [(m["run"], m["seed"]) for m in self.content["members"]]


class Size(NamedTuple):
  """Bytes of one member's parameters, model state, optimizer and method state; of the data; and training steps."""

  member: int
  data: int
  steps: int


def plan(
  file: _config.File,
  overrides: Sequence[_config.Override],
  grid: Sequence[_grid.Point],
  say: Callable[[str], None] = lambda line: None,
  drawn: Collection[str] = (),
) -> list[Run]:
  """Resolves every point before anything runs, so that a mistake in the last one costs nothing.

  An option that is given must be read by a point at least; ``say`` is told by which, where not by all. Points that
  differ only in what they do not read are one. Of ``drawn`` methods, which nobody named, those that do not fit are left
  out, each with a line.
  """
  cache: dict = {}
  given = {o.key for o in overrides}
  overrides = frozen(file, overrides)
  given_to = _config.Points([], {}, {}, {})
  points: list[tuple[_grid.Point, dict]] = []
  for point in grid:
    clash = sorted(given & set(point))
    if clash:
      raise UsageError(f"grid: {clash[0]} is also given as --config.{clash[0]}; give it once")
    layers = [*overrides, *(_config.Override(k, v) for k, v in point.items())]
    try:
      config, missed = given_to.resolve(file, layers)
    except UsageError as error:
      if point.get("method.name") not in drawn:
        raise
      say(f"{point['method.name']} is left out: {error}")
      continue
    left = {k: v for k, v in point.items() if k not in missed}
    if left == point or not any(repr(left) == repr(p) for p, _ in points):
      points.append((left, config))
  given_to.check()
  for line in given_to.lines():
    say(line)
  reduced = [p for p, _ in points]
  varied = [k for k in dict.fromkeys(k for p in reduced for k in p) if len({repr(p.get(k)) for p in reduced}) > 1]
  runs: list[Run] = []
  for point, config in points:
    try:
      built = _build.build(config, cache)
      if point.get("method.name") in drawn:
        fits(built, _build.traced(config))
    except UsageError as error:
      if point.get("method.name") not in drawn:
        raise
      say(f"{point['method.name']} is left out: {error}")
      continue
    method, folder = config["method"]["name"], folder_of(config, built.identity)
    if any(r.folder == folder for r in runs):
      raise UsageError(f"grid: the point {point} stands twice")
    label = _grid.label(point, method, config["forget"]["name"], varied)
    more = {"checkpoint": dict(config["checkpoint"]), "data": {"data_dir": config["data"]["data_dir"]}}
    runs.append(Run(label, folder, point, built, _build.traced(config), more))
  return runs


def frozen(file: _config.File, overrides: Sequence[_config.Override]) -> Sequence[_config.Override]:
  """With what a sweep does unless told otherwise: one bad value must not end the others that share its program."""
  if any(o.key == "train.on_divergence" for o in overrides) or "on_divergence" in file.sections.get("train", {}):
    return overrides
  return [_config.Override("train.on_divergence", "freeze"), *overrides]


def folder_of(config: Mapping[str, Mapping[str, Any]], identity: Mapping[str, Any]) -> str:
  """What the folder of a configuration's runs is called."""
  return f"{_workdir.in_path(config['method']['name'])}-{fingerprint(_config.essence(identity))}"


def fingerprint(value) -> str:
  return hashlib.sha256(files.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def static_part(run: Run) -> str:
  """What must agree for runs to share a program: the configuration less the values of its traced floats."""
  identity = {s: dict(fields) for s, fields in run.built.identity.items()}
  for key in run.traced:
    section, field = key.split(".", 1)
    identity[section][field] = "traced"
  return files.dumps(identity, sort_keys=True)


def groups(runs: Sequence[Run]) -> list[list[Run]]:
  """Runs that share a program, in the order of the first of each."""
  out: dict[str, list[Run]] = {}
  for run in runs:
    out.setdefault(static_part(run), []).append(run)
  return list(out.values())


def fits(built: _build.Built, traced: Mapping[str, float]):
  """``(setup, learner)`` of a run, by shapes: nothing is compiled. UsageError where method and stream do not go
  together."""
  import jax

  population = [Member(0, traced)]
  made = engine.prepare(
    built.stream, built.model, population=population, config=built.identity, **built.arguments
  ).setup
  return made, jax.eval_shape(made.parts.init, jax.random.key(0))


def size(run: Run) -> Size:
  """What a run needs, from the shapes of its state."""
  made, learner = fits(run.built, run.traced)
  return Size(tree.nbytes(learner), tree.nbytes((made.train, made.evaluation)), made.total_steps)


def capacity(label: str, one: Size, most: int) -> int:
  """Members that fit into ``most`` bytes beside the data, by their states alone."""
  fit = (most - one.data) // one.member
  if fit < 1:
    raise UsageError(
      f"max_bytes: one member of {label} takes {one.member:,} bytes beside {one.data:,} of data; got {most:,}"
    )
  return fit


def units(
  runs: Sequence[Run],
  seeds: Sequence[int],
  workdir: epath.Path,
  begun: Callable[[epath.Path], bool],
  fit: Callable[[list[Run]], int] | None = None,
) -> list[Unit]:
  """The populations that are left to run: first those that were begun, as they are; then new ones of what remains.

  ``fit(group)`` is the most members that a population of the group may have.
  """
  done = {r.folder: finished_seeds(workdir, r.folder) for r in runs}
  todo = {(r.folder, s) for r in runs for s in seeds if s not in done[r.folder]}
  kept = []
  for unit in on_disk(workdir):
    if todo & set(unit.members) and begun(workdir / "groups" / unit.name):
      kept.append(_with(unit, runs))
      todo -= set(unit.members)
  fresh = []
  for group in groups(runs):
    left = [(r, s) for r in group for s in seeds if (r.folder, s) in todo]
    if left:
      most = fit(group) if fit else len(left)
      count = -(-len(left) // most)
      length = -(-len(left) // count)
      parts = [left[i : i + length] for i in range(0, len(left), length)]
      fresh += [_unit(group, part, f" {n + 1}/{len(parts)}" if len(parts) > 1 else "") for n, part in enumerate(parts)]
  return kept + fresh


def _unit(group: Sequence[Run], members: Sequence[tuple[Run, int]], which: str) -> Unit:
  first = group[0]
  runs = {r.folder: r for r, _ in members}
  listed = [{"run": r.folder, "seed": s, "hyper": r.traced} for r, s in members]
  content = {
    "label": results.title({"method": first.built.arguments["method"], "config": first.built.identity}) + which,
    "identity": first.built.identity,
    "more": first.more,
    "members": listed,
    "runs": {f: {"point": r.point, "label": r.label, "identity": r.built.identity} for f, r in runs.items()},
  }
  method = first.built.arguments["method"]
  name = f"{_workdir.in_path(method)}-{fingerprint([static_part(first), [[m['run'], m['seed']] for m in listed]])}"
  return Unit(name, json.loads(files.dumps(content)))


def _with(unit: Unit, runs: Sequence[Run]) -> Unit:
  """A unit that was begun, with what may change between launches: where data lies and how often is saved."""
  more = next((r.more for r in runs if r.folder in unit.content["runs"]), unit.content["more"])
  return unit._replace(content=json.loads(files.dumps({**unit.content, "more": more})))


def on_disk(workdir: epath.Path) -> list[Unit]:
  """All units of a workdir, by name; those whose file cannot be read are passed over."""
  folder = workdir / "groups"
  found = [(p.name, _workdir.read_json(p / "unit.json")) for p in sorted(folder.iterdir())] if folder.exists() else []
  return [Unit(name, content) for name, content in found if content is not None and _is_whole(content)]


def _is_whole(content: Mapping[str, Any]) -> bool:
  """Whether the content of a ``unit.json`` has all that it takes to run the unit."""
  whole: dict[str, dict] = {"objective": {}, "evaluators": {}}  # which are absent where they are the default
  sections = lambda identity: all(
    isinstance((whole | identity)[s], dict) for s in _config.SECTIONS if s != "checkpoint"
  )
  numbers = lambda values: all(isinstance(v, int | float) for v in values.values())
  try:
    runs, members = content["runs"], content["members"]
    listed = [isinstance(m["seed"], int) and m["run"] in runs and numbers(m["hyper"]) for m in members]
    about = [
      sections(r["identity"]) and isinstance(r["label"], str) and isinstance(r["point"], dict) for r in runs.values()
    ]
    mine = isinstance(content["label"], str) and sections(content["identity"])
    return (
      mine and all(isinstance(f, dict) for f in content["more"].values()) and all([*listed, *about]) and bool(listed)
    )
  except (LookupError, TypeError, AttributeError):
    return False


def check_older(workdir: epath.Path, runs: Sequence[Run], seeds: Sequence[int]) -> None:
  """UsageError where results of an older format would stand beside new ones, or in the place of a run that they are not
  of: numbers follow other rules since, defaults have changed, and folders are called by what differs from them."""
  folder = workdir / "runs"
  read = {path: results.read(path) for path in sorted(folder.glob("*/result.json"))} if folder.exists() else {}
  older = {path: result for path, result in read.items() if result and formats.of(result) != formats.FORMAT}
  if older and any(set(seeds) - set(finished_seeds(workdir, run.folder)) for run in runs):
    path, result = next(iter(older.items()))
    raise UsageError(
      f"workdir: {path} was written by {formats.writer(result)}, whose numbers follow other rules; nothing is "
      "added to them: give another workdir (launch.report shows them as they are)"
    )
  for run in runs:
    path = folder / run.folder / "result.json"
    if path in older:
      result = older[path]
      differ = checkpoint.differences(_config.essence(result["config"]), _config.essence(run.built.identity))
      differ = [d for d in differ if not d.startswith("code.")]
      if differ:
        raise UsageError(
          f"workdir: {path} was written by {formats.writer(result)}; what {run.label} means now differs in "
          f"{'; '.join(differ)}; say so, or give another workdir"
        )


def drop_edited(workdir: epath.Path, runs: Sequence[Run]) -> list[str]:
  """Takes away the results of runs whose code the user has edited since, which are made again, and the populations
  that held nothing else; one line for each. UsageError where something was deleted from such a run."""
  folder, lines, dropped = workdir / "runs", [], set()
  without = lambda identity: _config.essence({k: v for k, v in identity.items() if k != "code"})
  own = [(r, without(r.built.identity)) for r in runs if "code" in r.built.identity]
  for path in sorted(folder.iterdir()) if own and folder.exists() else ():
    result = results.read(path / "result.json")
    if result is None:
      continue
    for run, mine in own:
      if path.name != run.folder and not checkpoint.differences(without(result["config"]), mine):
        if (path / ledger.LEDGER).exists():
          raise UsageError(
            f"workdir: the code of {run.label} was edited, and rows were deleted from {path}, which it would learn "
            "again; give another workdir"
          )
        lines.append(f"{run.label}: its code was edited since {path.name}; it is run again")
        path.rmtree()
        dropped.add(path.name)
        break
  for unit in on_disk(workdir) if dropped else ():
    held = {name for name, _ in unit.members}
    if held & dropped and not any((folder / name).exists() for name in held):
      (workdir / "groups" / unit.name).rmtree()
  return lines


def finished_seeds(workdir: epath.Path, folder: str) -> list[int]:
  """The seeds of a configuration that have results."""
  result = results.read(workdir / "runs" / folder / "result.json")
  return [] if result is None else list(result["seeds"])


def finished(workdir: epath.Path, unit: Unit) -> bool:
  """Whether every run of a unit has its result."""
  done = {f: finished_seeds(workdir, f) for f in unit.content["runs"]}
  return all(s in done[f] for f, s in unit.members)


def has_begun(folder: epath.Path, submitted: Callable[[epath.Path], bool]) -> bool:
  """Whether a unit has a checkpoint, an owner that lives, or a job that waits or runs."""
  return bool(checkpoint.numbers(folder / "checkpoints")) or _owner.holder(folder) is not None or submitted(folder)


def settle(workdir: epath.Path, planned: Sequence[Unit], begun: Callable[[epath.Path], bool]) -> None:
  """Writes the files of ``planned`` units, and takes away those of others over the same runs that were never begun.

  To be called by one process at a time (``_workdir.exclusive``).
  """
  names, taken = {u.name for u in planned}, {m for u in planned for m in u.members}
  for unit in on_disk(workdir):
    if unit.name not in names and taken & set(unit.members) and not finished(workdir, unit):
      folder = workdir / "groups" / unit.name
      if not begun(folder):
        folder.rmtree()
  for unit in planned:
    path = workdir / "groups" / unit.name / "unit.json"
    if _workdir.read_json(path) != unit.content:
      _workdir.write_json(path, unit.content)


def table(runs: Sequence[Run], seeds: Sequence[int], workdir: epath.Path, todo: Sequence[Unit], sizes) -> str:
  """The plan in words; ``sizes`` is the Size of each unit of ``todo``, or None."""
  total = len(runs) * len(seeds)
  done = sum(s in finished for r in runs for finished in [finished_seeds(workdir, r.folder)] for s in seeds)
  lines = [f"{total} runs ({len(runs)} configurations x {len(seeds)} seeds), {done} finished; {len(todo)} to train:"]
  head = ["population", "configurations", "runs", "steps each", "state", "data", "total"]
  body = []
  for unit, one in zip(todo, sizes, strict=True):
    state = one.member * len(unit.members)
    cells = [results.human_bytes(b) for b in (state, one.data, state + one.data)]
    body.append([unit.label, str(len(unit.content["runs"])), str(len(unit.members)), f"{one.steps:,}", *cells])
  lines += tables.aligned([head, *body])
  if body:
    lines.append("state: parameters, optimizer and method, without activations and temporaries")
  return "\n".join(lines)
