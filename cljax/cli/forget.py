"""Deletes rows from a trained run, and keeps account of it.

``python -m launch.forget DIR --request='ids=20-39' --method=ssd``, where DIR is the workdir of launch.train; options of
the method as ``--config.forget.strength=10``. Any method that needs no preparation in training answers; ``--method=
retrain`` trains anew without the rows. The answer is an event of the run: a new checkpoint, a line of the deletion
ledger with what was measured, and every older checkpoint is removed. Training can go on behind it (``launch.train
--extend``). ``--oracles=5`` measures the same on five models of other seeds, retrained without the rows.

``python -m launch.forget DIR --list`` shows what was deleted from the run, how, and what is left of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from absl import flags as absl_flags
from etils import epath

from cljax import Learn, UsageError, streams
from cljax.cli import _build, _config, _extended, _ledger, _retrained, _rows, _shared, _workdir, train
from cljax.evaluation import results
from cljax.io import checkpoint, ledger, sealing
from cljax.streams.class_names import cut


def _split(argv: Sequence[str]) -> list[str]:
  """The arguments with DIR, which stands alone, as ``--workdir``."""
  place = [a for at, a in enumerate(argv[1:], 1) if not a.startswith("-") and not _is_value(argv[at - 1])]
  rest = [a for a in argv[1:] if a not in place[:1]]
  return [argv[0], *rest, *(f"--workdir={p}" for p in place[:1])]


def _is_value(before: str) -> bool:
  return before.startswith("-") and "=" not in before and before.lstrip("-") not in ("list", "nolist")


def _forget(argv: Sequence[str], stop: _shared.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  flags = _shared.common_flags()
  absl_flags.DEFINE_string("request", "", "What to forget: 'class=3', 'ids=1-9', 'group=2&class=3'.", flag_values=flags)
  absl_flags.DEFINE_string("method", "", "The method that answers.", flag_values=flags)
  absl_flags.DEFINE_integer("oracles", 0, "Retrained models to compare with.", 0, flag_values=flags)
  absl_flags.DEFINE_bool("list", False, "Show the deletions of the run.", flag_values=flags)
  overrides = _shared.parse(_split(argv), flags, __doc__ or "")
  workdir = epath.Path(flags.workdir).expanduser()
  row = _rows.of(workdir)
  if flags.list:
    within = row is not None and not _rows.is_own(row.path)
    config = _workdir.read_json(workdir / "config.json") or {}
    if not sealing.is_sealed(config):  # a run that keeps no ids has counts to show
      config = _rows.config(row) if row and within else _extended.of(workdir)
    print(_ledger.table(workdir, config))
    return 0
  if not flags.request or not flags.method:
    lacks = "method" if flags.request else "request"
    raise UsageError(f"{lacks}: not given; expected --request=WHAT --method=NAME, such as --request='ids=20-39' "
                     "--method=ssd, or --list")  # fmt: skip
  if re.match(r"\s*[0-9]+\s*:", flags.request) or len(cut(flags.request, ";")) > 1:
    raise UsageError(
      f"request: got {flags.request!r}; expected one request without a position, such as 'ids=20-39': it stands behind "
      "all events of the run"
    )
  for name in ("config", "seeds", "overwrite"):
    if flags[name].present:
      raise UsageError(f"{name}: got --{name}, but the run is as it is; expected --request and --method")
  for key, _, _ in overrides:
    if not key.startswith(("forget.", "data.data_dir", "checkpoint.")):
      raise UsageError(f"{key}: the run is as it is; expected options of the method, such as forget.strength")
  with _rows.adopted(workdir):
    job, done = _job(workdir, _extended.of(workdir), flags, overrides)
    release = (lambda: _rows.release(row)) if row else lambda: None
    code = 0 if done else train.finish(job, flags, stop, begins=release)
    if row:
      release()  # of what a kill has left
      _rows.tell(row)
  found = ledger.read(workdir)
  if flags.oracles and len(found[-1].get("retrained", {}).get("seeds", ())) != flags.oracles:
    retrained = _retrained.measure(job.built, job.seeds, flags.oracles, stop)
    ledger.update(workdir, found[-1]["event"], retrained=retrained)
    found[-1]["retrained"] = retrained
  print(_ledger.entry(workdir, job.built.identity, found, len(found) - 1))
  return code


def _job(workdir: epath.Path, before: dict, flags, overrides: Sequence[_config.Override]) -> tuple[train.Job, bool]:
  """The run with one more event, which the method answers, or the same again, where it was interrupted; and whether
  this request to this method is the last event, and done."""
  named = _config.Override("forget.name", flags.method)
  resolved = _config.resolve(_extended.file_of(before), [named, *overrides])
  options = {k: v for k, v in resolved["forget"].items() if k != "name"}
  config = _config.resolve(_extended.file_of(before), [o for o in overrides if not o.key.startswith("forget.")])
  config["checkpoint"]["purge_before_deletion"] = True
  cache = _extended.data_of(workdir, before, config)
  answers = list(before.get("answers", []))
  events = _build.build(config, cache, answers).stream.events
  request = streams.parse_request(flags.request)
  again = _is_last(before, flags.method, request, len(events))
  result = results.read(workdir / "result.json")
  done = result is not None and _extended.is_of(result, before) and _finished(workdir, len(events))
  if not again:
    learned = sum(isinstance(e, Learn) for e in events)
    line = f"{learned}:{flags.request}"
    config["stream"]["forget"] = "; ".join(filter(None, [before["stream"]["forget"], line]))
    answers.append([len(events), flags.method, options])
  if not again and not _finished(workdir, len(events)):
    old = " under cljax 0.1.0" if _workdir.format_of(workdir / "config.json") == 1 else ""
    raise UsageError(f"workdir: {workdir} holds a run that has not ended; run its last command again{old} first")
  built = _extended.as_written(_build.build(config, cache, answers), before)
  if not again and not _leaves_some(built.stream):
    raise UsageError(
      f"request: {flags.request} names no row that was learned and is still there; see --list, which says by what they "
      "were forgotten"
    )
  return train.Job(built, before["seeds"], workdir, {}, True), again and done


def _is_last(before: dict, method: str, request, events: int) -> bool:
  """Whether the last event of the run is this request to this method."""
  answers, texts = before.get("answers", []), _ledger.requests(before)
  if not answers or answers[-1][:2] != [events - 1, method]:
    return False
  return bool(texts) and streams.parse_forget(f"1:{texts[-1]}")[0][1] == request


def _leaves_some(stream) -> bool:
  """Whether the last request names a row that was learned and that no request before it names."""
  at = len(stream.events) - 1
  gone, named = streams.deleted_pairs(stream, at), streams.resolve_pairs(stream.events[at], stream)
  return any((named[t] & ~gone[t]).any() for t in streams.learned_tasks(stream.events))


def _finished(workdir: epath.Path, events: int) -> bool:
  """Whether the newest sound checkpoint stands behind so many events."""
  for number in reversed(checkpoint.numbers(workdir / "checkpoints")):
    try:
      return checkpoint.read_meta(workdir / "checkpoints", number)["position"]["event"] >= events
    except checkpoint.DamagedError:
      continue
  return False


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_forget, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
