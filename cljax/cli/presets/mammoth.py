"""Mammoth's settings as configurations: its MNIST benchmarks, and its names of options by ours.

Source: aimagelab/mammoth at the commit that each row names (``utils/best_args.py``, the settings of Buzzega et al.,
NeurIPS 2020); the meaning of options was read in ``models/*.py`` of that commit. What cannot be said in our options
stands in ``differs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

SOURCE = "aimagelab/mammoth@"

_STREAM = {
  "task_fractions": (), "validation": 0.0, "active": "all", "seed": 0, "forget": "", "rows": 0, "order": (),
  "label_noise": (), "input_noise": (), "reserve_tasks": 0, "reserve_rows": 0, "per_seed": False,
}  # fmt: skip
# numpy.random.default_rng(0).uniform(0, 180, 20), in that order: as the peer draws them, but once for all seeds.
_ANGLES = (
  114.65, 48.56, 7.38, 2.97, 146.39, 164.3, 109.19, 131.31, 97.85, 168.31,
  146.85, 0.49, 154.33, 6.05, 131.34, 31.62, 155.37, 97.46, 53.95, 76.08,
)  # fmt: skip
_BENCHMARKS: dict[str, dict[str, Any]] = {
  "permuted_mnist": {"kind": "permuted", **_STREAM},
  "rotated_mnist": {"kind": "rotated", "angles": _ANGLES, **_STREAM},
  "split_mnist": {
    "kind": "class", "classes_per_task": (2, 2, 2, 2, 2), "class_order": None, "reserve_classes": 0, "appended": (),
    **_STREAM,
  },
}  # fmt: skip
_BACKBONE = "mlp 784-100-100-10"
_BATCHED_FISHER = {
  "decoupled": False, "fisher": "empirical", "fisher_batch_size": 64, "fisher_clip": 0.0, "merge": "sum",
}  # fmt: skip

_INITIAL = "initial weights: He's variance from a cut normal; there Xavier's uniform"
_DRAWN = {
  "permuted_mnist": "all seeds share one set of permutations; there each run draws its own",
  "rotated_mnist": "all seeds share one set of angles, and pixels are interpolated; there each run draws its own, and "
  "takes the nearest pixel",
  "split_mnist": "",
}


class Made(NamedTuple):
  """A configuration by section, and what it does otherwise than its source."""

  sections: dict[str, dict[str, Any]]
  differs: tuple[str, ...]


def _method(row: Mapping[str, str], theirs: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]] | None:
  """``(the method's section, what differs)``; None for a method that is not here, or not the same."""
  capacity = int(row["buffer"]) if row["buffer"] else 0
  batch = int(row["replay_batch"]) if row["replay_batch"] else 0
  replay = {"capacity": capacity, "policy": "reservoir", "replay_batch": min(batch, capacity), "insert": "every_pass"}
  match row["method"]:
    case "sgd":
      return {"name": "finetune"}, ()
    case "er":
      return {"name": "er", **replay}, ()
    case "derpp":
      return {"name": "derpp", "alpha": float(theirs["alpha"]), "beta": float(theirs["beta"]), **replay}, ()
    case "agem":
      section = {"name": "agem", "capacity": capacity, "reference_batch": min(batch, capacity), "on": "gradient"}
      return section, ("the memory holds an even share of each past task; there a reservoir of one batch a task",)
    case "gem":
      # Its eps, 1e-3 on the diagonal, is our ridge; its gamma bounds the dual variables as our margin does.
      margin = float(theirs["gamma"])
      return {"name": "gem", "margin": margin, "ridge": 1e-3, "capacity": capacity, "on": "gradient"}, ()
    case "si":
      # Both pull by 2 c Omega (theta - theta*).
      section = {"name": "si", "strength": float(theirs["c"]), "damping": float(theirs["xi"]), "decoupled": False}
      return section, ("there each entry of the gradient is cut to [-1, 1]",)
    case "ewc_on":
      # Theirs pulls by 2 e_lambda F (theta - theta*), ours by strength F (theta - theta*).
      section = {"name": "online_ewc", "strength": 2.0 * theirs["e_lambda"], "decay": float(theirs["gamma"])}
      return {**section, **_BATCHED_FISHER}, (
        "F is the mean of squared gradients over 4,096 rows; there over all rows, each weighed by the probability of "
        "its label",
      )
  return None


def configuration(row: Mapping[str, str], theirs: Mapping[str, Any]) -> Made | None:
  """A row of the table as a configuration; None where it is another protocol's or not offered here."""
  stream = _BENCHMARKS.get(row["benchmark"])
  if stream is None or not row["config_source"].startswith(SOURCE) or row["backbone"] != _BACKBONE:
    return None
  plain = row["optimiser"] == "sgd" and not float(row["momentum"] or 0)
  found = _method(row, theirs) if plain else None
  if found is None:
    return None
  method, differs = found
  sections = {
    "data": {"name": "mnist"},
    "stream": {**stream, "tasks": int(row["tasks"])},
    "model": {"name": "mlp", "hidden": (100, 100), "activation": "relu", "dropout": 0.0},
    "objective": {"name": "classification"},
    "method": method,
    "optimizer": {
      "name": "sgd", "learning_rate": float(row["lr"]), "weight_decay": float(row["weight_decay"] or 0),
      "schedule": "constant", "warmup": 0.0, "reset_per_task": False, "schedule_over": "task",
    },
    "train": {
      "batch_size": int(row["batch"]), "epochs": int(row["epochs"]), "first_task_epochs": 0, "augment": "none",
      "boundary_limit": 4096, "patience": 0, "precision": "float32",
    },
    "eval": {"limit": 0},
  }  # fmt: skip
  shared = tuple(text for text in (_DRAWN[row["benchmark"]], _INITIAL) if text)
  return Made(sections, (*differs, *shared))
