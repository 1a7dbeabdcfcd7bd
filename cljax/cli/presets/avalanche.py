"""Settings of the baselines in Avalanche as configurations, as far as MNIST and two cores go.

Source: ContinualAI/continual-learning-baselines at the commit that each row names (``experiments/*_mnist/*.py``); what
its strategies compute was read in Avalanche 0.6 (``training/plugins``). It publishes one number for a setting, rounded
to two digits. Left out, and why: ``gem`` (a gradient over 1,000 rows of each of up to 16 tasks at each of 102,000
steps), ``lwf`` (coefficients that change with the task), ``gss`` (its insertion was not compared with ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cljax.cli.presets.made import CLASSES, LABELS, Made, sections

SOURCE = "ContinualAI/continual-learning-baselines@"
# Of the paper that a strategy follows its table has another number; ours stands beside what its code gave.
_BY_CLASS = {"kind": "class", **CLASSES, **LABELS, "appended": (), "per_seed": True}
_BY_TASK = {"kind": "task", **CLASSES, "class_order": tuple(range(10)), "appended": (), "per_seed": False}
_PERMUTED = {"kind": "permuted", "per_seed": True}
_SCALED = "pixels from 0 to 1; there standardised by MNIST's mean and deviation"
_INITIAL = "initial weights: He's variance from a cut normal; there uniform, a third of that variance"
_HELD = "all training rows; there 5 % are held out"
_FEW = "the same 1,000 rows in each task, and as many test rows; there each task draws its own, and tests on all"


def _si(theirs: Mapping[str, Any]) -> dict[str, Any]:
  # Half their lambda stands before Omega and the squared way.
  strength = 0.5 * theirs["si_lambda"]
  return {"name": "si", "strength": strength, "damping": float(theirs["si_eps"]), "decoupled": False}


def configuration(row: Mapping[str, str], theirs: Mapping[str, Any]) -> Made | None:
  """A row of the table as a configuration; None where it is another protocol's or not offered here."""
  if not row["config_source"].startswith(SOURCE):
    return None
  capacity = int(row["buffer"] or 0)
  replay = {"capacity": capacity, "replay_batch": int(row["replay_batch"] or 0), "insert": "every_pass"}
  scenario = row["benchmark"], row["scenario"]
  by_class, by_task = ("split_mnist", "class-il"), ("split_mnist", "task-il")
  permuted, shared = ("permuted_mnist", "domain-il"), (_SCALED, _INITIAL)
  clipped = "each entry of Omega is at most 0.001 there"
  match row["method"]:
    case "gdumb" if scenario == by_class:
      method = {
        "name": "gdumb", "capacity": capacity, "learning_rate": float(row["lr"]), "passes": int(row["epochs"]),
        "batch_size": int(row["batch"]), "cut_mix": False,
      }  # fmt: skip
      made = sections(row, _BY_CLASS, method, hidden=(400, 400))
      made["train"]["epochs"] = 1  # of the stream, which trains nothing
      more: tuple[str, ...] = ("momentum 0.9 and rates by warm restarts, as the paper; there plain SGD at one rate",)
    case "online_replay" if scenario == by_class:
      method = {"name": "er", **replay, "policy": "class_balanced"}
      made = sections(row, {**_BY_CLASS, "per_seed": False}, method, hidden=(512,), dropout=0.5)
      more = (_HELD,)
    case "mir" if scenario in (by_class, permuted):
      method = {
        "name": "mir", "beta": 1.0, "virtual_rate": float(row["lr"]), "candidates": int(theirs["subsample"]),
        "among": "all", "against": "now", **replay, "policy": "class_balanced",
      }  # fmt: skip
      tasks = 1 if scenario == permuted else int(row["tasks"])
      stream = {**(_PERMUTED if scenario == permuted else _BY_CLASS), "rows": int(theirs["dataset_size"]) * tasks}
      made = sections(row, stream, method, hidden=(400,), dropout=0.5)
      drawn = _FEW if scenario == permuted else "tested on 5,000 rows; there on all"
      more = (drawn, "candidates are of all classes; there of those that the last batch had not")
    case "si" if scenario == by_task:
      made = sections(row, _BY_TASK, _si(theirs), hidden=(256, 256))
      more = (clipped,)
    case "si" if scenario == permuted:
      made = sections(row, _PERMUTED, _si(theirs), hidden=(1000,))
      more = (clipped,)
    case "rwalk" if scenario == by_task:
      method = {
        "name": "rwalk", "strength": float(theirs["ewc_lambda"]), "decay": float(theirs["ewc_alpha"]), "damping": 1e-8,
        "every": int(theirs["delta_t"]), "score": True, "decoupled": False,
      }  # fmt: skip
      made = sections(row, _BY_TASK, method, hidden=(256, 256))
      more = ("both parts are scaled from their least to their largest entry; there by the largest alone",)
    case "agem" if scenario == permuted:
      method = {
        "name": "agem", "capacity": int(theirs["patterns_per_exp"]) * int(row["tasks"]),
        "reference_batch": int(theirs["sample_size"]), "on": "gradient",
      }  # fmt: skip
      made = sections(row, _PERMUTED, method, hidden=(256, 256))
      more = ()
    case "ewc" if scenario == permuted:
      # Theirs pulls by 2 lambda F (theta - theta*), F the mean of squared gradients of a batch's mean loss.
      method = {
        "name": "ewc", "strength": 2.0 * theirs["ewc_lambda"], "decoupled": False, "fisher": "empirical",
        "fisher_batch_size": int(row["batch"]), "fisher_clip": 0.0,
      }  # fmt: skip
      made = sections(row, _PERMUTED, method, hidden=(512,))
      more = ("F is taken over 4,096 rows; there over all",)
    case _:
      return None
  benchmark = f"avalanche_{row['benchmark']}" + ("_task" if scenario == by_task else "")
  return Made(made, (*more, *shared), benchmark=benchmark, called="er" if row["method"] == "online_replay" else "")
