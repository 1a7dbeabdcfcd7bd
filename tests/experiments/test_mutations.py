"""The mutants themselves, and what is made of their outcomes, on a made-up module with made-up tests."""

import ast
import builtins
import json
import os
import signal
import textwrap

import numpy as np
import pytest

from experiments import _isolated, _mutants, mutations
from experiments import _mutations_table as table


def made(source, file="made.py"):
  source = textwrap.dedent(source)
  body = ast.parse(source).body
  return source, _mutants.mutants(source, file, [(n.name, n) for n in body if isinstance(n, ast.FunctionDef)])


CASES = [
  ("flipped sign", "def f(a, b):\n  return a - b\n", (5, 3), [8]),
  ("flipped sign", "def f(a):\n  return -a\n", (5,), [5]),
  ("dropped term", "def f(a, b):\n  return a + b\n", (5, 3), [5, 3]),
  ("removed coefficient", "def f(a, b):\n  return a * b\n", (5, 3), [5, 3]),
  ("swapped coefficient", "def f(a, b):\n  return a / b\n", (6, 3), [18]),
  ("swapped coefficient", "def f(x, *, rate=1.0):\n  return pow(x, rate)\n", (3,), [9]),
  ("swapped coefficient", "def f(x, rate=1.0):\n  return pow(x, rate)\n", (3,), [9]),
  ("opposite", "def f(a):\n  return sum(x for x in a)\n", ((5, 3),), [5]),
  ("removed weight", "def f(a, weight):\n  return a * weight\n", (5, 3), [5]),
  ("mean for sum", "def f(a):\n  return a.mean()\n", (np.array([1, 2]),), [3]),
  ("wrong axis", "def f(a):\n  return a.sum(0)[0]\n", (np.array([[1, 2], [3, 4]]),), [3]),
  ("wrong axis", "def f(a):\n  return np.max(a, axis=-1)[0]\n", (np.array([[1, 2], [3, 4]]),), [3]),
  ("removed stop_gradient", "def f(a):\n  return stop_gradient(a)\n", (5,), [5]),
  ("removed mask", "def f(m, a):\n  return np.where(m, a, 0)\n", (False, 5), [5]),
  ("removed mask", "def f(a, b):\n  return a & b\n", (1, 3), [1, 3]),
  ("swapped branches", "def f(m, a):\n  return np.where(m, a, 0)\n", (False, 5), [5]),
  ("boundary", "def f(a, b):\n  return a < b\n", (3, 3), [True]),
  ("boundary", "def f(a):\n  return sum(a[:-1])\n", ([1, 2, 4],), [7]),
  ("condition", "def f(a, b):\n  return a < b\n", (1, 3), [False]),
  ("condition", "def f(a, b):\n  if a == b:\n    return 1\n  return 2\n", (1, 3), [1]),
  ("opposite", "def f(a, b):\n  return max(a, b)\n", (5, 3), [3]),
  ("removed function", "def f(a):\n  return np.square(a)\n", (5,), [5]),
  ("swapped arguments", "def f(a, b):\n  return pow(a, b)\n", (2, 3), [9]),
  ("state not updated", "def f(total, a):\n  total = total + a\n  return total\n", (1, 2), [1]),
  ("state not updated", "def f(total, a):\n  total += a\n  return total\n", (1, 2), [1]),
  ("update before read", "def f(n):\n  seen = n\n  n = n + 1\n  return seen\n", (1,), [2]),
]


@pytest.mark.parametrize(("operator", "source", "given", "expected"), CASES)
def test_an_operator_makes_what_it_says(operator, source, given, expected, monkeypatch):
  ran = []
  monkeypatch.setattr(builtins, "mutant_ran", lambda: ran.append(1), raising=False)
  _, found = made(source)
  results = []
  for mutant in [m for m in found if m.operator == operator]:
    space = {"np": np, "stop_gradient": lambda a: a + 100}
    exec(_mutants.applied(mutant, source), space)
    assert not ran  # a definition is no execution
    results.append(space["f"](*given))
    assert len(ran) == 1
    ran.clear()
  assert results == expected


def test_methods_and_states_lose_their_parts():
  _, found = made("""
    def f(learner, strength):
      def end(key, learner):
        return learner._replace(a=key, b=2)
      return Method(penalty=strength, end_task=end)
  """)
  changes = {(m.operator, m.new) for m in found}
  assert changes == {
    ("state not updated", "learner"),
    ("state not updated", "learner._replace(a=key)"),
    ("state not updated", "learner._replace(b=2)"),
    ("dropped part", "Method(end_task=end)"),
    ("dropped part", "Method(penalty=strength)"),
  }
  assert {m.function for m in found} == {"f", "f.end"}


def test_what_can_not_matter_is_left_alone():
  _, found = made('''
    def f(x: Array[1 + 1], rate: float = 1 + 2) -> Array[2 - 1]:
      """Gives a - b."""
      check("rate", rate, rate > 0)
      if x.ndim > 1 and rate < 0:
        given = len(x) + 1
        raise UsageError("x: " + str(x.ndim - 1))
      x = as_rows("x", x)
      logging.info("%d rows", len(x) - 1)
      x, rate = x.astype(wide(x.dtype)), float(rate)
      return x.astype(wide(x.dtype) if x.ndim > 2 else None).reshape(x.shape[0] * 2, -1)

    def check_all(x):
      if x > 1:
        raise ValueError(x - 1)
  ''')
  assert found == []


def test_no_line_moves_and_text_beside_a_mutant_stays():
  source, found = made("""
    def f(é, b,
          c):
      # a comment
      total = (é +
               b)  # another
      state = g(
        total)
      total = total * (
        2 - c)
      return "ü", total, state
  """)
  assert len(found) > 5
  for mutant in found:
    text = _mutants.applied(mutant, source)
    ast.parse(text)
    old, new = source.splitlines(), text.splitlines()
    assert len(old) == len(new)
    changed = [i + 1 for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    assert mutant.line in changed
    if mutant.operator != "update before read":
      assert set(changed) <= set(range(mutant.lines[0], mutant.lines[1] + 1))


MODULE = textwrap.dedent("""
  def scaled(x, rate):
    return rate * x + unread(0)

  def unread(x):
    return 0 if x == 0 else x - 1

  late = unread
""")
TESTS = """
  import made

  def test_scaled():
    assert made.scaled(3, 1) == 3

  def test_stronger():
    assert made.scaled(3, 2) == 6
"""


@pytest.fixture
def tree(tmp_path):
  root = tmp_path / "tree"
  root.mkdir()
  (root / "made.py").write_text(MODULE)
  (root / "test_made.py").write_text(textwrap.dedent(TESTS))
  return root


@pytest.fixture
def run(tree):
  with _isolated.pool(2, tree, ("pytest", "coverage")) as results:
    yield results


def subject(tree, *tests, stamp="1"):
  _, found = made((tree / "made.py").read_text())
  return table.Subject("loss scaled", stamp, tuple(f"test_made.py::{t}" for t in tests), tuple(found), ("scaled",))


def outcomes(tree, run, store, *tests):
  mine = subject(tree, *tests, stamp=" ".join(tests))
  mutations.baselines([mine], store, run)
  rows = list(mutations.mutate([(mine, m) for m in mine.candidates], store, run, tree))
  return mine, {(r["old"], r["new"]): (r["outcome"], r["by"].rpartition("::")[2]) for r in rows}


def test_killed_survived_and_inactive_are_told_apart(tree, run, tmp_path):
  store = table.Store(tmp_path / "results")
  _, weak = outcomes(tree, run, store, "test_scaled")
  _, strong = outcomes(tree, run, store, "test_scaled", "test_stronger")
  assert weak["rate * x", "x"] == ("survived", "")
  assert strong["rate * x", "x"] == ("killed", "test_stronger")
  assert weak["rate * x", "rate"] == strong["rate * x", "rate"] == ("killed", "test_scaled")
  # Which branch was taken only the mark can tell: its line was entered.
  assert strong["x - 1", "x"] == ("inactive", "")
  assert strong["x == 0", "x != 0"] == ("killed", "test_scaled")


def test_lines_that_no_test_enters_are_counted_and_not_run(tree, run, tmp_path):
  (tree / "made.py").write_text((tree / "made.py").read_text().replace("+ unread(0)", ""))
  store = table.Store(tmp_path / "results")
  mine = subject(tree, "test_scaled")
  mutations.baselines([mine], store, run)
  assert {m.function for m in mutations.drawn(mine, store, 99, "0")} == {"scaled"}
  lines = table.summary(mine, store, [])
  assert lines["unreached"] == sum(m.function == "unread" for m in mine.candidates) > 0


def test_tests_that_fail_unmutated_make_no_mutant(tree, run, tmp_path):
  (tree / "test_made.py").write_text("import made\n\ndef test_scaled():\n  assert made.scaled(3, 1) == 4\n")
  store = table.Store(tmp_path / "results")
  mine = subject(tree, "test_scaled")
  mutations.baselines([mine], store, run)
  assert "do not pass (failed)" in table.summary(mine, store, [])["note"]
  assert mutations.drawn(mine, store, 99, "0") == []


def test_a_failure_before_the_mutant_ran_is_void(tree, run, tmp_path, capsys):
  store = table.Store(tmp_path / "results")
  mine = subject(tree, "test_scaled")
  mutations.baselines([mine], store, run)
  (tree / "test_made.py").write_text("import made\n\ndef test_scaled():\n  assert False\n")
  assert mutations.whole([mine], store, run, 2, 0, "c", True, tree) == 2
  assert "the mutant had not run" in capsys.readouterr().out
  assert table.summary(mine, store, [])["made"] == 0


def test_what_has_run_under_the_same_code_is_kept(tree, run, tmp_path, capsys):
  folder = tmp_path / "results"
  mine = subject(tree, "test_scaled")
  assert mutations.whole([mine], table.Store(folder), run, 2, 0, "c", True, tree) == 0
  assert "2 mutants to run" in capsys.readouterr().out
  first = (folder / "mutants.jsonl").read_text()
  mutations.whole([mine], table.Store(folder), run, 3, 0, "c", True, tree)
  assert "1 mutants to run" in capsys.readouterr().out
  assert set(first.splitlines()) < set((folder / "mutants.jsonl").read_text().splitlines())
  assert len(json.loads((folder / "table.json").read_text())) == 1
  mutations.whole([mine._replace(stamp="2")], table.Store(folder), run, 2, 0, "c", True, tree)
  assert "2 mutants to run" in capsys.readouterr().out
  assert not set(first.splitlines()) & set((folder / "mutants.jsonl").read_text().splitlines())


def test_an_equivalent_stays_so_through_edits_elsewhere(tree, run, tmp_path):
  store = table.Store(tmp_path / "results")
  mine, found = outcomes(tree, run, store, "test_scaled")
  assert found["rate * x", "x"] == ("survived", "")
  mutant = next(m for m in mine.candidates if (m.old, m.new) == ("rate * x", "x"))
  known = [{k: getattr(mutant, k) for k in ("function", "statement", "old", "new")} | {"reason": "made up"}]
  edited = "# more\n" + MODULE.replace("return rate", "# first\n  rate = rate + 0\n  return rate")
  _, after = made(edited)
  same = [m for m in after if table.reason(known, "loss scaled", m)]
  assert [m.key for m in same] == [mutant.key]
  assert same[0].line != mutant.line
  _, other = made(MODULE.replace("+ unread(0)", "- unread(0)"))
  assert not any(table.reason(known, "loss scaled", m) for m in other)
  only = [{**known[0], "entries": ["loss other"]}]
  assert not any(table.reason(only, "loss scaled", m) for m in after)


def test_a_sample_fails_on_survivors_that_nobody_knows(tree, run, tmp_path, capsys):
  folder = tmp_path / "results"
  mine = subject(tree, "test_scaled")
  survivor = next(m for m in mine.candidates if (m.old, m.new) == ("rate * x", "x"))
  mine = mine._replace(candidates=(survivor,))
  store = table.Store(folder)
  mutations.baselines([mine], store, run)
  before = store.path.read_text()
  sample = lambda: mutations.sample([mine], table.Store(folder, keep=False), run, 60.0, 0, tree)
  assert sample() == 1
  assert "SURVIVED loss scaled" in capsys.readouterr().out
  assert store.path.read_text() == before
  mutations.whole([mine], store, run, 1, 0, "c", True, tree)
  assert sample() == 0  # the committed table holds it
  mine = mine._replace(stamp="2")
  assert sample() == 0  # and does so where something else was edited
  assert '"2"' not in store.path.read_text()


def test_isolated_tasks_tell_what_became_of_them(tree, run):
  (tree / "test_ends.py").write_text(
    textwrap.dedent("""
      import os, signal, subprocess, sys, time
      import pytest
      def test_hangs():
        time.sleep(600)
      def test_dies():
        os.kill(os.getpid(), signal.SIGSEGV)
      def test_skips():
        pytest.skip("no")
      @pytest.mark.xfail
      def test_expected():
        assert False
      def test_starts():
        subprocess.run([sys.executable, "-c", ""])
    """)
  )
  names = ("hangs", "dies", "skips", "expected", "starts", "missing")
  tasks = [_isolated.Task(n, (f"test_ends.py::test_{n}",), timeout=3 if n == "hangs" else 300) for n in names]
  found = {r.name: r for r in run(tasks)}
  outcome = {name: r.outcome for name, r in found.items()}
  assert outcome == {
    "hangs": "timeout", "dies": "crashed", "skips": "skipped", "expected": "skipped", "starts": "passed",
    "missing": "error",
  }  # fmt: skip
  assert str(-signal.SIGSEGV) in found["dies"].message
  assert found["expected"].tests == {"test_ends.py::test_expected": ("xfailed", pytest.approx(0, abs=9))}
  assert [found[n].started for n in ("skips", "starts")] == [0, 1]


def test_isolated_lines_are_of_the_tests_and_not_of_imports(tree, run):
  (result,) = run([_isolated.Task("a", ("test_made.py::test_scaled",), lines=True)])
  assert result.lines["made.py"] == [3, 6]  # neither the definitions nor the last assignment
  assert not os.path.exists(tree / ".hypothesis")
