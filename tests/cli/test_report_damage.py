"""A result with any one of its parts gone, or in another form, costs a note at most."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
from made_sweeps import result, write

from cljax.cli import report
from cljax.cli.reporting import _page


def broken():
  """``(what, result)``: each key of a result, and of its metrics, dropped, renamed, or put into another form."""
  whole = result("er", 0.5, rng=np.random.default_rng(3), validation=0.5)
  for group in ("", "metrics", "task_metrics", "validation_metrics"):
    for key in whole.get(group, () if group else whole):
      for change in ("dropped", "renamed", "a number", "a text", "a list", "nothing"):
        bad = copy.deepcopy(whole)
        at = bad[group] if group else bad
        old = at.pop(key)
        if change == "renamed":
          at[key + "_"] = old
        elif change != "dropped":
          at[key] = {"a number": 3, "a text": "x", "a list": [1], "nothing": None}[change]
        yield f"{group}/{key} {change}", bad


def test_any_part_gone_is_a_note_at_most(tmp_path):
  good = result("ewc", 0.4, rng=np.random.default_rng(4), validation=0.4)
  cases = list(broken())
  assert len(cases) > 150
  folder = write(tmp_path, [good])
  (folder / "runs" / "er-1").mkdir()
  for what, bad in cases:
    (folder / "runs" / "er-1" / "result.json").write_text(json.dumps(bad))
    built = report.build([folder], "", "validation")
    text = _page.plain(built)
    assert _page.page(built), what
    assert re.search(r"\bewc ", text), what
    assert re.search(r"\b(er|x) ", text) or any("left out" in n for n in built.notes), what
