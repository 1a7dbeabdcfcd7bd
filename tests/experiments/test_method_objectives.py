"""The table of methods by objective: complete, without a breakage, and a seeded sample of its cells found again."""

import re

import numpy as np

from cljax import methods
from experiments import method_objectives as table

TEXT = table.PAGE.read_text()
LINES = re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT, re.M)
ROWS = {method: [cell.strip() for cell in cells.split(" | ")] for method, cells in LINES}

LACKS = ("takes no prompts", "convolutions; the model has none")


def test_every_method_stands_in_the_table_and_none_breaks():
  assert list(ROWS) == [n for n, e in methods.METHODS.items() if not n.startswith("test_")][: len(ROWS)]
  assert len(ROWS) >= 79
  assert not [m for m, cells in ROWS.items() if any(c.startswith("error") for c in cells)]
  for method, cells in ROWS.items():
    assert len(cells) == len(table.OBJECTIVES)
    lacks = "classes" in methods.METHODS[method].access.needs
    for objective, cell in zip(table.OBJECTIVES, cells, strict=True):
      if objective == "classification":
        # The table's rows are no pictures, and its network takes no prompts and has no convolutions.
        assert cell == "yes" or any(what in cell for what in ("pictures", *LACKS)), method
      elif any(what in cell for what in LACKS):
        continue
      elif lacks and objective != "adversarial":  # which has classes too
        assert cell == "needs classes", (method, objective)


def test_a_sample_of_the_cells_is_found_again():
  rng = np.random.default_rng(5)
  names = list(ROWS)
  for method in rng.choice(names, 8, replace=False).tolist():
    at = int(rng.integers(len(table.OBJECTIVES)))
    objective = table.OBJECTIVES[at]
    assert table.short(table.found(method, objective), method, objective) == ROWS[method][at], (method, objective)
