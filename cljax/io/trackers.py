"""TensorBoard event files and Weights & Biases as writers, through their own libraries, imported when one is opened."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from cljax.core.types import UsageError
from cljax.io.files import Writer, dumps

KNOWN = ("tensorboard", "wandb")


def run_id(*identity: Any) -> str:
  """A name for a run that outlives resumes: the digest of what the workdir belongs to (JSON-like values)."""
  return hashlib.sha256(dumps(list(identity), sort_keys=True).encode()).hexdigest()[:16]


def scalars(row: Mapping[str, Any], members: Sequence[str]) -> dict[str, float]:
  """The numbers of one message of :func:`cljax.run`, by tag, accuracies as fractions (or the main score, as it is);
  none for other messages.

  ``train/loss`` and ``train/steps_per_second`` of a chunk; ``test/task_<i>`` (mean over members) and
  ``test/all_tasks/<member>`` of evaluations inside events; the same below ``after_event/`` and
  ``validation_after_event/`` of those at their end, of another score below ``after_event/NAME/``, and of what
  evaluators said below ``after_event/NAME/METRIC/``. NaN and infinity stay out, as no library draws them.
  """
  kind = row["kind"]
  out: dict[str, Any] = {}
  if kind == "chunk":
    out["train/loss"] = row["loss"]
    if row["seconds_per_step"]:
      out["train/steps_per_second"] = 1 / row["seconds_per_step"]
  elif kind == "curve":
    out |= _accuracies("test", row["accuracy"], members)
  elif kind == "event":
    out |= _accuracies("after_event", row["test"], members)
    for name, values in row.get("scores", {}).items():
      out |= _accuracies(f"after_event/{name}", values["test"], members)
    for name, found in row.get("evaluations", {}).items():
      for metric, values in found.items():
        out |= _accuracies(f"after_event/{name}/{metric}", values, members)
    if "validation" in row:
      out |= _accuracies("validation_after_event", row["validation"], members)
  return {k: float(v) for k, v in out.items() if v is not None and np.isfinite(v)}


def _accuracies(place: str, accuracy, members: Sequence[str]) -> dict[str, float]:
  """``accuracy [S][T]``."""
  values = np.asarray(accuracy, np.float64)
  by_task = {f"{place}/task_{t}": v for t, v in enumerate(values.mean(0))}
  return by_task | {f"{place}/all_tasks/{m}": v for m, v in zip(members, values.mean(1), strict=True)}


class TensorBoard:
  """Event files in ``folder``, the step being the optimizer steps since the run began.

  After ``{"kind": "resumed", "total": n}`` whatever an earlier process wrote beyond step n is purged, by the mark that
  TensorBoard knows; without it the run began anew, and everything is.
  """

  def __init__(self, folder, members: Sequence[str]):
    try:
      import tensorboardX
    except ImportError:
      raise UsageError("log_to: tensorboard needs tensorboardX; expected pip install 'cljax[tensorboard]'") from None
    # Named by nanoseconds: by seconds alone, a run resumed at once would overwrite its own file.
    self._open = lambda purge: tensorboardX.SummaryWriter(
      str(folder), purge_step=purge, filename_suffix=f".{time.time_ns()}"
    )
    self._members = list(members)
    self._purge = 0
    self._writer: Any = None

  def write(self, row: Mapping[str, Any]) -> None:
    if row["kind"] == "resumed":
      self._purge = row["total"] + 1
      return
    found = scalars(row, self._members)
    if found and self._writer is None:
      self._writer = self._open(self._purge)
    for tag, value in found.items():
      self._writer.add_scalar(tag.replace("=", "_").replace(" ", "_"), value, row["total"])
    if found:
      self._writer.flush()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()
      self._writer = None


class WeightsAndBiases:
  """A run of Weights & Biases named by ``identity``, so that a resumed run goes on in the same place.

  ``WANDB_MODE``, ``WANDB_PROJECT`` (default ``cljax``), ``WANDB_ENTITY`` and the rest are wandb's own. A run resumed
  from before the last row that was logged repeats some steps: wandb keeps the first, and both are equal to the bit.
  """

  def __init__(self, folder, members: Sequence[str], identity: str, name: str, config: Mapping[str, Any]):
    try:
      import wandb
    except ImportError:
      raise UsageError("log_to: wandb is not installed; expected pip install 'cljax[wandb]'") from None
    project = os.environ.get("WANDB_PROJECT", "cljax")
    self._start = lambda: wandb.init(
      project=project, id=identity, resume="allow", name=name, config=dict(config), dir=str(folder)
    )
    self._folder = epath.Path(folder)
    self._members = list(members)
    self._run: Any = None
    self._step = -1

  def write(self, row: Mapping[str, Any]) -> None:
    found = scalars(row, self._members)
    if not found:
      return
    if self._run is None:
      self._folder.mkdir(parents=True, exist_ok=True)
      self._run = self._start()
      self._step = self._run.step - 1  # where an earlier process came to, if wandb knows it
    if row["total"] >= self._step:
      self._step = row["total"]
      self._run.log(found, step=row["total"])

  def close(self) -> None:
    if self._run is not None:
      self._run.finish()
      self._run = None


def check(names: Sequence[str]) -> list[str]:
  """The names without repeats; raises UsageError for an unknown one."""
  unknown = [n for n in names if n not in KNOWN]
  if unknown:
    raise UsageError(f"log_to: got {unknown[0]!r}; expected some of {', '.join(KNOWN)}")
  return list(dict.fromkeys(names))


def open_writers(
  names: Sequence[str], folder, *, members: Sequence[str], identity: Any, name: str, config: Mapping[str, Any]
) -> list[Writer]:
  """The writers asked for, with their files in ``folder``; nothing is written before the first row.

  ``members``: a name for each member of the population; ``identity``: what :func:`run_id` is made of; ``name`` and
  ``config``: what people see. Raises UsageError for an unknown name and for a library that is not there.
  """
  made: list[Writer] = []
  for which in check(names):
    if which == "tensorboard":
      made.append(TensorBoard(epath.Path(folder) / "tensorboard", members))
    else:
      made.append(WeightsAndBiases(epath.Path(folder) / "wandb", members, run_id(identity), name, config))
  return made
