"""A longer stream goes on with a run to the bits of the one that had all tasks from its start, or says why not."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import cljax
from cljax import data, models, streams
from cljax.core.types import Forget, Learn
from cljax.engine import restore

TRAINING = cljax.Recipe(batch_size=8, epochs=1)
MODEL = models.mlp((4, 4, 1), 6, hidden=(4,))


@pytest.fixture(scope="module")
def stream(make_blobs):
  blobs = make_blobs(classes=6)
  return lambda tasks, **more: streams.build(blobs, tasks=tasks, classes_per_task=2, validation=0.125, **more)


@pytest.fixture(scope="module")
def run():
  return lambda stream, method, hyper=None, **more: cljax.run(stream, MODEL, method, hyper, training=TRAINING, **more)


def same(a, b):
  assert a.params_sha256 == b.params_sha256
  assert np.array_equal(a.validation, b.validation)
  assert np.array_equal(a.accuracy, b.accuracy, equal_nan=True)
  assert a.events == b.events
  assert a.steps == b.steps


# Without arrays for each task; with such arrays, in the method's state and in parameters; and by name of the options.
GOES_ON = {"finetune": {}, "si": {}, "lwf": {}, "supsup": {}}


@pytest.mark.parametrize("method", GOES_ON)
def test_extended_is_at_once(method, stream, run, tmp_path):
  first = run(stream(2), method, workdir=str(tmp_path))
  whole = run(stream(3), method)
  same(run(stream(3), method, workdir=str(tmp_path), extend=True), whole)
  same(run(stream(3), method, workdir=str(tmp_path)), whole)
  of_result = run(stream(3), method, learner=first)
  assert of_result.params_sha256 == whole.params_sha256
  there = ~np.isnan(of_result.accuracy)
  assert np.array_equal(of_result.accuracy[there], whole.accuracy[there])
  assert (~there).sum() == 1, "the new task, after the first event: that learner is gone"


def test_a_run_that_began_from_a_result_is_extended_too(stream, run, tmp_path):
  first = run(stream(2), "si")
  run(stream(3), "si", learner=first, workdir=str(tmp_path))
  longer = stream(3, order=(0, 1, 2, 0))
  with pytest.raises(cljax.UsageError, match="more than its events: begun"):
    run(longer, "si", workdir=str(tmp_path), extend=True)
  found = run(longer, "si", learner=first, workdir=str(tmp_path), extend=True)
  assert found.params_sha256 == run(longer, "si").params_sha256


REFUSED = [
  ("joint", {}, {}, "trains on the rows of every task from its first step on"),
  ("gem", {"capacity": 13}, {}, "made for 2 tasks, which become 3; train it anew with stream.reserve_tasks=3"),
  ("finetune", {}, {"optimizer_options": {"schedule": "linear"},
                    "training": TRAINING._replace(schedule_over="stream")}, "schedule_over='stream' spreads"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "hyper", "more", "text"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_must_know_the_tasks_ahead_is_refused(method, hyper, more, text, stream):
  model = models.mlp((4, 4, 1), 6, hidden=(4,))
  given = {"training": TRAINING, **more}
  first = cljax.run(stream(2), model, method, hyper, **given)
  with pytest.raises(cljax.UsageError, match=text) as error:
    cljax.run(stream(3), model, method, hyper, learner=first, **given)
  assert "\n" not in str(error.value)


def test_room_for_tasks_to_come(stream, run):
  first = run(stream(2, reserve_tasks=3), "gem", {"capacity": 12})
  whole = run(stream(3, reserve_tasks=3), "gem", {"capacity": 12})
  assert run(stream(3, reserve_tasks=3), "gem", {"capacity": 12}, learner=first).params_sha256 == whole.params_sha256
  assert whole.params_sha256 == run(stream(3), "gem", {"capacity": 12}).params_sha256


def test_room_for_larger_tasks_to_come(stream, run):
  """A method that counts the rows of the largest task, and one that counts the tasks, on tasks that grow."""
  small = lambda tasks, **more: stream(tasks, task_fractions=(0.5, 0.5, 1.0)[:tasks], **more)
  natural = "ema", {"capacity": 12}  # its early steps are those of one pass
  with pytest.raises(cljax.UsageError, match="reserve_rows=") as error:
    run(small(3), *natural, learner=run(small(2), *natural))
  largest = max(map(len, small(3).train))
  assert f"made for {max(map(len, small(2).train))} rows in its largest task, which grow to {largest};" in str(
    error.value
  )
  room = {"reserve_rows": largest}
  whole = run(small(3, **room), *natural)
  assert run(small(3, **room), *natural, learner=run(small(2, **room), *natural)).params_sha256 == whole.params_sha256
  assert whole.params_sha256 == run(small(3), *natural).params_sha256
  with pytest.raises(
    cljax.UsageError, match=r"2 tasks, which become 3; train it anew with stream.reserve_tasks=3, and"
  ):
    run(small(3), "gem", {"capacity": 12}, learner=run(small(2), "gem", {"capacity": 12}))


def test_room_and_a_request_that_was_answered_by_retraining(stream, run, tmp_path):
  """gem goes on behind it where it has room for the tasks."""
  asked = lambda tasks: stream(tasks, reserve_tasks=3)._replace(
    events=(Learn(0), Learn(1), Forget(ids=(1003, 1004, 1005)), Learn(2))[: tasks + 1]
  )
  given = {"hyper": {"capacity": 12}, "answers": {2: "retrain"}}
  run(stream(2, reserve_tasks=3), "gem", given["hyper"], workdir=str(tmp_path))
  run(asked(2), "gem", **given, workdir=str(tmp_path), extend=True)
  found, whole = run(asked(3), "gem", **given, workdir=str(tmp_path), extend=True), run(asked(3), "gem", **given)
  assert found.params_sha256 == whole.params_sha256


def grown(tmp_path, classes: int):
  """A data set in a file, of more classes than it had; rows are appended."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(6, 20, 4, 4, 1)).astype(np.float32)
  y = np.repeat(np.arange(6), 20).reshape(6, 20)
  part = lambda a, rows: np.concatenate([a[c][rows] for c in range(classes)])
  path = tmp_path / f"{classes}.npz"
  np.savez(path, x_train=part(x, slice(0, 15)), y_train=part(y, slice(0, 15)), x_test=part(x, slice(15, 20)),
           y_test=part(y, slice(15, 20)))  # fmt: skip
  return data.load(f"npz:{path}")


def test_new_classes_of_new_data_where_the_head_was_sized_for_them(tmp_path, run):
  build = lambda classes, tasks, **more: streams.build(
    grown(tmp_path, classes), tasks=tasks, classes_per_task=2, validation=0.2, **more
  )
  first = build(4, 2, reserve_classes=6)
  run(first, "er", {"capacity": 9}, workdir=str(tmp_path / "run"))
  longer = build(6, 3, appended=60)
  with pytest.raises(cljax.UsageError, match="appended=60 where rows were appended"):
    run(build(6, 3), "er", {"capacity": 9}, workdir=str(tmp_path / "run"), extend=True)
  gone_on = run(longer, "er", {"capacity": 9}, workdir=str(tmp_path / "run"), extend=True)
  same(gone_on, run(longer, "er", {"capacity": 9}))
  model = models.mlp((4, 4, 1), 4, hidden=(4,))
  cljax.run(build(4, 2), model, training=TRAINING, workdir=str(tmp_path / "narrow"))
  with pytest.raises(cljax.UsageError, match="num_classes 4, the given stream 6; begin"):
    run(longer, "finetune", workdir=str(tmp_path / "narrow"), extend=True)


def test_answers_by_event(stream, run):
  """Each of three requests is answered by its own method, as three runs do it one after the other."""
  base = stream(2)
  asked = [Forget(ids=(1001, 1003, 1010)), Forget(classes=("class1",))]
  with_events = lambda *more: base._replace(events=(Learn(0), Learn(1), *more))
  first = run(with_events(), "er", {"capacity": 9})
  second = run(with_events(asked[0]), "er", {"capacity": 9}, forget="graddiff", learner=first)
  third = run(with_events(*asked), "er", {"capacity": 9}, forget="ssd", learner=second)
  both = run(with_events(*asked), "er", {"capacity": 9}, answers={2: "graddiff", 3: ("ssd", {})})
  assert third.params_sha256 == both.params_sha256
  assert [f["event"] for f in both.forgotten] == [2, 3]
  with pytest.raises(cljax.UsageError, match=r"the stream's Forget events are \[2\]"):
    run(with_events(asked[0]), "er", answers={1: "ssd"})


def test_the_history_of_an_extended_run_has_all_its_stages(stream, run, tmp_path):
  """Where arrays grew: the old places as they were, those of the new task as a fresh learner has them."""
  run(stream(2), "supsup", workdir=str(tmp_path))
  short = restore.history(tmp_path, stream=stream(2), model=MODEL, method="supsup", training=TRAINING)
  before = [short.read(n)[0] for n in short.numbers]
  run(stream(3), "supsup", workdir=str(tmp_path), extend=True)
  found = restore.history(tmp_path, stream=stream(3), model=MODEL, method="supsup", training=TRAINING)
  assert found.numbers == [1, 2, 3]
  learners = [found.read(n) for n in found.numbers]
  assert [position["event"] for _, position in learners] == [1, 2, 3]
  grew = 0
  for old, (learner, _) in zip(before, learners, strict=False):
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(learner), strict=True):
      if a.shape == b.shape:
        assert bool((a == b).all())
      else:
        assert np.array_equal(a, b[:, : a.shape[1]])
        assert b.shape[1] == 3
        grew += 1
  assert grew
  assert found.parts(jax.tree.map(lambda a: a[0], found.values)).predict is not None
