"""Every entry proves what it is: its record, the tests that it names, and the committed proof that they enter its code.

Also the checker itself on made-up entries, each of which must turn it red; and a sample of the proofs made anew.
"""

from __future__ import annotations

import ast
import random

import pytest
import records
from records import check, code
from records.form import Record

from experiments import claims, proofs

pytestmark = pytest.mark.xdist_group("records")  # a sample of proofs is made once
ALL = list(records.records().items())


def told(faults):
  """All of them, not the first."""
  if faults:
    pytest.fail("\n".join(faults), pytrace=False)


def test_every_name_has_a_record_or_is_a_helper():
  told(check.name_faults(check.exports(), records.records(), records.helpers()))


def test_every_record_names_tests_that_run_and_a_claim():
  told([f for key, r in ALL for f in check.record_faults(key, r, code.suite(), claims.names())])


def test_every_proof_is_of_this_code_and_these_tests():
  prove = lambda key, r: check.proof_faults(key, r, records.entry(key), code.suite(), check.proofs().get(key))
  told([f for key, r in ALL for f in prove(key, r)])


def _asked(test):
  found = check.named(test, code.suite())
  assert not isinstance(found, str), found
  return found[0], code.digest_of_test(found[0], test.split("[")[0])


@pytest.fixture(scope="module")
def anew():
  """Some proofs made anew, and that of a pair which proves nothing: ``{(key, test): proof}``."""
  short = [
    (k, t) for k, p in sorted(check.proofs().items()) for t, of in sorted(p["tests"].items()) if of["seconds"] < 4
  ]
  seed = "".join(sorted(p["entry"] for p in check.proofs().values()))
  asked: dict = {("loss", "squared_norm"): {"test_against_loops": _asked("test_against_loops")}}
  for key, test in random.Random(seed).sample(short, min(3, len(short))):
    asked.setdefault(key, {})[test] = _asked(test)
  return {(key, test): proof for key, test, proof in proofs.prove(asked, 2)}


def test_a_sample_of_the_proofs_made_anew_is_the_committed_one(anew):
  assert len(anew) > 1
  for (key, test), proof in anew.items():
    if key != ("loss", "squared_norm"):
      known = check.proofs()[key]["tests"][test]
      nodes = check.moved(known["nodes"], _asked(test)[0])
      assert (proof["outcome"], proof["nodes"], proof["core"]) == ("passed", nodes, known["core"])
      assert proof["entered"] > 0


def test_a_test_that_does_not_enter_the_code_is_a_fault(anew):
  key, test = ("loss", "squared_norm"), "test_against_loops"
  assert (anew[key, test]["outcome"], anew[key, test]["entered"]) == ("passed", 0)
  entry = records.entry(key)
  proof = {"entry": check.entry_digest(entry), "tests": {test: anew[key, test]}}
  faults = check.proof_faults(key, Record(compared=(test,)), entry, code.suite(), proof)
  assert faults == [f"loss squared_norm: {test} does not enter its code"]


def test_a_name_without_a_record_is_a_fault():
  recorded, names = {("loss", "there"): Record()}, {"loss": ["there", "helps", "made_up"]}
  faults = check.name_faults(names, recorded, {"cljax.losses": {"helps": "a helper"}})
  assert faults == ["loss made_up: has no record and is no helper; see tests/records/__init__.py"]
  faults = check.name_faults(
    {"loss": ["there"]}, {**recorded, ("loss", "gone"): Record()}, {"cljax.losses": {"there": ""}}
  )
  assert faults == [
    "loss there: has a record and is called a helper",
    "loss gone: has a record or is called a helper, and does not exist",
  ]


MADE = """
import pytest
def test_runs(): assert True
@pytest.mark.skip(reason="later")
def test_skipped(): assert True
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.xfail)])
def test_expected_to_fail(x): assert x
class TestMany:
  def test_in_a_class(self): pytest.importorskip("nothing")
"""


@pytest.fixture
def made_suite(tmp_path):
  (tmp_path / "test_made.py").write_text(MADE)
  (tmp_path / "test_marked.py").write_text(
    "import pytest\npytestmark = pytest.mark.skip\ndef test_runs(): assert True\n"
  )
  return code.suite(str(tmp_path))


@pytest.mark.parametrize(
  ("record", "said"),
  [
    (Record(compared=("test_made::test_runs",)), []),
    (Record(invariants=("test_made::test_runs",)), ["no test compares it with an independent computation"]),
    (Record(compared=("test_skipped",)), ["test_skipped has skip"]),
    (Record(compared=("test_expected_to_fail[1]",)), ["test_expected_to_fail[1] has xfail"]),
    (Record(compared=("test_in_a_class",)), ["test_in_a_class has importorskip"]),
    (Record(compared=("test_marked::test_runs",)), ["test_marked::test_runs has skip"]),
    (Record(compared=("test_nowhere",)), ["test_nowhere is not in the suite"]),
    (Record(compared=("test_made::test_runs",), claim=("none",)), ["claim 'none' is not in experiments/claims"]),
  ],
)
def test_a_record_that_proves_nothing_is_a_fault(record, said, made_suite):
  assert check.record_faults(("loss", "x"), record, made_suite, ["ewc"]) == [f"loss x: {s}" for s in said]


def test_a_name_of_two_tests_and_a_method_without_a_claim_are_faults(made_suite):
  first, second = check.record_faults(("method", "x"), Record(compared=("test_runs",)), made_suite, [])
  assert first == "method x: neither a claim nor a line why there is none"
  assert second.endswith("test_marked.py: write stem::test_runs")


def test_other_code_and_another_test_make_a_proof_stale():
  key, record = ("regularizer", "ewc"), records.records()["regularizer", "ewc"]
  entry, proof, test = records.entry(key), check.proofs()[key], record.compared[0]
  faults = lambda proof: check.proof_faults(key, record, entry, code.suite(), proof)
  assert faults(proof) == []
  again = "; run python -m experiments.proofs --only=ewc"
  assert faults(None) == [f"regularizer ewc: is not proved{again}"]
  assert faults({**proof, "entry": "0"}) == [f"regularizer ewc: its code is not the proved one{again}"]
  known = proof["tests"][test]
  for other in ({test: {**known, "digest": "0"}}, {}):
    kept = {t: p for t, p in proof["tests"].items() if t != test}
    assert faults({**proof, "tests": {**kept, **other}}) == [f"regularizer ewc: {test} is not the proved one{again}"]
  elsewhere = {**proof["tests"], test: {**known, "nodes": [f"tests/other.py::{test}"]}}
  assert faults({**proof, "tests": elsewhere}) == [], "a test that moved is the same test"
  assert check.moved([f"tests/other.py::{test}[a::b]"], "tests/here.py") == [f"tests/here.py::{test}[a::b]"]
  gone = record._replace(compared=("test_of_no_suite",))
  assert check.proof_faults(key, gone, entry, code.suite(), proof) == [
    "regularizer ewc: no comparison enters the entry itself"
  ]
  failed = {**proof["tests"], test: {**known, "outcome": "skipped"}}
  assert faults({**proof, "tests": failed}) == [f"regularizer ewc: {test} skipped"]
  parts = {t: {**p, "core": False} for t, p in proof["tests"].items()}
  assert faults({**proof, "tests": parts}) == ["regularizer ewc: no comparison enters the entry itself"]


def _digest(text):
  node = ast.parse(text).body[0]
  return code.digest([code.Piece("f.py", "f", node, node.lineno, node.end_lineno)])


def test_a_digest_follows_the_code_alone():
  first = _digest("def f(x: int) -> int:\n  return x + 1\n")
  assert first == _digest('\n\ndef f(x):\n  """What it does."""\n  return (x\n    + 1)  # one more\n')
  assert first != _digest("def f(x):\n  return x - 1\n")
  assert first != _digest("def f(x, y=0):\n  return x + 1\n")


def test_own_code_ends_at_other_entries_and_at_the_package():
  own = lambda key: [p.qualname for p in code.own_code(records.entry(key), records.stops())]
  assert own(("regularizer", "ewc_penalty"))[:2] == ["ewc_penalty", "_weighted_square"]
  assert own(("method", "ewc"))[0] == "ewc"
  assert "er" not in own(("method", "derpp"))
  # An edit's factory holds the edit: what only calls another edit's factory proves nothing of it.
  pieces = code.own_code(records.entry(("method", "graddiff")), records.stops())
  assert [p.qualname for p in pieces if p.core] == ["edit.<locals>.factory", "graddiff"]
  assert all(code.own_code(records.entry(key), records.stops()) for key, _ in ALL)


def test_lines_that_run_at_import_are_not_entered():
  text = 'def f(x):\n  """A line."""\n  def g(y):\n    return y\n  return g(x)\nh = lambda x: x\n'
  nodes = ast.parse(text).body
  piece = lambda node, core: code.Piece("f.py", "f", node, node.lineno, node.end_lineno, core)
  assert code.body_lines(piece(nodes[0], True)) == {3, 4, 5}
  pieces = [piece(nodes[0], True), piece(nodes[1].value, False)]
  assert check.entered(pieces, {"f.py": [1, 6], "g.py": [3, 4]}) == (1, 4, False)
  assert check.entered(pieces, {"f.py": [1, 3, 5]}) == (2, 4, True)


def test_parameters_that_a_recorded_test_means():
  nodes = [f"t.py::test_f[{p}]" for p in ("si", "ewc-1", "online_ewc", "ewc-2")] + [
    "t.py::test_g[0-a]",
    "u.py::test_f[ewc]",
  ]
  assert check.nodes_of("test_f", "ewc", "t.py", nodes) == ["t.py::test_f[ewc-1]", "t.py::test_f[ewc-2]"]
  assert check.nodes_of("test_f[si]", "ewc", "t.py", nodes) == ["t.py::test_f[si]"]
  assert check.nodes_of("test_f", "other", "t.py", nodes) == ["t.py::test_f[si]"]
  assert check.nodes_of("t::test_g", "other", "t.py", nodes) == ["t.py::test_g[0-a]"]
  assert check.nodes_of("test_h", "ewc", "t.py", nodes) == []
