"""What is wrong with records: names without one, tests that are not there or prove nothing, proofs that are stale."""

from __future__ import annotations

import ast
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import records
from records import code
from records.form import Record

PROOFS = pathlib.Path(__file__).parent / "proofs"
Key = tuple[str, str]
Suite = Mapping[str, list[tuple[str, ast.FunctionDef]]]


def exports() -> dict[str, list[str]]:
  """Every exported and every registered name, by kind. Methods that a test has registered are none of cljax."""
  from cljax import methods, streams

  found = {kind: records.exported(k.package) for kind, k in records.KINDS.items()}
  own = [n for n, e in methods.METHODS.items() if e.factory.__module__.startswith("cljax")]
  return {**found, "method": list(dict.fromkeys([*own, *found["method"]])), "scenario": list(streams.KINDS)}


def name_faults(names: Mapping[str, Iterable[str]], recorded: Mapping, helpers: Mapping[str, Mapping]) -> list[str]:
  """Each of the names by kind needs a record, or a line as a helper."""
  faults = []
  for kind, given in names.items():
    package = records.KINDS[kind].package
    lines, there = helpers.get(package, {}), {n for k, n in recorded if k == kind}
    for name in given:
      if (name in there) == (name in lines):
        what = (
          "has a record and is called a helper"
          if name in there
          else "has no record and is no helper; see tests/records/__init__.py"
        )
        faults.append(f"{kind} {name}: {what}")
    faults += [
      f"{kind} {n}: has a record or is called a helper, and does not exist" for n in {*there, *lines} - {*given}
    ]
  return faults


def named(test: str, suite: Suite) -> tuple[str, ast.FunctionDef] | str:
  """The file and the function of a recorded test; or what is wrong with its name."""
  name = test.split("[")[0]
  found = suite.get(name, [])
  if not found:
    return f"{test} is not in the suite"
  if len(found) > 1:
    return f"{test} is in {', '.join(file for file, _ in found)}: write stem::{name}"
  return found[0]


def record_faults(key: Key, record: Record, suite: Suite, claims: Iterable[str]) -> list[str]:
  """What a record's text lacks: an independent comparison, tests that exist and run, a claim or why there is none."""
  label, faults = " ".join(key), []
  if not record.compared:
    faults.append(f"{label}: no test compares it with an independent computation")
  if not record.claim and not record.no_claim and not records.KINDS[key[0]].no_claim:
    faults.append(f"{label}: neither a claim nor a line why there is none")
  faults += [f"{label}: claim {c!r} is not in experiments/claims" for c in record.claim if c not in claims]
  for test in record.tests:
    found = named(test, suite)
    if isinstance(found, str):
      faults.append(f"{label}: {found}")
    elif marks := code.skips(*found):
      faults.append(f"{label}: {test} has {', '.join(marks)}")
  return faults


def entry_digest(entry: Any) -> str:
  return code.digest(code.own_code(entry, records.stops()))


def proof_faults(key: Key, record: Record, entry: Any, suite: Suite, proof: Mapping | None) -> list[str]:
  """Whether the committed proof is of this code and these tests, and says that each test enters the entry's code."""
  label = " ".join(key)
  if not record.tests:
    return []
  again = f"; run python -m experiments.proofs --only={key[1]}"
  if proof is None:
    return [f"{label}: is not proved{again}"]
  faults = [f"{label}: its code is not the proved one{again}"] if proof["entry"] != entry_digest(entry) else []
  for test in record.tests:
    found, known = named(test, suite), proof["tests"].get(test)
    if isinstance(found, str):
      continue  # a fault of the record
    if known is None or known["digest"] != code.digest_of_test(found[0], test.split("[")[0]):
      faults.append(f"{label}: {test} is not the proved one{again}")
    elif known["outcome"] != "passed":
      faults.append(f"{label}: {test} {known['outcome']}")
    elif not known["entered"]:
      faults.append(f"{label}: {test} does not enter its code")
  if not faults and not any(proof["tests"].get(test, {}).get("core") for test in record.compared):
    faults.append(f"{label}: no comparison enters the entry itself")
  return faults


def entered(pieces: list[code.Piece], lines: Mapping[str, Iterable[int]]) -> tuple[int, int, bool]:
  """Lines entered, lines of own code, and whether each core piece was entered."""
  got = [code.body_lines(p) & set(lines.get(p.file, ())) for p in pieces]
  core = bool(pieces) and all(g for p, g in zip(pieces, got, strict=True) if p.core)
  return sum(map(len, got)), sum(len(code.body_lines(p)) for p in pieces), core


def nodes_of(test: str, name: str, file: str, collected: Iterable[str]) -> list[str]:
  """The node ids that a recorded test means: the one written; those with the entry's name as a part of their
  parameters, at most 4; else the first."""
  function = test.split("::")[-1]
  base = function.split("[")[0]
  mine = [n for n in collected if n.startswith(f"{file}::") and n.split("[")[0].split("::")[-1] == base]
  if "[" in function:
    return [n for n in mine if n.split("::", 1)[1].endswith(function)]
  parts = lambda node: re.split(r"[^A-Za-z0-9_]+", node.split("[", 1)[1]) if "[" in node else []
  return [n for n in mine if name in parts(n)][:4] or mine[:1]


def moved(nodes: Iterable[str], file: str) -> list[str]:
  """Node ids of a test whose file is another now: a move breaks no proof, since digests know no places."""
  return [f"{file}::{node.partition('::')[2]}" for node in nodes]


@functools.cache
def proofs() -> dict[tuple[str, str], Any]:
  """The committed proofs by key: ``{"entry": digest, "tests": {test: {"digest", "nodes", "outcome", ...}}}``."""
  found = {}
  for path in sorted(PROOFS.glob("*.json")):
    for label, proof in json.loads(path.read_text()).items():
      kind, name = label.split("/")
      found[kind, name] = proof
  return found
