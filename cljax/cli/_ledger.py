"""The deletion ledger of a run as people read it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from cljax import methods
from cljax.io import checkpoint, ledger
from cljax.streams.class_names import cut

EXACT = {
  "exact": "exact: as if trained without the rows",
  "certified": "certified: close to retraining, to a bound that was proved",
  "approximate": "approximate: only what was measured is known",
}


def requests(identity: Mapping[str, Any]) -> list[str]:
  """The text of each request, in the order of the events."""
  parts = [p.strip().partition(":") for p in cut(str(identity["stream"]["forget"]), ";") if p.strip()]
  return [what.strip() for _, _, what in sorted(parts, key=lambda p: int(p[0]))]


def table(workdir: epath.Path, identity: Mapping[str, Any]) -> str:
  """All records of a workdir's ledger, oldest first."""
  found = ledger.read(workdir)
  if not found:
    return f"nothing was deleted from {workdir}"
  return "\n\n".join(entry(workdir, identity, found, at) for at in range(len(found)))


def entry(workdir: epath.Path, identity: Mapping[str, Any], found: Sequence[Mapping[str, Any]], at: int) -> str:
  """Record ``at`` of the ledger ``found``: what was asked, by what it was answered, what was measured, and what of
  the rows is left."""
  texts = requests(identity)
  line = found[at]
  asked = texts[at] if at < len(texts) and len(texts) == len(found) else str(line.get("request"))
  name = line.get("method", "")
  known = methods.METHODS.get(name)
  exactness = line.get("exactness") or (known.exactness if known else "")
  rows = [
    ("request", f"{asked} (event {line['event']}, {line.get('at', '')})"),
    ("rows", _rows(line)),
    *([("status", "requested: not done yet; run the command again")] if line.get("status") == ledger.REQUESTED else []),
    ("method", name),
    ("promise", EXACT.get(exactness, exactness or "unknown")),
    ("moved", _moved(line)),
    *_measured(line.get("evidence") or {}),
    *_of_retrained(line.get("retrained")),
    ("removed", _removed(line)),
    ("left", "; ".join(_left(workdir, line, exactness))),
  ]
  width = max(len(k) for k, _ in rows)
  wrap = lambda k, text: textwrap.fill(
    text, 120, initial_indent=f"  {k:<{width}}  ", subsequent_indent=" " * (width + 4)
  )
  return "\n".join([f"deletion {at + 1}", *(wrap(k, v) for k, v in rows)])


def _rows(line: Mapping[str, Any]) -> str:
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


def _removed(line: Mapping[str, Any]) -> str:
  gone = line.get("checkpoints_purged") or []
  return f"checkpoints {', '.join(map(str, gone))}, of the model from before" if gone else "no checkpoint"


def _left(workdir: epath.Path, line: Mapping[str, Any], exactness: str) -> list[str]:
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
  out.append("the data set itself, which is the caller's, and the request in config.json and history.json")
  if exactness != "exact":
    out.append("what the model may still know of them: the method is not exact")
  return out
