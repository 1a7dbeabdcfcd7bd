"""The sample of cases: seeded, never empty, and over commits all of them."""

from __future__ import annotations

import ast
import pathlib
import types

import sampling

HERE = pathlib.Path(__file__).parent
CASES = [f"tests/a/test_laws.py::test_law[{i}]" for i in range(30)]


def test_a_share_is_drawn_by_the_seed_and_others_by_another():
  first = sampling.drawn(CASES, "7")
  assert first == sampling.drawn(reversed(CASES), "7")
  assert len(first) == 4
  assert first <= set(CASES)
  assert len(sampling.drawn(CASES[:5], "7")) == sampling.LEAST
  assert sampling.drawn(CASES[:3], "7") == set(CASES[:3])
  assert len(sampling.drawn(CASES[:3], "7", least=1)) == 1
  many = [f"case{i}" for i in range(200)]
  assert len(sampling.drawn(many, "7")) == sampling.MOST
  assert sampling.drawn(CASES, "7", always=CASES[-1:]) == first | {CASES[-1]}
  over_commits = [sampling.drawn(CASES, str(seed)) for seed in range(40)]
  assert set().union(*over_commits) == set(CASES)


def test_what_is_quick_is_taken_whole(monkeypatch):
  monkeypatch.setattr(sampling, "SAMPLED", frozenset({"test_laws::test_law", sampling.CONTRACT}))
  monkeypatch.setattr(sampling, "SLOW", frozenset(f"test_slow{i}::test_slow" for i in range(16)))
  item = lambda node, **params: types.SimpleNamespace(
    nodeid=node, path=pathlib.Path(node.partition("::")[0]), name=node.rpartition("::")[2],
    originalname=node.rpartition("::")[2].partition("[")[0], callspec=types.SimpleNamespace(params=params),
  )  # fmt: skip
  laws = [item(node) for node in CASES]
  other = [item(f"tests/a/test_laws.py::test_other[{i}]") for i in range(9)]
  slow = [item(f"tests/a/test_slow{i}.py::test_slow[{case}]") for i in range(16) for case in "ab"]
  methods = [item(f"{sampling.CONTRACT}::test_{t}[m{i}]", name=f"m{i}") for i in range(30) for t in ("one", "two")]
  keep, left = sampling.split([*laws, *other, *slow, *methods], "3", always=("m4", "m5"))
  assert sorted(i.nodeid for i in (*keep, *left)) == sorted(i.nodeid for i in (*laws, *other, *slow, *methods))
  assert [i for i in keep if i in other] == other
  assert {i.nodeid for i in keep if i in laws} == sampling.drawn(CASES, "3")
  files = [i.path.stem for i in keep if i in slow]
  assert len(files) == 4, "what is slow of two files in sixteen"
  assert len(set(files)) == 2, "all of a file or nothing"
  names = [i.callspec.params["name"] for i in keep if i in methods]
  assert {"m4", "m5"} <= set(names)
  assert all(names.count(name) == 2 for name in names), "all tests of a method or none"


def test_what_is_listed_is_there():
  found = {
    f"{path.stem}::{node.name}"
    for path in HERE.rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef)
  }
  assert sampling.SAMPLED - {sampling.CONTRACT} <= found
