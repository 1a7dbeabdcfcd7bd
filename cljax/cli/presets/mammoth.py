"""Mammoth's settings as configurations: its MNIST benchmarks, and its names of options by ours.

Source: aimagelab/mammoth at the commit that each row names (``utils/best_args.py``, the settings of Buzzega et al.,
NeurIPS 2020); the meaning of options was read in ``models/*.py`` of that commit. What cannot be said in our options
stands in ``differs``. CLS-ER's repository is a fork of it, with settings of its own method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cljax.cli.presets.made import CLASSES, LABELS, Made, sections

SOURCES = ("aimagelab/mammoth@", "NeurAI-Lab/CLS-ER@")

_BENCHMARKS: dict[str, dict[str, Any]] = {
  # Each of its runs draws its own permutations and angles.
  "permuted_mnist": {"kind": "permuted", "per_seed": True},
  "rotated_mnist": {"kind": "rotated", "angles": (), "per_seed": True},
  "split_mnist": {"kind": "class", **CLASSES, **LABELS, "appended": (), "per_seed": False},
}  # fmt: skip
_BACKBONE = "mlp 784-100-100-10"
_BATCHED_FISHER = {
  "decoupled": False, "fisher": "empirical", "fisher_batch_size": 64, "fisher_clip": 0.0, "merge": "sum",
}  # fmt: skip

_INITIAL = "initial weights: He's variance from a cut normal; there Xavier's uniform"
_DRAWN = {
  "permuted_mnist": "",
  "rotated_mnist": "pixels are interpolated; there the nearest is taken",
  "split_mnist": "",
}


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
    case "der":
      return {"name": "derpp", "alpha": float(theirs["alpha"]), "beta": 0.0, **replay}, ()
    case "hal":
      section = {
        "name": "hal", "strength": float(theirs["hal_lambda"]), "rate": float(row["lr"]),
        "decay": float(theirs["beta"]), "closeness": float(theirs["gamma"]), "anchor_rate": float(row["lr"]),
        "anchor_steps": 100, "reduction": "mean", **replay, "policy": "ring",
      }  # fmt: skip
      return section, (
        "anchors begin normal, there uniform; theta_M is one pass over the memory, there one batch of it; the ring is "
        "of a task's classes, there of a task",
      )
    case "clser" if theirs["plastic_model_alpha"] == theirs["stable_model_alpha"]:
      section = {
        "name": "cls_er", "strength": float(theirs["reg_weight"]), "decay": float(theirs["stable_model_alpha"]),
        "plastic_rate": float(theirs["plastic_model_update_freq"]),
        "stable_rate": float(theirs["stable_model_update_freq"]), **replay,
      }  # fmt: skip
      return section, ()
    case "fdr":
      # Its code never reads its alpha.
      section = {"name": "fdr", "alpha": 1.0, "capacity": capacity, "replay_batch": replay["replay_batch"]}
      return section, ("both terms make one step; there the distance makes a second step of its own",)
    case "gss":
      section = {
        "name": "gss", "beta": 1.0, "threshold": 0.0, "memory_strength": 10, "leaves": "all",
        "capacity": capacity, "replay_batch": replay["replay_batch"], "insert": "every_pass",
      }  # fmt: skip
      return section, (
        "a row's gradient is compared with those of up to ten batches of stored rows; there with those of some rows",
        "the rate is halved, since the mean loss of the batch and that of the stored rows are added; there one mean is "
        "taken over both",
      )
    case "agem":
      section = {"name": "agem", "capacity": capacity, "reference_batch": min(batch, capacity), "on": "gradient"}
      return section, ("the memory holds an even share of each past task; there a reservoir of one batch a task",)
    case "gem":
      # Its eps, 1e-3 on the diagonal, is our ridge; its gamma bounds the dual variables as our margin does.
      section = {"name": "gem", "margin": float(theirs["gamma"]), "ridge": 1e-3, "capacity": capacity}
      return {**section, "on": "gradient", "constraints": "all"}, ()
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
  if stream is None or not row["config_source"].startswith(SOURCES) or row["backbone"] != _BACKBONE:
    return None
  plain = row["optimiser"] == "sgd" and not float(row["momentum"] or 0)
  found = _method(row, theirs) if plain else None
  if found is None:
    return None
  method, differs = found
  rate = float(row["lr"]) / (2.0 if method["name"] == "gss" else 1.0)
  made = sections(row, stream, method, hidden=(100, 100), rate=rate)
  shared = tuple(text for text in (_DRAWN[row["benchmark"]], _INITIAL) if text)
  return Made(made, (*differs, *shared), "der" if row["method"] == "der" else "")
