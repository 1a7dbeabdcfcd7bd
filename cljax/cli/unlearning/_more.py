"""What a comparison measures beside the rest, where the request or a flag asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cljax
from cljax import data
from cljax.cli import _config
from cljax.cli.unlearning._job import Job
from cljax.evaluation import downstream, group_evidence


class More(NamedTuple):
  """``rows(Sides) -> Sides`` with what it measures on; ``measure(ours, reference, rows) -> {metric: [S]}``."""

  headings: dict
  rows: Callable
  measure: Callable
  note: Callable  # rows -> what the columns are


def of(job: Job, stream, learned) -> list[More]:
  """All that is asked for of one request; ``learned`` is the objective."""
  found: list[More] = []
  if group_evidence.asked(job.request, stream) and learned.classes:
    found.append(
      More(
        group_evidence.HEADINGS,
        lambda rows: rows,
        lambda ours, reference, rows: group_evidence.measure(ours, reference, rows, job.request, stream),
        lambda rows: group_evidence.NOTE,
      )
    )
  if job.downstream:
    if not learned.classes:
      raise cljax.UsageError(f"downstream: needs classes, which the objective {learned.name!r} does not have")
    other = None
    if job.downstream != downstream.REST:
      config, _ = _config.Points([], {}, {}, {}).resolve(
        job.file, [*job.overrides, _config.Override("forget.name", job.methods[0])], asked=True
      )
      data_dir = config["data"]["data_dir"] or None
      other = _config.labelled("downstream", lambda: data.load(job.downstream, data_dir=data_dir))
    found.append(
      More(
        downstream.HEADINGS,
        lambda rows: downstream.with_downstream(rows, stream, other),
        downstream.measure,
        downstream.note,
      )
    )
  return found
