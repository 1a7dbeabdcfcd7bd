"""The packaged cards of the methods: what each is checked by, as users see it where tests are not installed."""

from __future__ import annotations

import json
from typing import Any

from cljax import methods
from cljax.cli import parity, presets
from cljax.methods.table import CARDS
from experiments._proof_records import ROOT, records

CLAIMS = ROOT / "experiments" / "claims" / "RESULTS.json"
PARITY = ROOT / "experiments" / "results" / "parity"
MUTANTS = ROOT / "experiments" / "results" / "mutations" / "table.json"


def published() -> dict[str, list[str]]:
  """By method: the judged rows of the parity tables, ``BENCHMARK/METHOD/SETTING: ours for theirs, verdict``."""
  found: dict[str, list[str]] = {}
  for path in sorted(PARITY.glob("*.json")):
    for row in json.loads(path.read_text())["rows"]:
      if row["preset"] in presets.presets() and row["verdict"].startswith((parity.AGREES, parity.DIFFERS)):
        _, ours, _, theirs, *_, verdict, _ = parity.cells(row)
        said = f"{row['preset']}: {ours} for {theirs}, {verdict}"
        found.setdefault(presets.find(row["preset"]).method, []).append(said)
  return found


def cards() -> dict[str, dict[str, Any]]:
  """By method: how many tests compare it and keep its laws, its claims' verdicts, parity, ``[killed, active]`` mutants
  (without those shown to be equivalent), deviations."""
  verdicts = {name: claim["verdict"] for name, claim in json.loads(CLAIMS.read_text()).items()}
  lines = json.loads(MUTANTS.read_text()) if MUTANTS.exists() else []
  mutants = {line["entry"]: [line["killed"], line["active"] - len(line["equivalent"])] for line in lines}
  found, measured = {}, published()
  for name, entry in methods.METHODS.items():
    if not entry.factory.__module__.startswith("cljax"):
      continue  # a test's own
    record = records.method(name)
    found[name] = {
      "spec": record.spec,
      "compared": len(record.compared),
      "laws": len(record.invariants),
      "claims": {c: verdicts.get(c, "not measured") for c in record.claim},
      "no_claim": record.no_claim,
      "parity": [*record.parity, *measured.get(name, ())],
      "mutants": mutants.get(f"method {name}", []),
      "deviations": list(record.deviations),
    }
  return found


def text() -> str:
  """The file: a line a method."""
  lines = [f"{json.dumps(name)}: {json.dumps(card, ensure_ascii=False)}" for name, card in cards().items()]
  return "{\n" + ",\n".join(lines) + "\n}\n"


def write() -> None:
  CARDS.write_text(text())
