"""Which retraining is meant: the same steps on thinner batches, or the passes over the rows that are left."""

from __future__ import annotations

import numpy as np
import pytest

import cljax
from cljax import engine, streams
from cljax.engine import schedule
from cljax.evaluation import evidence

MOST = "class=1 + ids=1000-1016"  # of the first task, most rows
TRAINING = cljax.Recipe(batch_size=8, epochs=2, schedule_over="stream")


def prepared(stream, model, schedule=None, **more):
  given = {
    "training": TRAINING,
    "options": cljax.Options(chunk_steps=2),
    "optimizer": "momentum",
    "optimizer_options": {"schedule": "cosine"},
  }
  answer = {} if schedule is None else {"forget": "retrain", "forget_hyper": {"schedule": schedule}}
  return engine.prepare(stream, model, "finetune", **answer, **{**given, **more})


@pytest.fixture(scope="module", params=[f"2:{MOST}", "2:ids=1003,1005 + class=2 + class=3"], ids=["most", "a task"])
def asked(request, dataset):
  """The stream with a request behind two tasks, and the same as if the rows had never been there."""
  stream = streams.build(dataset, "class", tasks=2, validation=0, forget=request.param)
  gone = streams.resolve_pairs(stream.events[-1], stream)
  return stream, evidence.without_rows(stream, gone)


def test_by_epochs_it_is_the_run_without_the_rows(asked, small_model):
  stream, without = asked
  steps = []
  note = lambda m: steps.append(m["step"]) if m["kind"] == "replay" and m["step"] == m["steps"] else None
  made = prepared(stream, small_model, "epochs")
  by_epochs, plain = made.run(report=note), prepared(without, small_model).run()
  assert by_epochs.params_sha256 == plain.params_sha256
  assert sum(steps) == plain.steps < made.setup.total_steps
  assert plain.steps == schedule.total_steps(without, "current", TRAINING)


def test_by_steps_it_is_as_long_as_it_was_and_another_model(asked, small_model):
  stream, _ = asked
  by_steps, default = (prepared(stream, small_model, s).run() for s in ("steps", "epochs"))
  plain = prepared(stream, small_model, forget="retrain").run()
  assert by_steps.params_sha256 == plain.params_sha256 != default.params_sha256
  assert by_steps.steps == plain.steps


def test_a_replay_by_epochs_goes_on_where_it_was_stopped(asked, small_model, tmp_path):
  made, result, starts = prepared(asked[0], small_model, "epochs"), None, 0
  whole = made.run()
  while result is None:
    met = []
    note = lambda message, met=met: met.append(message) if message["kind"] == "replay" else None
    try:
      result = made.run(str(tmp_path), report=note, stop=lambda met=met: bool(met))
    except cljax.Stopped:
      starts += 1
  assert starts > 2
  assert result.params_sha256 == whole.params_sha256
  assert np.isfinite(result.accuracy).all()


def test_another_schedule_is_refused(dataset, small_model):
  stream = streams.build(dataset, "class", tasks=2, validation=0, forget="2:class=1")
  with pytest.raises(cljax.UsageError, match="schedule: got 'passes'; allowed: steps, epochs"):
    prepared(stream, small_model, "passes")
