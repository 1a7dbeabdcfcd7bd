"""How often the marks of an unlearning table are false, and how often they miss: on normal numbers, a table of 13.

``python -m experiments.mark_rates`` prints the table of ``docs/deletion.md``.
"""

from __future__ import annotations

import numpy as np
from absl import app

from cljax.evaluation import evidence

NUMBERS, TABLES, SHIFTS = 13, 1000, (1, 2, 3, 5)


def named(values):
  return {str(n): v for n, v in enumerate(values)}


def rate(rng, seeds: int, shift: float) -> float:
  """The share of tables with any mark where nothing differs (``shift`` 0), else with one on the number that does, whose
  mean lies ``shift`` standard deviations of a member off."""
  found = 0
  for _ in range(TABLES):
    ours, floor = rng.normal(size=(2, NUMBERS, seeds))
    ours[0] += shift
    marks = evidence.outside_noise_floor(named(ours), named(floor))
    found += "0" in marks if shift else bool(marks)
  return found / TABLES


def main(argv) -> None:
  del argv
  rng = np.random.default_rng(0)
  print("| seeds | any mark where nothing differs |" + "".join(f" {s} sd off |" for s in SHIFTS))
  print("| --- " * (len(SHIFTS) + 2) + "|")
  for seeds in (3, 5, 10, 20):
    cells = "".join(f" {100 * rate(rng, seeds, s):.0f} % |" for s in (0, *SHIFTS))
    print(f"| {seeds} |{cells}")


if __name__ == "__main__":
  app.run(main)
