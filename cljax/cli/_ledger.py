"""The deletion ledger of a run as people read it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from cljax import methods
from cljax.cli import _rows
from cljax.io import checkpoint, history, ledger, sealing
from cljax.streams.class_names import cut

LONGEST = 200  # characters of a request that are shown
EXACT = {
  "exact": "exact: as if trained without the rows",
  "certified": "certified: close to retraining, to a bound that was proved",
  "approximate": "approximate: only what was measured is known",
}


def requests(identity: Mapping[str, Any]) -> list[str]:
  """The text of each request, in the order of the events; none of a run that keeps none of them."""
  if sealing.is_sealed(identity):
    return []
  parts = [p.strip().partition(":") for p in cut(str(identity["stream"]["forget"]), ";") if p.strip()]
  return [what.strip() for _, _, what in sorted(parts, key=lambda p: int(p[0]))]


def table(workdir: epath.Path, identity: Mapping[str, Any]) -> str:
  """The life of a run, and all records of its ledger, oldest first."""
  found = ledger.read(workdir)
  if not found:
    return f"nothing was deleted from {workdir}"
  told = life(workdir, [line["event"] for line in found])
  return "\n\n".join([*told, *(entry(workdir, identity, found, at) for at in range(len(found)))])


def life(workdir: epath.Path, deletions: Sequence[int]) -> list[str]:
  """What the run began with and what was appended to it, a line for each stage; none where nobody noted it."""
  stages = history.read(workdir)
  if not stages:
    return []
  number = {event: n for n, event in enumerate(deletions, 1)}

  def what(event: int, text: str) -> str:
    learned = re.fullmatch(r"Learn\(task=(\d+)\)", text)
    return f"task {learned[1]}" if learned else f"deletion {number.get(event, '?')}"

  lines = []
  for stage in stages:
    first, every = stage["first_event"], stage["events"]
    place = f"event {first}" if first == len(every) - 1 else f"events {first}-{len(every) - 1}"
    new = [what(e, text) for e, text in enumerate(every) if e >= first]
    listed = ", ".join(new if len(new) < 8 else [*new[:3], "...", new[-1]])
    lines.append(f"  {stage['what']:<8}  {stage['at']}  {place}: {listed}, of {stage['rows']} training rows")
  return ["\n".join([str(workdir), *lines])]


def entry(workdir: epath.Path, identity: Mapping[str, Any], found: Sequence[Mapping[str, Any]], at: int) -> str:
  """Record ``at`` of the ledger ``found``: what was asked, by what it was answered, what was measured, and what of
  the rows is left."""
  texts = requests(identity)
  line = found[at]
  sealed = sealing.is_sealed(identity)
  asked = _counted(line) if sealed else str(line.get("request"))
  asked = texts[at] if at < len(texts) and len(texts) == len(found) else asked
  asked = asked if len(asked) <= LONGEST else f"{asked[:LONGEST]}... ({len(asked):,} characters, whole in config.json)"
  name = line.get("method", "")
  known = methods.METHODS.get(name)
  exactness = line.get("exactness") or (known.exactness if known else "")
  rows = [
    ("request", f"{asked} (event {line['event']}, {line.get('at', '')})"),
    ("rows", _named(line)),
    *([("status", "requested: not done yet; run the command again")] if line.get("status") == ledger.REQUESTED else []),
    ("method", name),
    ("promise", EXACT.get(exactness, exactness or "unknown")),
    ("moved", _moved(line)),
    *_measured(line.get("evidence") or {}),
    *_of_retrained(line.get("retrained")),
    ("removed", _removed(line, _rows.removed(workdir) if at == 0 else [])),
    ("left", "; ".join(_left(workdir, line, exactness, sealed))),
  ]
  width = max(len(k) for k, _ in rows)
  wrap = lambda k, text: textwrap.fill(
    text, 120, initial_indent=f"  {k:<{width}}  ", subsequent_indent=" " * (width + 4)
  )
  return "\n".join([f"deletion {at + 1}", *(wrap(k, v) for k, v in rows)])


def _counted(line: Mapping[str, Any]) -> str:
  """How much a request named of what, as the record of a run that keeps no ids has it."""
  asked = line.get("request") or {}
  parts = [f"{asked[kind]} {kind}" for kind in ("classes", "tasks", "ids", "groups") if asked.get(kind)]
  joined = " & ".join(parts) if asked.get("match") == "all" else " + ".join(parts)
  return f"{joined or 'unknown'}, not named (checkpoint.keep_ids=false)"


def _named(line: Mapping[str, Any]) -> str:
  """How many, and what became of those that the method did not have to forget."""
  others = [f"{len(found)} {fate}" for fate, found in line.get("fates", {}).items() if fate != "forgotten"]
  return ", ".join([f"{line.get('rows', '?')} of the training rows forgotten", *others])


def _moved(line: Mapping[str, Any]) -> str:
  """What the answer did to the parameters: one that moved none forgot nothing."""
  moved = line.get("parameters_changed")
  if moved is None:
    return "unknown"
  if not moved:
    return "nothing: every parameter is as it was"
  return f"{len(moved)} array{'s' if len(moved) > 1 else ''}, by at most {max(moved.values()):.3g}"


def _of_retrained(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
  """The same of models that never saw the rows (``--oracles``)."""
  if not found:
    return []
  by = f" by {found['schedule']}" if "schedule" in found else ""
  return [(f"retrained{by}: {key}", shown) for key, shown in _measured({k: found[k] for k in ("forget", "retain")})]


def _measured(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
  """What was measured, of each kind one line: the mean over seeds, in percent where it is a share."""
  named = {"forget": "score on the rows", "retain": "score on the others"}
  out = []
  for key, values in evidence.items():
    if isinstance(values, list) and all(isinstance(v, int | float) or v is None for v in values):
      there = [v for v in values if v is not None]
      shown = f"{sum(there) / len(there):.3f} (mean of {len(there)})" if there else "no such rows"
      out.append((named.get(key, key), shown))
    else:
      out.append((named.get(key, key), str(values)))
  return out


def _removed(line: Mapping[str, Any], populations: Sequence[str]) -> str:
  gone = line.get("checkpoints_purged") or []
  told = [f"checkpoints {', '.join(map(str, gone))}, of the model from before"] if gone else []
  return "; ".join([*told, *populations]) or "no checkpoint"


def _left(workdir: epath.Path, line: Mapping[str, Any], exactness: str, sealed: bool = False) -> list[str]:
  """What could still give the rows away, and why it is there."""
  out, directory = [], workdir / "checkpoints"
  for number in checkpoint.numbers(directory):
    try:
      if checkpoint.read_meta(directory, number)["position"]["event"] <= line["event"]:
        out.append(
          f"checkpoint {number}, which stands before the deletion (checkpoint.purge_before_deletion removes it)"
        )
    except checkpoint.DamagedError:
      out.append(f"checkpoint {number}, which cannot be read and may hold anything")
  out += _rows.left(workdir)
  kept = "a salted hash of the request" if sealed else "the request"
  out.append(f"the data set itself, which is the caller's, and {kept} in config.json and history.json")
  if exactness != "exact":
    out.append("what the model may still know of them: the method is not exact")
  return out
