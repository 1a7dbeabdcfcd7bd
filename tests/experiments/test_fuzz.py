"""Hostile flags and files: a bounded part of ``experiments.fuzz``, and that it sees what it is to see."""

from __future__ import annotations

import itertools
import json
import sys
import time

import numpy as np
import pytest

from cljax import UsageError
from experiments import _fuzz_files, fuzz

SEED, SECONDS = 7, 60  # a busy machine is no fault
EACH = {"flags": 60, "grids": 20, "requests": 60, "data": 20, "workdir": 24}


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_hostile_input_ends_well_or_in_one_line(kind):
  numbers = list(itertools.islice((n for n in itertools.count() if fuzz.kind_of(n) == kind), EACH[kind]))
  found: list[dict] = []
  counts = fuzz.run(SEED, numbers, SECONDS, found.append)
  assert counts[kind] == EACH[kind]
  assert not found, json.dumps(found, indent=1)


def test_an_input_is_the_same_whatever_came_before(tmp_path):
  for kind, (make, _) in fuzz.KINDS.items():
    if kind not in ("data", "workdir"):  # these name a folder of their own
      first, again = (make(np.random.default_rng([3, 5]), tmp_path)[0] for _ in range(2))
      assert first == again
  text = b'{"a": [1, {"b": 2}], "c": "d"}'
  for change in (_fuzz_files.damaged, _fuzz_files.damaged_json):
    results = [change(np.random.default_rng([1, n]), text) for n in range(200)]
    assert results == [change(np.random.default_rng([1, n]), text) for n in range(200)]
    assert len(set(results)) > 50


ENDINGS = {
  "well": (lambda: None, ""),
  "in one line": (lambda: (_ for _ in ()).throw(UsageError("x: got 1; expected 2")), ""),
  "without a word": (lambda: (_ for _ in ()).throw(UsageError("")), "UsageError without a word"),
  "in a traceback": (lambda: 1 // 0, "ZeroDivisionError: "),
  "in no memory": (lambda: (_ for _ in ()).throw(MemoryError("much")), "MemoryError: much"),
  "never": (lambda: time.sleep(60), "more than 0.2 s"),
}


@pytest.mark.parametrize(("call", "error"), ENDINGS.values(), ids=ENDINGS)
def test_what_ends_badly_is_seen(monkeypatch, call, error):
  monkeypatch.setattr(fuzz, "KINDS", {k: (lambda rng, folder: (["given"], call), 1) for k in fuzz.KINDS})
  found = fuzz.attempt(0, 0, 0.2)
  assert (found or {"error": ""})["error"].startswith(error)
  assert (found is None) == (error == "")


def test_it_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
  seen: list[int] = []

  def make(rng, folder):
    def call():
      seen.append(int(rng.integers(0, 2**40)))
      if len(seen) == 60:
        raise KeyboardInterrupt

    return ["given"], call

  monkeypatch.setattr(fuzz, "KINDS", {k: (make, 1) for k in fuzz.KINDS})
  monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *a: None)  # it would hold for the tests that follow
  monkeypatch.setattr(sys, "argv", ["fuzz", "--inputs=120", f"--out={tmp_path}"])
  with pytest.raises(KeyboardInterrupt):
    fuzz.main()
  assert fuzz.main() == 0
  assert sum(json.loads(capsys.readouterr().out.splitlines()[-1]).values()) == 120
  assert len(set(seen)) == 120, "those since the last note are done again"
  assert len(seen) == 130
