"""A run's workdir as the beginning of a longer run: its configuration, and the requests that were answered in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from etils import epath

from cljax import Forget, UsageError
from cljax.cli import _build, _config, _registered, _workdir
from cljax.io import checkpoint, files, history, sealing
from cljax.streams import READS


def held(workdir: epath.Path, flags, seeds: Sequence[int]) -> dict[str, Any]:
  """The configuration of the run in a workdir, with its seeds. Raises UsageError where there is none, and where other
  seeds, or to discard it, was asked for."""
  found = of(workdir, recall=not flags.config)
  if flags.overwrite:
    raise UsageError("extend: got it with --overwrite, which discards the run that is to be extended; give one of them")
  if flags["seeds"].present and list(seeds) != found["seeds"]:
    raise UsageError(f"seeds: got {list(seeds)}; the run has {found['seeds']}, and is extended with these")
  return found


def of(workdir: epath.Path, recall: bool = True) -> dict[str, Any]:
  """The configuration of the run in a workdir; ``recall``: what its file registered is registered again."""
  found = _workdir.read_json(workdir / "config.json")
  if found is None or not isinstance(found.get("seeds"), list) or not isinstance(found.get("stream"), dict):
    raise UsageError(f"workdir: {workdir} {_what(workdir)}")
  sealing.check_open(found, "it can not be extended, nor can more be forgotten from it by launch.forget")
  if recall:
    _registered.recall(workdir, [found])
  return found


def _what(workdir: epath.Path) -> str:
  """What a folder is that is no run of a launcher, and what to do instead."""
  if (workdir / "sweep.json").exists():
    runs = workdir / "runs"
    return f"is a sweep; expected one of its rows: {_shown(sorted(runs.iterdir()) if runs.exists() else [])}"
  unit = _workdir.read_json(workdir / "unit.json")
  if unit is not None:
    mine = [workdir.parent.parent / "runs" / name for name in unit.get("runs", {})]
    return f"is a population of a sweep; expected a row that was trained in it: {_shown(mine)}"
  compared = [p for p in (workdir, *list(workdir.parents)[:2]) if (p / "unlearn.request.json").exists()]
  if compared:
    return (f"is of the comparison {compared[0]} of launch.unlearn, whose models answer the request that they were "
            "made for; expected the workdir of launch.train, or a row of a sweep")  # fmt: skip
  if any((workdir / n).exists() for n in (history.FILE, "checkpoints")):
    return ("was not made by a launcher; a run of cljax.run is deleted from in Python, by its own call with a longer "
            "stream: cljax.run(stream._replace(events=(*stream.events, cljax.Forget(ids=(20, 21)))), ..., workdir=DIR, "
            "extend=True, answers={len(stream.events): 'ssd'})")  # fmt: skip
  return "holds no run of launch.train; expected the workdir of launch.train, or a row of a sweep"


def _shown(paths: Sequence[epath.Path]) -> str:
  more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
  return f"{', '.join(map(os.fspath, paths[:3]))}{more}" or "it has none yet"


def file_of(identity: Mapping[str, Any]) -> _config.File:
  """A run's configuration as the file that a longer one starts from."""
  kept = {s: dict(identity[s]) for s in _config.SECTIONS if isinstance(identity.get(s), Mapping)}
  kept["data"].pop("digest", None)
  known = lambda s: {k: v for k, v in kept[s].items()
                     if not _config.not_read(s, str(kept[s].get(_config._CHOICE.get(s, ""))), k)}  # fmt: skip
  return _config.File({s: known(s) for s in kept}, {}, ModuleType("held"))


def whole(workdir: epath.Path, config: Mapping[str, Mapping[str, Any]]) -> _build.Built:
  """A run as it is given; where the workdir holds one with these requests, answered after it was trained, as there."""
  cache: dict = {}
  made = _build.build(config, cache)
  kept = (_workdir.read_json(workdir / "config.json") or {}).get("answers", [])
  events = made.stream.events
  asked = [e for e, *_ in kept if e < len(events) and isinstance(events[e], Forget)]
  return _build.build(config, cache, kept) if kept and len(asked) == len(kept) else made


def as_written(made: _build.Built, before: Mapping[str, Any]) -> _build.Built:
  """A longer run of which a key that came new since the run was written, and is at its default, says nothing."""
  said, identity = _config.essence(made.identity), dict(made.identity)
  for section, fields in made.identity.items():
    if isinstance(fields, Mapping) and isinstance(before.get(section), Mapping):
      identity[section] = {k: v for k, v in fields.items() if k in before[section] or k in said.get(section, {})}
  return made._replace(identity=identity)


def requests(before: Mapping[str, Any], config: Mapping[str, Any]) -> str:
  """``stream.forget`` of the longer run: the run's own requests, and what is given behind them."""
  own, given = before["stream"]["forget"], config["stream"]["forget"]
  return own if str(own).startswith(str(given)) else given


def built(workdir: epath.Path, before: Mapping[str, Any], config: dict[str, dict[str, Any]]) -> _build.Built:
  """The longer run; where its data are no longer those that the run had, the stream is told where rows came new."""
  cache: dict = {}
  told = history.read(workdir)
  kept = before.get("answers", ())
  # A key at its default may be absent.
  said = lambda stream: _config.essence({"stream": files.loads(files.dumps(stream))})
  if said(config["stream"]) == said(before["stream"]):  # nothing is appended: it is brought to its end
    return as_written(_build.build(config, data_of(workdir, before, config), kept), before)
  try:
    made = _build.build(config, cache, kept)
  except UsageError:  # such as rows that do not do without being told
    held = cache.get(repr(config["data"]))
    if held is None or not told or len(held.train.id) <= told[-1]["rows"]:
      raise
    made = None
  stream = config["stream"]
  rows = told[-1]["rows"] if told else 0
  same = made is not None and made.identity["data"]["digest"] == before["data"]["digest"]
  if same or not rows or stream["appended"] or "appended" not in READS[stream["kind"]]:
    return as_written(made or _build.build(config, cache, kept), before)
  stream["appended"] = (*before["stream"].get("appended", ()), rows)
  return as_written(_build.build(config, cache, kept), before)


def data_of(workdir: epath.Path, before: Mapping[str, Any], config: Mapping[str, Mapping[str, Any]]) -> dict:
  """The cache of ``_build.build`` with the data that the run in a workdir had, also where rows were appended since.
  Raises UsageError where those that it had are no longer what they were."""
  cache: dict = {}
  made = lambda dataset: _build.stream_of(dataset, before["stream"])
  _build.data_of(config, cache)
  key = repr(config["data"])
  try:
    cache[key] = history.as_held(cache[key], before["data"]["digest"], history.read(workdir), made)
  except UsageError as error:
    raise UsageError(f"data.name: {config['data']['name']}: {error}") from error
  return cache


def claim(workdir: epath.Path, identity: Mapping[str, Any]) -> None:
  """Makes ``identity`` the workdir's."""
  if _workdir.read_json(workdir / "config.json") == identity:
    return
  _workdir.write_json(workdir / "config.json", identity)


def give_up(workdir: epath.Path, seeds: Sequence[int]) -> None:
  """Where what was to be appended was refused before anything was saved of it, the run is again what it was."""
  stages, directory = history.read(workdir), workdir / "checkpoints"
  for number in reversed(checkpoint.numbers(directory)):
    try:
      config = checkpoint.read_meta(directory, number)["config"]
    except checkpoint.DamagedError:
      continue
    while len(stages) > 1 and checkpoint.differences(stages[-1]["config"], config):
      stages.pop()
    history.write(workdir, stages)
    own = {k: v for k, v in stages[-1]["config"].items() if k != "members"}
    _workdir.write_json(workdir / "config.json", {**own, "seeds": list(seeds)})
    return


def is_of(result: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
  """Whether a result is that of the configuration, and not of the shorter run that it goes on with."""
  mine = {k: v for k, v in identity.items() if k != "seeds"}
  return not checkpoint.differences(_config.essence(result["config"]), _config.essence(mine))
