"""Tunes methods by one protocol and one budget, on validation rows, and reports on a stream that was not searched on.

``python -m launch.tune --config=FILE --methods=er,ewc --configurations=16 --first_tasks=2 --seeds=5 --workdir=DIR``

Searches each method's ranges (``--range`` changes them), as many configurations of each. ``--first_tasks=K``
searches on the first K tasks alone and reports on the others; ``--search='stream.class_order=7'`` searches on a stream
that differs by this, all of its tasks, and reports on the configuration's own. Seeds of the search are none of those
reported. ``--rungs=3`` goes on with the better half on twice the seeds, twice. Both parts are sweeps, in
``WORKDIR/search`` and ``WORKDIR/report``: killed, they resume; with more configurations only what is new runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags as absl_flags
from etils import epath

from cljax import UsageError
from cljax.cli import _build, _config, _shared, _values, sweep
from cljax.cli.sweeps import _plan
from cljax.cli.tuning import halving, ranges, tables
from cljax.evaluation import results
from cljax.io import files

SEARCH, REPORT = "search", "report"
# What changes neither tasks nor rows that are reported on.
SAME_STREAM = {"stream.validation", "stream.reserve_tasks", "stream.reserve_rows", "stream.reserve_classes",
               "stream.forget", "data.data_dir"}  # fmt: skip


class Protocol(NamedTuple):
  """What every method is given alike."""

  configurations: int
  rungs: tuple[halving.Rung, ...]
  seeds: tuple[int, ...]  # of the search, in the order in which rungs take them
  sampler: str
  sampler_seed: int
  first_tasks: int  # 0: a stream of its own
  changes: Mapping[str, str]  # of the search's stream


class Searched(NamedTuple):
  """A method's search: its ranges, its candidates ``{key: value}``, their scores in each round, the places of those
  that go on, best first, the training steps of all its runs, and the rounds that are done."""

  method: str
  ranges: list[ranges.Range]
  points: list[dict[str, Any]]
  scores: list[list[float | None]]
  going: list[int]
  steps: int = 0
  done: Sequence[halving.Rung] = ()

  @property
  def chosen(self) -> dict[str, Any]:
    return self.points[self.going[0]]


def _flags() -> absl_flags.FlagValues:
  flags = _shared.common_flags()
  absl_flags.DEFINE_list("methods", [], "Methods to tune.", flag_values=flags)
  absl_flags.DEFINE_integer("configurations", 16, "Of each method, its own among them.", 1, 4096, flag_values=flags)
  absl_flags.DEFINE_integer("search_seeds", 2, "Seeds of the first round of the search.", 1, 1024, flag_values=flags)
  absl_flags.DEFINE_integer("rungs", 1, "Rounds: the better half goes on, on twice the seeds.", 1, 10, flags)
  absl_flags.DEFINE_integer("first_tasks", 0, "Search on so many tasks, report on the others.", 0, flag_values=flags)
  absl_flags.DEFINE_multi_string(
    "search", [], "SECTION.FIELD=VALUE: what the search's stream differs by.", flag_values=flags
  )
  absl_flags.DEFINE_multi_string(
    "range", [], "KEY=LOW..HIGH or KEY=[VALUE,...]: searched so instead.", flag_values=flags
  )
  absl_flags.DEFINE_enum("sampler", "halton", ("halton", "random"), "How points are drawn.", flag_values=flags)
  absl_flags.DEFINE_integer("sampler_seed", 0, "Of the points.", 0, flag_values=flags)
  return flags


def _protocol(flags, overrides: Sequence[_config.Override], file: _config.File) -> Protocol:
  if bool(flags.first_tasks) == bool(flags.search):
    raise UsageError(
      "first_tasks: give either --first_tasks=K, to search on the first tasks, or --search=KEY=VALUE, to search on "
      "another stream, such as --search='stream.class_order=7'"
    )
  if not flags.methods or len(set(flags.methods)) < len(flags.methods):
    raise UsageError("methods: expected names, each once, such as --methods=er,ewc")
  reported = _values.parse_seeds(flags.seeds)
  plan = halving.rungs(flags.configurations, flags.search_seeds, flags.rungs)
  fresh = [s for s in range(len(reported) + plan[-1].seeds) if s not in reported][: plan[-1].seeds]
  changes: dict[str, str] = {}
  for text in flags.search:
    key, equals, value = text.partition("=")
    key = key.strip().removeprefix("config.")
    if not equals or not key.startswith(("stream.", "data.")):
      raise UsageError(f"search: got {text!r}; expected stream.FIELD=VALUE or data.FIELD=VALUE")
    changes[key] = value
  sections = lambda layers: {s: v for s, v in _config.resolve(file, layers, {}).items() if s in ("stream", "data")}
  searched = [*overrides, *(_config.Override(k, v, True) for k, v in changes.items())]
  if changes and (not set(changes) - SAME_STREAM or sections(searched) == sections(overrides)):
    raise UsageError(f"search: {', '.join(changes)} make no other stream; expected one such as stream.class_order=7")
  if flags.first_tasks:
    changes["stream.order"] = str(_first_tasks(_config.resolve(file, overrides, {})["stream"], flags.first_tasks))
  return Protocol(
    flags.configurations, tuple(plan), tuple(fresh), flags.sampler, flags.sampler_seed, flags.first_tasks, changes
  )


def _first_tasks(stream: Mapping[str, Any], count: int) -> tuple[int, ...]:
  """The order of a stream up to where its first ``count`` tasks have been learned, each once."""
  order = list(dict.fromkeys(stream["order"] or range(stream["tasks"])))
  if count >= len(order):
    raise UsageError(
      f"first_tasks: got {count}; expected 1 to {len(order) - 1}, of {len(order)} tasks: some must be left to report on"
    )
  return tuple(order[:count])


def _searched(method: str, flags, overrides, file: _config.File, protocol: Protocol) -> Searched:
  """The ranges and candidates of a method, nothing run."""
  asked = [ranges.parse(text) for text in flags.range]
  config = _config.resolve(file, [*overrides, _config.Override("method.name", method)], {})
  unread = [r.key for r in asked if r.key.startswith("method.") and r.key[7:] not in config["method"]]
  given = {r.key: r for r in asked if r.key not in unread}
  space = ranges.of(config, [o.key for o in overrides], given)
  drawn = ranges.candidates(space, protocol.configurations, protocol.sampler, protocol.sampler_seed)
  points = [{"method.name": method, **point} for point in drawn]
  return Searched(method, space, points, [], list(range(len(points))))


def _check(flags, overrides: Sequence[_config.Override], file: _config.File, found: Sequence[Searched]) -> None:
  given = {o.key for o in overrides}
  keys = {r.key for s in found for r in s.ranges}
  for text in flags.range:
    key = ranges.parse(text).key
    if key not in keys:
      raise UsageError(f"range: {key} is no option of {', '.join(s.method for s in found)}")
    if key in given:
      raise UsageError(f"range: {key} is also given as --config.{key}; give it once")
  config = _config.resolve(file, overrides, {})
  if config["stream"]["forget"]:
    raise UsageError("stream.forget: a search prefers what did not forget; tune on the stream without requests")
  if not config["stream"]["validation"]:
    raise UsageError("stream.validation: got 0; a search is scored on validation rows, never on test rows")


def _argv(flags, overrides: Sequence[_config.Override], part: str, seeds: Sequence[int]) -> list[str]:
  shown = lambda o: o.value if o.text else repr(o.value)
  return [
    "tune", f"--config={flags.config}", f"--workdir={os.path.join(flags.workdir, part)}",
    f"--seeds={','.join(map(str, seeds))},", f"--compilation_cache={flags.compilation_cache}",
    *(["--overwrite"] if flags.overwrite else []), *(f"--config.{o.key}={shown(o)}" for o in overrides),
  ]  # fmt: skip


def _results(file, overrides, points: Sequence[Mapping[str, Any]], workdir: epath.Path) -> list[dict[str, Any] | None]:
  """The result of each point in a sweep's folder; None where it has none."""
  cache: dict = {}
  layers = _plan.frozen(file, overrides)
  found = []
  for point in points:
    more = [_config.Override(k, v) for k, v in point.items()]
    config, _ = _config.Points([], {}, {}, {}).resolve(file, [*layers, *more])
    folder = _plan.folder_of(config, _build.build(config, cache).identity)
    found.append(results.read(workdir / "runs" / folder / "result.json"))
  return found


def run(argv: Sequence[str], stop: _shared.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  flags = _flags()
  overrides = _shared.parse(argv, flags, __doc__ or "")
  file = _config.read_file(flags.config)
  protocol = _protocol(flags, overrides, file)
  found = [_searched(m, flags, overrides, file, protocol) for m in flags.methods]
  _check(flags, overrides, file, found)
  workdir = epath.Path(flags.workdir).expanduser()
  changed = [o for o in overrides if o.key not in protocol.changes]
  changed += [_config.Override(k, v, True) for k, v in protocol.changes.items()]
  code, again = 0, flags.overwrite
  for rung in protocol.rungs:
    code |= _round(flags, changed, file, found, rung, protocol.seeds[: rung.seeds], stop)
    flags["overwrite"].value = False
    found = [_scored(s, file, changed, workdir / SEARCH, rung, protocol.seeds[: rung.seeds]) for s in found]
  chosen = [s for s in found if s.going]
  points = [p for s in chosen for p in (s.points[0], s.chosen)]
  points = [p for i, p in enumerate(points) if p not in points[:i]]
  flags["overwrite"].value = again
  if points:
    code |= sweep.run(_argv(flags, overrides, REPORT, _values.parse_seeds(flags.seeds)), stop, points, file)
  reports = {s.method: _results(file, overrides, [s.points[0], s.chosen], workdir / REPORT) for s in chosen}
  content = tables.content(_command(argv), protocol, found, reports)
  files.write_text(workdir / "tune.json", files.dumps(content, indent=1) + "\n")
  text = tables.markdown(content)
  files.write_text(workdir / "tune.md", text)
  print(text)
  print(
    f"written: {os.fspath(workdir / 'tune')}.md, .json; look: python -m launch.report {os.fspath(workdir / REPORT)}"
  )
  return code


def _round(flags, overrides, file, found: Sequence[Searched], rung: halving.Rung, seeds: Sequence[int], stop) -> int:
  """Trains what a round tries and nobody has trained yet."""
  points = [s.points[i] for s in found for i in s.going[: rung.configurations]]
  return sweep.run(_argv(flags, overrides, SEARCH, seeds), stop, points, file) if points else 0


def _scored(
  found: Searched, file, overrides, workdir: epath.Path, rung: halving.Rung, seeds: Sequence[int]
) -> Searched:
  """With the scores of a round; whoever has one goes on, best first."""
  places = found.going[: rung.configurations]
  got = _results(file, overrides, [found.points[i] for i in places], workdir)
  row: list[float | None] = [None] * len(found.points)
  for i, result in zip(places, got, strict=True):
    row[i] = None if result is None else halving.score(result, seeds)
  order = [places[i] for i in halving.best(got, seeds, len(got))]
  before = max((r.seeds for r in found.done), default=0)
  steps = found.steps + sum(r["steps"] for r in got if r is not None) * (rung.seeds - before)
  return found._replace(scores=[*found.scores, row], going=order, steps=steps, done=[*found.done, rung])


def _command(argv: Sequence[str]) -> str:
  shown = [w for w in argv[1:] if not w.startswith(("--compilation_cache", "--workdir"))]
  return " ".join(["python -m launch.tune", *shown])


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(run, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
