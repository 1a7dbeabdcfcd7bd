"""What a comparison measures beside the rest, where the request or a flag asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import cljax
from cljax import data, engine, methods
from cljax.cli import _config, _workdir
from cljax.cli.unlearning._job import Job, prepared
from cljax.evaluation import authors_evidence, downstream, evidence, group_evidence
from cljax.metrics import unlearning as metrics


class More(NamedTuple):
  """``rows(Sides) -> Sides`` with what it measures on; ``measure(ours, reference, rows, setup) -> {metric: [S]}``, of
  which ``setup`` is that of ``ours``."""

  headings: dict
  rows: Callable
  measure: Callable
  note: Callable  # rows -> what the columns are


def of(job: Job, stream, original) -> list[More]:
  """All that is asked for of one request; ``original`` is how the models that learned all are set up."""
  found: list[More] = []
  learned = original.parts.objective
  if authors_evidence.asked(stream):
    found.append(_of_authors(job, stream, original))
  if group_evidence.asked(job.request, stream) and learned.classes:
    found.append(
      More(
        group_evidence.HEADINGS,
        lambda rows: rows,
        lambda ours, reference, rows, setup: group_evidence.measure(ours, reference, rows, job.request, stream),
        lambda rows: group_evidence.NOTE,
      )
    )
  for asked in ("downstream", "tradeoff"):
    if getattr(job, asked) and not learned.classes:
      raise cljax.UsageError(f"{asked}: needs classes, which the objective {learned.name!r} does not have")
  if job.downstream:
    other = None
    if job.downstream != downstream.REST:
      data_dir = _data_section(job)["data_dir"] or None
      other = _config.labelled("downstream", lambda: data.load(job.downstream, data_dir=data_dir))
    found.append(
      More(
        downstream.HEADINGS,
        lambda rows: downstream.with_downstream(rows, stream, other),
        lambda ours, reference, rows, setup: downstream.measure(ours, reference, rows),
        downstream.note,
      )
    )
  return found


def _data_section(job: Job):
  """What the configuration says of the data."""
  config, _ = _config.Points([], {}, {}, {}).resolve(
    job.file, [*job.overrides, _config.Override("forget.name", job.methods[0])], asked=True
  )
  return config["data"]


def _of_authors(job: Job, stream, original) -> More:
  told = {k: v for k, v in _data_section(job).items() if k not in ("name", "data_dir")}
  asked = authors_evidence.probes(stream, job.request, told)
  retrained: list = []  # of the models that all are compared with

  def measure(ours, reference, rows, setup):
    del rows
    if not retrained:
      retrained.append(authors_evidence.known(original, reference.params, reference.model_state, asked))
    own = authors_evidence.known(setup, ours.params, ours.model_state, asked)
    return authors_evidence.measure(own, retrained[0])

  counts = {side: len(facts) for side, facts in asked.facts.items()}
  return More(
    authors_evidence.HEADINGS, lambda rows: rows, measure, lambda rows: authors_evidence.NOTE.format(**counts)
  )


TRADEOFF = {"tradeoff_retain": "AUC forget-retain", "tradeoff_test": "AUC forget-test"}
TRADEOFF_NOTE = (
  "AUC: area under the accuracy on rows to keep (and on test rows) over 1 - FA, through the original model and "
  "{count} checkpoints of a method's steps; not divided by the range of FA."
)


def tell_untraded(job: Job, own_way: Sequence[str]) -> None:
  """One line on the methods that have no trade-off AUC; ``own_way``: those that do not start from the originals."""
  without = [n for n in job.methods if n not in own_way and "steps" not in methods.lookup(n).options]
  kinds = ((without, "without steps"), (own_way, "trained their own way"))
  told = "; ".join(f"{', '.join(names)} {what}" for names, what in kinds if names)
  if told:
    job.report(f"tradeoff: no AUC of {told}")


def tradeoff(job: Job, name: str, built, stream, seeds, trained, original, last, rows, answers) -> dict:
  """``{metric of TRADEOFF: [S]}`` of a method with ``steps``: the same edit after shares of them; {} without.

  ``original`` and ``last`` are what the models say before and after all steps; ``answers(setup, learner, rows)``.
  """
  option = methods.lookup(name).options.get("steps")
  whole = built.arguments["forget_hyper"].get("steps", option.default) if option is not None else 0
  parts = sorted({round(whole * k / job.tradeoff) for k in range(1, job.tradeoff)} - {0, whole})
  if not whole:
    return {}
  points = [original]
  for steps in parts:
    own = built._replace(
      arguments={**built.arguments, "forget_hyper": {**built.arguments["forget_hyper"], "steps": steps}},
      identity={**built.identity, "steps of the edit": steps},
    )
    made = prepared(own, stream, seeds)
    folder = job.workdir / "methods" / _workdir.in_path(name) / "tradeoff" / str(steps)
    result = made.run(str(folder), stop=job.stop, start=engine.continued(made, trained))
    points.append(answers(made.setup, result.learner, rows))
  points.append(last)
  count = len(job.seeds)
  right = lambda side: np.stack([metrics.accuracy(p.logits[side][:count], rows.y[side]) for p in points])
  gone = right("forget")
  return {f"tradeoff_{side}": metrics.tradeoff_auc(gone, right(side)) for side in evidence.SIDES[1:]}
