"""How models are compared: by classes where the objective has them, else by row losses and the main score."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cljax.engine.setup import CompiledRun
from cljax.evaluation import evidence, evidence_more, evidence_of_scores, scores


class Lens(NamedTuple):
  """The functions of ``cljax.evaluation.evidence`` or ``evidence_of_scores``, called alike."""

  sides: Callable  # (stream, request) -> Sides
  answers: Callable  # (setup, learner, rows) -> Answers
  measure: Callable  # (ours, reference, original, rows, setup) -> {metric: [S]}
  population: Callable  # (ours, oracles, rows) -> {metric: number}
  chances: Callable  # (ours, oracles, rows) -> {metric of population: chance under retraining}
  margins: Callable  # (answers, rows) -> [S, N]
  sound: Callable  # answers -> [S] bool
  over_forgets: Callable  # (after, oracles, rows) -> bool
  headings: dict  # {metric: heading}
  stream_headings: dict  # the same for a stream of requests
  note: str  # what the columns are
  more: Callable | None = None  # (ours, reference, original, untrained, rows, setup) -> {metric of evidence_more: [S]}


OF_CLASSES = (
  "Gaps, ToW, distances and agreement are against the retrained models. FM and HR: training-free recovery of the "
  "forgotten labels. Relearn attack: accuracy on held-out forget rows after 20 steps on a twentieth of them, one at "
  "least."
)


def lens(original: CompiledRun) -> Lens:
  """The one for the objective that ``original`` was trained on; its model is that of plain training."""
  own, model = original.parts.objective, original.model
  shaped = lambda setup: setup.parts.method.model or model  # sisa's parameters are of a model of its own
  if own.classes:
    return Lens(
      evidence.sides,
      lambda setup, learner, rows: evidence.answers(setup, learner, rows, model),
      lambda ours, reference, before, rows, setup: evidence.measure(ours, reference, before, rows, shaped(setup)),
      evidence.population, evidence.chances, evidence.margins, evidence.sound, evidence.over_forgets,
      evidence.METRICS | evidence.ROW_METRICS,
      stream_headings("accuracy"),
      OF_CLASSES,
      lambda ours, reference, before, untrained, rows, setup: evidence_more.measure(
        ours, reference, before, untrained, rows, shaped(setup), model
      ),
    )  # fmt: skip
  of, name, better = evidence_of_scores, scores.label(own.main), own.scores[own.main].better
  return Lens(
    lambda stream, request: evidence.sides(stream, request, classes=False),
    of.answers, of.measure, of.population, of.chances, of.margins, of.sound,
    lambda after, oracles, rows: of.over_forgets(after, oracles, rows, better),
    of.headings(own.main) | of.ROW_METRICS,
    stream_headings(own.main),
    f"The score is {name}, of which {better} is better. The gap is its mean distance to the retrained models over "
    "forget, retain and test rows; the prediction distance a root mean square over forget rows. Attacks, margins and "
    "relearning look at row losses.",
  )  # fmt: skip


def stream_headings(main: str) -> dict[str, str]:
  unit, percent = scores.unit(main, " "), main == scores.ACCURACY
  name = scores.label(main)
  return {
    "forget_gap": f"forget gap{unit}", "retain_gap": f"retain gap{unit}", "test_gap": f"test gap{unit}",
    "forget_accuracy": "FA %" if percent else f"forget {name}",
    "retain_accuracy": "RA %" if percent else f"retain {name}",
    "final_accuracy": "ACC at the end %" if percent else f"{name} at the end",
  }  # fmt: skip
