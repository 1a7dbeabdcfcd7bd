"""The methods tables: what each entry of the registry declares and the bytes it keeps; and what it is checked by."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from cljax.io import tables
from cljax.methods.registry import METHODS, Entry

HEADER = ("method", "stores rows", "task boundaries", "reads task data", "trains on", "forgets", "reference", "bytes")

CHECKS = ("method", "checked by", "claim", "parity", "mutants killed", "deviations")
CARDS = pathlib.Path(__file__).parent / "cards.json"


def cards() -> dict[str, dict[str, Any]]:
  """By method of cljax: what it is checked by, as the records, the claims and the mutations of this version say."""
  return json.loads(CARDS.read_text())


def checks(given: Mapping[str, Mapping[str, Any]] | None = None) -> str:
  """The cards (default: :func:`cards`) as a Markdown table."""
  rows = []
  counted = lambda n, word: f"{n} {word}{'' if n == 1 else 's'}"
  for name, card in (cards() if given is None else given).items():
    tests = [(card["compared"], "comparison"), (card["laws"], "law")]
    claims = [verdict if claim == name else f"{claim}: {verdict}" for claim, verdict in card["claims"].items()]
    cells = (
      f"`{name}`",
      ", ".join(counted(n, word) for n, word in tests if n),
      "; ".join(claims) or (f"none: {card['no_claim']}" if card["no_claim"] else ""),
      "; ".join(card["parity"]),
      "{} of {}".format(*card["mutants"]) if card["mutants"] else "",
      "; ".join(card["deviations"]),
    )
    rows.append(cells)
  return "\n".join(tables.markdown(CHECKS, rows))


def family(entry: Entry) -> str:
  """The package or module of :mod:`cljax.methods` that has a method; 'your own' for one that is nowhere there."""
  place = entry.factory.__module__.split(".")
  return place[2] if place[:2] == ["cljax", "methods"] and len(place) > 2 else "your own"


def table(state_bytes: Mapping[str, int]) -> str:
  """The registry as Markdown tables, one for each family; ``state_bytes`` gives the last column by method name."""
  yes = lambda flag: "yes" if flag else ""
  by_family: dict[str, list[tuple[str, ...]]] = {}
  for name, entry in METHODS.items():
    a = entry.access
    needs = [word for word, flag in (("forget rows", a.forget_data), ("retain rows", a.retain_data)) if flag]
    forgets = entry.exactness + (f" ({', '.join(needs)})" if needs else " (all past data)" if a.prefix else "")
    cells = (
      f"`{name}`",
      yes(a.stores_data),
      yes(a.task_boundaries),
      yes(a.boundary_data),
      {"current": "the task", "seen": "all tasks seen", "all": "all tasks"}[a.trains_on],
      forgets,
      entry.reference,
      f"{state_bytes[name]:,}",
    )
    by_family.setdefault(family(entry), []).append(cells)
  blocks = (
    f"### {f.replace('_', ' ')}\n\n" + "\n".join(tables.markdown(HEADER, rows)) for f, rows in by_family.items()
  )
  return "\n\n".join(blocks)
