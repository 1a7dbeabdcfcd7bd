"""Members of populations as a run of their own: what of a checkpoint is theirs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cljax.core.types import CljaxError
from cljax.io import checkpoint, formats


def newest(directory) -> tuple[int, dict[str, Any]]:
  """``(number, meta)`` of the newest sound checkpoint; CljaxError where there is none."""
  notes = []
  for number in reversed(checkpoint.numbers(directory)):
    try:
      return number, checkpoint.read_meta(directory, number)
    except checkpoint.DamagedError as error:
      notes.append(str(error))
  raise CljaxError(f"workdir: no sound checkpoint is left in {directory}: {'; '.join(notes) or 'there is none'}")


def write(directory, sources: Sequence[tuple[Any, Sequence[int]]], order: Sequence[int], config: Mapping) -> None:
  """Writes checkpoint 1 of a run over members of the newest checkpoints of ``sources [(directory, which of them)]``;
  ``order`` are their places among all of these. Raises CljaxError where they have not come equally far."""
  found, places, made_under = [], [], []
  for source, which in sources:
    number, meta = newest(source)
    found.append((checkpoint.read_state(source, number, meta), meta["position"]))
    made_under.append({"versions": meta["versions"], "format": formats.of(meta), "cljax": meta.get("cljax", "0.1.0")})
    places.append(list(which))
  positions = [p for _, p in found]
  if len({(p["event"], p["step"], p["ended"], p["total"]) for p in positions}) > 1 or positions[0]["step"]:
    raise CljaxError(
      "workdir: the members of this row have not come equally far; run its launch.sweep to the end first"
    )

  def pick(lists: Sequence[Any]) -> list:
    every = list(itertools.chain(*([one[i] for i in which] for one, which in zip(lists, places, strict=True))))
    return [every[i] for i in order]

  state = {key: np.stack(pick([np.asarray(arrays[key]) for arrays, _ in found])) for key in found[0][0]}
  writer = checkpoint.Writer(directory)
  try:
    position = _position(positions, pick)
    writer.save(1, state, {"config": dict(config), "position": position, "seconds": {}, **made_under[0]})
  finally:
    writer.close()


def _position(parts: Sequence[Mapping[str, Any]], pick: Callable) -> dict[str, Any]:
  """Where they stand, with what was measured of the picked members."""

  def measured(nodes: Sequence[Any]) -> Any:
    if isinstance(nodes[0], dict):
      return {key: measured([node[key] for node in nodes]) for key in nodes[0]}
    return pick(nodes) if isinstance(nodes[0], list) else nodes[0]

  rows = lambda key: list(zip(*(p[key] for p in parts), strict=True))
  # Evaluated at other steps, curves of some members would pass for those of all.
  alike = len({len(p["curves"]) for p in parts}) == 1
  curves = [{**row[0], "accuracy": measured([c["accuracy"] for c in row])} for row in rows("curves")] if alike else []
  return {
    **{k: v for k, v in parts[0].items() if k != "replay"},
    "accuracy": [measured(row) for row in rows("accuracy")],
    "forgotten": [measured(row) for row in rows("forgotten")],
    "curves": curves,
  }


__all__ = ["newest", "write"]
