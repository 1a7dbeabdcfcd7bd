"""Runs each recorded test by itself and shows that it enters its entry's own code.

``python -m experiments.proofs [--only=NAME,...] [--jobs=2]``; names: of entries (``ewc``), of a kind's entry
(``regularizer/ewc``) or of a module of records (``methods_replay``). Each test runs in a process that shares no traced
program with another; what it enters is written to ``tests/records/proofs/MODULE.json``, keyed by digests of the entry
and of the test. What is proved already is not run again. Then the packaged cards are made anew from records, claims
and mutations (``cljax/methods/cards.json``). Exits with code 1 where a test proves nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from absl import app, flags

from experiments import _isolated, _proof_cards
from experiments._proof_records import check, code, records

Key = tuple[str, str]


def chosen(names: Iterable[str]) -> list[Key]:
  """The keys that the names mean; all without names. Raises SystemExit for one that means none."""
  everything, found = records.modules_of(), []
  for name in names:
    mine = [k for k, module in everything.items() if name in (k[1], "/".join(k), module)]
    if not mine:
      raise SystemExit(f"--only: {name!r} is no entry, kind/entry or module of records")
    found += mine
  return list(dict.fromkeys(found)) if names else list(everything)


def due(key: Key, again: bool = False) -> dict[str, tuple[str, str]]:
  """The recorded tests of an entry that are not proved as they are: ``{test: (file, digest)}``."""
  record, proof = records.records()[key], check.proofs().get(key)
  stale = again or proof is None or proof["entry"] != check.entry_digest(records.entry(key))
  found = {}
  for test in record.tests:
    where = check.named(test, code.suite())
    if isinstance(where, str):
      raise SystemExit(f"{' '.join(key)}: {where}")
    digest = code.digest_of_test(where[0], test.split("[")[0])
    known = None if stale or proof is None else proof["tests"].get(test)
    moved = known is not None and any(node.partition("::")[0] != where[0] for node in known["nodes"])
    if known is None or moved or known["digest"] != digest or known["outcome"] != "passed" or not known["entered"]:
      found[test] = (where[0], digest)
  return found


def prove(asked: dict[Key, dict[str, tuple[str, str]]], jobs: int) -> Iterator[tuple[Key, str, dict[str, Any]]]:
  """Runs the tests and yields, as they come, what each proves of an entry."""
  with _isolated.pool(jobs) as run:
    files = sorted({file for tests in asked.values() for file, _ in tests.values()})
    collected = {r.name: list(r.tests) for r in run(_isolated.Task(f, (f,), collect=True) for f in files)}
    waiting: dict[tuple[str, ...], list[tuple[Key, str, str]]] = {}
    for key, tests in asked.items():
      for test, (file, digest) in tests.items():
        nodes = check.nodes_of(test, key[1], file, collected[file])
        if nodes:
          waiting.setdefault(tuple(nodes), []).append((key, test, digest))
        else:
          yield key, test, {"digest": digest, "nodes": [], "outcome": "is not collected", "entered": 0}
    for result in run(_isolated.Task("\n".join(nodes), nodes, lines=True) for nodes in waiting):
      nodes = tuple(result.name.split("\n"))
      for key, test, digest in waiting[nodes]:
        pieces = code.own_code(records.entry(key), records.stops())
        lines, own, core = check.entered(pieces, result.lines)
        if result.outcome != "passed":
          print(f"{' '.join(key)}: {test} {result.outcome}: {result.failed} {result.message}", file=sys.stderr)
        found = {"digest": digest, "nodes": list(nodes), "outcome": result.outcome, "entered": lines, "own": own}
        yield key, test, {**found, "core": core, "seconds": round(result.seconds)}


def write(modules: Iterable[str]) -> None:
  """The proofs of these modules of records, without entries and tests that are recorded no more."""
  for module in sorted(set(modules)):
    kept = {}
    for key in sorted(k for k, m in records.modules_of().items() if m == module):
      proof, tests = check.proofs().get(key), records.records()[key].tests
      if proof is not None and tests:
        kept["/".join(key)] = {**proof, "tests": {t: proof["tests"][t] for t in tests if t in proof["tests"]}}
    check.PROOFS.mkdir(exist_ok=True)
    (check.PROOFS / f"{module}.json").write_text(json.dumps(kept, indent=1) + "\n")


def main(argv) -> None:
  del argv
  keys = chosen(flags.FLAGS.only)
  asked = {key: tests for key in keys if (tests := due(key))}
  modules = {records.modules_of()[key] for key in keys}
  print(f"{sum(map(len, asked.values()))} tests of {len(asked)} entries to prove")
  empty = []
  for key, test, found in prove(asked, flags.FLAGS.jobs):
    digest = check.entry_digest(records.entry(key))
    proof = check.proofs().setdefault(key, {"entry": digest, "tests": {}})
    if proof["entry"] != digest:
      proof["entry"], proof["tests"] = digest, {}
    proof["tests"][test] = found
    write([records.modules_of()[key]])
    said = f"{found['outcome']}, {found['entered']} of {found.get('own')} lines"
    print(f"{' '.join(key)}: {test}: {said}", flush=True)
    empty += [f"{' '.join(key)}: {test}: {said}"] if found["outcome"] != "passed" or not found["entered"] else []
  write(modules)
  _proof_cards.write()
  if empty:
    raise SystemExit("\n".join(["these prove nothing:", *empty]))


if __name__ == "__main__":
  flags.DEFINE_list("only", [], "entries, kind/entry or modules of records (default: all)")
  flags.DEFINE_integer("jobs", 2, "processes at a time", lower_bound=1)
  app.run(main)
