"""What became of the mutants: rows in a file, one a line, and the tables made of them.

``mutants.jsonl`` holds a row for each entry (how its recorded tests ran unmutated) and one for each mutant that ran,
each under the entry's stamp, a digest of its code and tests: rows of another stamp are void. ``equivalent.json`` names
the mutants that change nothing that could be seen, by function, statement and change, with the reason.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

from experiments._mutants import Mutant

Row = dict[str, Any]


class Subject(NamedTuple):
  """An entry to be mutated."""

  name: str  # 'method ewc'
  stamp: str  # digest of its own code and of its recorded tests
  tests: tuple[str, ...]  # node ids: what was compared first, then the laws
  candidates: tuple[Mutant, ...]
  own: tuple[str, ...] = ()  # the functions that are the entry; the rest of its code it may share with others


class Store:
  """Rows on disk, appended as they come where they are kept."""

  def __init__(self, folder: pathlib.Path, keep: bool = True):
    self.folder, self.path, self.keep = folder, folder / "mutants.jsonl", keep
    lines = self.path.read_text().splitlines() if self.path.exists() else []
    rows = [json.loads(line) for line in lines if line.strip()]
    self.rows = {(row["entry"], row["stamp"], row.get("mutant", "")): row for row in rows}

  def get(self, subject: Subject, mutant: str = "") -> Row | None:
    return self.rows.get((subject.name, subject.stamp, mutant))

  def of(self, subject: Subject) -> list[Row]:
    """The rows of its mutants that still exist."""
    keys = {m.key for m in subject.candidates}
    return [r for k, r in self.rows.items() if k[:2] == (subject.name, subject.stamp) and k[2] and k[2] in keys]

  def made(self, entry: str) -> set[str]:
    """The keys of an entry's mutants, of any stamp."""
    return {mutant for name, _, mutant in self.rows if name == entry and mutant}

  def survivors(self) -> set[tuple[str, str]]:
    """Entry and key of each survivor, of any stamp."""
    return {(r["entry"], r["mutant"]) for r in self.rows.values() if r.get("outcome") == "survived"}

  def put(self, row: Row) -> None:
    self.rows[row["entry"], row["stamp"], row.get("mutant", "")] = row
    if not self.keep:
      return
    self.folder.mkdir(parents=True, exist_ok=True)
    with self.path.open("a") as file:
      print(json.dumps(row), file=file)

  def tidy(self, stamps: dict[str, str]) -> None:
    """Sorted, without rows of entries that are gone or of other stamps."""
    self.rows = {k: self.rows[k] for k in sorted(self.rows) if stamps.get(k[0]) == k[1]}
    self.folder.mkdir(parents=True, exist_ok=True)
    self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows.values()))


def reason(equivalents: list[Row], entry: str, mutant: Mutant | Row) -> str:
  """Why a mutant is equivalent, '' where nobody said so. A reason may hold for some entries only."""
  row = mutant if isinstance(mutant, dict) else mutant._asdict()
  for known in equivalents:
    same = all(known[k] == row[k] for k in ("function", "statement", "old", "new"))
    if same and entry in known.get("entries", [entry]):
      return known["reason"]
  return ""


def equivalents(folder: pathlib.Path) -> list[Row]:
  path = folder / "equivalent.json"
  return json.loads(path.read_text()) if path.exists() else []


def summary(subject: Subject, store: Store, known: list[Row]) -> Row:
  """An entry's line of the table."""
  base = store.get(subject) or {}
  places = {m.key: m for m in subject.candidates}
  found: Row = {"entry": subject.name, "candidates": len(subject.candidates)}
  found["unreached"] = len(base.get("unreached", ()))
  rows = store.of(subject)
  count = lambda outcome: sum(r["outcome"] == outcome for r in rows)
  alive = [{**r, "line": places[r["mutant"]].line} for r in rows if r["outcome"] == "survived"]
  same = [{**r, "reason": why} for r in alive if (why := reason(known, subject.name, r))]
  left = [r for r in alive if not reason(known, subject.name, r)]
  fields = ("file", "line", "function", "operator", "statement", "old", "new", "number", "reason")
  cut = lambda rows: [{k: r[k] for k in fields if k in r} for r in rows]
  found |= {"made": len(rows), "active": len(rows) - count("inactive"), "killed": count("killed")}
  found |= {"survived": cut(left), "equivalent": cut(same), "note": base.get("note", "")}
  return found | {"seconds": round(sum(r["seconds"] for r in rows), 1)}


def write(folder: pathlib.Path, lines: list[Row], command: str) -> None:
  """``table.json`` and ``table.md``."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "table.json").write_text(json.dumps(lines, indent=1) + "\n")
  counted = ("candidates", "unreached", "made", "active", "killed", "seconds")
  total = {k: sum(line[k] for line in lines) for k in counted}
  alive, same = (sum(len(line[k]) for line in lines) for k in ("survived", "equivalent"))
  judged = max(total["active"] - same, 1)
  none = [line["entry"] for line in lines if line["candidates"] and not line["killed"]]
  bare = [line["entry"] for line in lines if not line["candidates"]]
  text = [
    "# Mutants", "", f"Made by `{command}`. A mutant changes one place of an entry's own code; the entry's recorded",
    "tests run on it, each time in a process of its own, until one fails. *Candidates*: all that the operators make;",
    "*unreached*: those on lines that no recorded test enters; *made*: the seeded choice that ran; *active*: those of",
    "which a mark shows that they ran; *equivalent*: survivors that change nothing to be seen, with the reason.",
    "",
    f"{len(lines)} entries, {total['candidates']} candidates ({total['unreached']} unreached), {total['made']} made, "
    f"{total['active']} active, {total['killed']} killed, {same} equivalent, {alive} survived: "
    f"{100 * alive / judged:.1f} % of the active that are not equivalent; "
    f"{total['seconds'] / max(total['made'], 1):.1f} s a mutant.", "",
    f"Entries without a killed mutant: {', '.join(none) or 'none'}.", "",
    "Entries whose code holds nothing that an operator changes, being one call, or an empty `Method` that its access "
    f"tells apart: {', '.join(bare) or 'none'}.", "",
    "| entry | candidates | unreached | made | active | killed | equivalent | survived | |", "|" + " --- |" * 9,
  ]  # fmt: skip
  for n in lines:
    counts = [n["candidates"], n["unreached"], n["made"], n["active"], n["killed"], len(n["equivalent"])]
    text.append(f"| {n['entry']} | {' | '.join(map(str, counts))} | {len(n['survived'])} | {n['note']} |")
  for title, key in (("Survivors", "survived"), ("Equivalent", "equivalent")):
    text += ["", f"## {title}", ""]
    for n in lines:
      text += [f"- {n['entry']}: {told(m)}{'. ' + m['reason'] if key == 'equivalent' else ''}" for m in n[key]]
  (folder / "table.md").write_text("\n".join(text) + "\n")


def told(row: Row) -> str:
  """A mutant on one line."""
  old, new = (text if len(text) <= 90 else text[:87] + "..." for text in _differing(row["old"], row["new"]))
  return f"`{row['file']}:{row['line']}` {row['function']}, {row['operator']}: `{old}` -> `{new}`"


def _differing(old: str, new: str) -> tuple[str, str]:
  """Without the head and tail that both share, where they are long."""
  if max(len(old), len(new)) <= 90:
    return old, new
  first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
  first = max(0, first - 30)
  return (f"..{old[first:]}", f"..{new[first:]}") if first else (old, new)
