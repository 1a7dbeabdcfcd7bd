"""One line that tells where a run stands; nothing where nobody watches."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cljax.evaluation import scores
from cljax.io.files import JsonLines, Writer


class Progress:
  """Draws messages of ``cljax.run`` on a terminal, rewriting one line; notes are printed wherever output goes."""

  def __init__(self, label: str, events: int, stream=None):
    self._out = stream or sys.stderr
    self._live = self._out.isatty()
    self._label, self._events = label, events
    self._score = ""
    self._task = 0  # newest task; earlier ones have been learned
    self._width = 0
    self._compiling()

  def _compiling(self) -> None:
    self._show(f"{self._label}  compiling")

  def __call__(self, message: Mapping[str, Any]) -> None:
    kind = message["kind"]
    if kind == "note":
      self.note(message["text"])
    elif kind == "resumed":
      self.note(f"resumed at event {message['event']}, step {message['total']}")
    elif kind == "event":
      self._seen(message["test"], message.get("score", scores.ACCURACY))
    elif kind == "curve":
      self._seen(message["accuracy"], message.get("score", scores.ACCURACY))
    elif kind in ("chunk", "replay"):
      if kind == "chunk":
        self._task = message["task"]
      self._show(self._line(message))

  def _seen(self, values, score: str) -> None:
    mean = float(np.asarray(values)[:, : self._task + 1].mean())
    self._score = f", {scores.label(score)} {scores.number(score, mean)}{scores.unit(score, ' ')}"

  def _line(self, m: Mapping[str, Any]) -> str:
    pace = m["seconds_per_step"]
    left = max(0, m["of"] - m["total"]) * pace
    share = min(1.0, m["total"] / max(1, m["of"]))
    bar = "#" * round(10 * share)
    doing = "retraining " if m["kind"] == "replay" else ""
    clock = time.strftime("%H:%M:%S", time.gmtime(left))
    # What matters most comes first: a narrow terminal cuts the end.
    return (
      f"{self._label} [{bar:<10}] {100 * share:.0f} % {clock} left, {doing}event {m['event'] + 1}/{self._events}"
      f"{self._score}, {1 / max(pace, 1e-9):,.0f} steps/s, step {m['step']}/{m['steps']}"
    )

  def note(self, text: str) -> None:
    """A line that stays."""
    self.clear()
    print(f"{self._label}  {text}", file=self._out, flush=True)

  def _show(self, text: str) -> None:
    if not self._live:
      return
    columns = max(20, shutil.get_terminal_size().columns - 1)
    text = text[:columns]
    print("\r" + text.ljust(self._width)[:columns], end="", file=self._out, flush=True)
    self._width = len(text)

  def clear(self) -> None:
    """Empties the line, so that what is printed next starts clean."""
    if self._live and self._width:
      print("\r" + " " * self._width + "\r", end="", file=self._out, flush=True)
      self._width = 0


class Log:
  """Writes messages to ``metrics.jsonl``: each evaluation, event and chunk once, however often the run is resumed.

  ``more`` writers get the same messages, and ``resumed`` as well.
  """

  def __init__(self, path, more: Sequence[Writer] = ()):
    self._writer = JsonLines(path)
    self._more = list(more)
    self._begun = False

  def __call__(self, message: Mapping[str, Any]) -> None:
    kind = message["kind"]
    if kind not in ("note", "replay"):
      for writer in self._more:
        writer.write(message)
    if kind == "resumed":
      self._writer.keep(lambda row: self._before(row, message))
      self._begun = True
      return
    if kind in ("note", "replay"):
      return
    if not self._begun:
      # A fresh start: rows of a run that was killed before its first checkpoint go.
      self._begun = True
      if self._writer.path.exists():
        self._writer.keep(lambda row: False)
    self._writer.write(message)

  def _before(self, row: Mapping[str, Any], resumed: Mapping[str, Any]) -> bool:
    """Whether a row tells of what came before a resumed place; what is no row of this file does not."""
    try:
      if row["kind"] == "diverged":
        return row["step"] < resumed["total"]
      return self._place(row) <= (resumed["event"], resumed["step"])
    except (KeyError, TypeError):
      return False

  @staticmethod
  def _place(row: Mapping[str, Any]) -> tuple[int, float]:
    """``(event, step)`` up to which a row tells; what comes with the end of an event stands after all its steps."""
    if row["kind"] == "event":
      return row["event"] + 1, 0
    return row["event"], row.get("step", 0)

  def close(self) -> None:
    for writer in (self._writer, *self._more):
      writer.close()
