"""Van de Ven and Tolias' split MNIST in three scenarios as configurations.

Source: "Generative replay with feedback connections as a general strategy for continual learning" (arXiv 1809.10635),
section 4 and table 3: 2,000 steps of Adam a task, a perceptron 400-400, 20 runs whose standard error is given; the
table of presets holds its root-20-fold. Left out: EWC, online EWC and SI, whose strengths the text does not say; LwF,
whose two terms are weighed by the number of tasks; replay by generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cljax.cli.presets.made import CLASSES, LABELS, Made, sections

SOURCE = "van de Ven and Tolias 2018"
_METHODS = {"none": "finetune", "offline": "cumulative"}
_SCENARIOS = {"task-il": ("task", "task"), "domain-il": ("domain", "all"), "class-il": ("class", "seen")}
_DIFFERS = (
  "whole passes, as many as come nearest to 2,000 steps",
  "initial weights: He's variance from a cut normal; there uniform, a third of that variance",
)


def configuration(row: Mapping[str, str], theirs: Mapping[str, Any]) -> Made | None:
  """A row of the table as a configuration; None where it is another protocol's or not offered here."""
  del theirs
  if not row["config_source"].startswith(SOURCE) or row["method"] not in _METHODS:
    return None
  kind, active = _SCENARIOS[row["scenario"]]
  labels = LABELS if kind == "class" else {}
  stream = {"kind": kind, **CLASSES, **labels, "appended": (), "per_seed": True, "active": active}
  made = sections(row, stream, {"name": _METHODS[row["method"]]}, hidden=(400, 400))
  return Made(made, _DIFFERS, benchmark=f"van_de_ven_{kind}")
