"""The sweep that is killed: its grid, and how its owners are counted; killing it takes minutes."""

from __future__ import annotations

import json

from cljax.cli import _config, _grid
from cljax.cli.sweeps import _plan
from experiments import killed_sweep


def test_the_grid_is_six_methods_of_four_strengths_in_six_programs():
  for argument, methods in (("", 6), (":ewc,derpp", 2)):
    file = _config.read_file(killed_sweep.__file__ + argument)
    runs = _plan.plan(file, [], _grid.points([], [], file.module))
    assert len(runs) == len({r.folder for r in runs}) == 4 * methods
    assert [len(g) for g in _plan.groups(runs)] == [4] * methods


def test_owners_are_counted(tmp_path):
  for name, ends in (("a", [None, "stopped", "finished"]), ("b", ["finished", "finished"])):
    (tmp_path / "groups" / name).mkdir(parents=True)
    for i, left in enumerate(ends):
      (tmp_path / "groups" / name / f"owner.{i + 1}.json").write_text(json.dumps({"left": left}))
  assert killed_sweep.owners(str(tmp_path)) == (2, 5, 2)
