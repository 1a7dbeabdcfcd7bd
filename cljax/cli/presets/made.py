"""What a protocol makes of a row of the table, and the fields that all of them name alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Of a stream of any kind: all rows, in order, none held out, none kept in reserve.
STREAM: dict[str, Any] = {
  "task_fractions": (), "validation": 0.0, "active": "all", "seed": 0, "forget": "", "rows": 0, "order": (),
  "label_noise": (), "input_noise": (), "reserve_tasks": 0, "reserve_rows": 0,
}  # fmt: skip
# Of one with tasks of classes, beside that.
CLASSES: dict[str, Any] = {"classes_per_task": (2, 2, 2, 2, 2), "class_order": None, "reserve_classes": 0}
LABELS: dict[str, Any] = {"labelled": 0, "returning": 0.0}  # of kind 'class'


class Made(NamedTuple):
  """A configuration by section, and what it does otherwise than its source."""

  sections: dict[str, dict[str, Any]]
  differs: tuple[str, ...]
  called: str = ""  # the published name, where it is one of ours under some option
  benchmark: str = ""  # where the protocol is not that of others of the same data


def sections(
  row: Mapping[str, str], stream: Mapping[str, Any], method: Mapping[str, Any], *, hidden: Sequence[int],
  dropout: float = 0.0, rate: float | None = None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
  """The configuration of a row on MNIST with a perceptron of widths ``hidden``; ``rate`` in the place of the row's."""
  return {
    "data": {"name": "mnist"},
    "stream": {**STREAM, "tasks": int(row["tasks"]), **stream},
    "model": {"name": "mlp", "hidden": tuple(hidden), "activation": "relu", "dropout": dropout},
    "objective": {"name": "classification"},
    "method": dict(method),
    "optimizer": {
      "name": row["optimiser"], "learning_rate": float(row["lr"]) if rate is None else rate,
      "weight_decay": float(row["weight_decay"] or 0), "schedule": "constant", "warmup": 0.0, "reset_per_task": False,
      "schedule_over": "task",
    },
    "train": {
      "batch_size": int(row["batch"]), "epochs": int(row["epochs"]), "first_task_epochs": 0, "augment": "none",
      "boundary_limit": 4096, "patience": 0, "precision": "float32",
    },
    "eval": {"limit": 0},
  }  # fmt: skip
