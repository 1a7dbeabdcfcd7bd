"""The packaged cards of the methods: what records, claims and mutations give, and how they are shown."""

import configparser
import json
import pathlib

import pytest
import records

from cljax import methods
from cljax.methods.table import CARDS, cards, checks
from experiments import _proof_cards


def test_the_packaged_cards_are_what_the_records_give():
  assert CARDS.read_text() == _proof_cards.text(), "run python -m experiments.proofs"
  assert list(cards()) == [n for n, e in methods.METHODS.items() if e.factory.__module__.startswith("cljax")]


def test_a_card_has_the_judged_rows_of_the_parity_tables():
  table = json.loads((_proof_cards.PARITY / "rotated_mnist.json").read_text())
  (row,) = [r for r in table["rows"] if r["preset"] == "rotated_mnist/der/200"]
  (line,) = [text for text in cards()["derpp"]["parity"] if text.startswith("rotated_mnist/der/200: ")]
  assert line.startswith(f"rotated_mnist/der/200: {row['mean']:.2f} ± {row['stderr']:.2f} for 90.04 ± 2.61, ")
  assert line.endswith(row["verdict"])
  judged = [
    r for f in _proof_cards.PARITY.glob("*.json") for r in json.loads(f.read_text())["rows"] if r["ratio"] is not None
  ]
  assert sum(len(c["parity"]) for c in cards().values()) == len(judged)


def test_the_cards_are_packaged():
  setup = configparser.ConfigParser()
  setup.read(pathlib.Path(__file__).parent.parent / "setup.cfg")
  assert "methods/cards.json" in setup["options.package_data"]["cljax"]


@pytest.mark.parametrize("name", ["lifecycle", "streaming", "stochastic_teacher", "claw", "fomo"])
def test_a_reconstruction_says_in_its_card_and_docstring_that_the_text_was_not_available(name):
  told = "own text was not available"
  assert any(told in line for line in records.method(name).deviations)
  assert told in " ".join(methods.METHODS[name].factory.__doc__.split())


def test_cards_as_a_table():
  one = {"compared": 1, "laws": 2, "claims": {"one": "holds", "more": "inconclusive"}, "no_claim": "", "parity": []}
  two = {"compared": 0, "laws": 0, "claims": {}, "no_claim": "a reference", "parity": ["row"], "mutants": []}
  lines = checks({"one": {**one, "mutants": [3, 4], "deviations": []}, "two": {**two, "deviations": ["a", "b"]}})
  assert lines.splitlines()[2:] == [
    "| `one` | 1 comparison, 2 laws | holds; more: inconclusive |  | 3 of 4 |  |",
    "| `two` |  | none: a reference | row |  | a; b |",
  ]
