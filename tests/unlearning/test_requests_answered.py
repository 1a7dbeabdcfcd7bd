"""Every row of a request is answered for: gone, gone before, held out, never met; and asked for twice is no error."""

from __future__ import annotations

import numpy as np
import pytest

import cljax
from cljax import engine, streams
from cljax.engine.device_rows import few_first
from cljax.evaluation import results
from cljax.io import ledger
from cljax.streams import fates

TRAINING = cljax.Recipe(batch_size=8, epochs=1)


@pytest.fixture(scope="module")
def stream(dataset):
  """Class 0 is forgotten; then two of its rows again, which are gone; then, with rows held out, all of class 1."""
  plain = streams.build(dataset, "class", tasks=2, validation=0.25)
  zero = [int(i) for i in dataset.train.id[plain.train[0]][dataset.train.y[plain.train[0]] == 0][:2]]
  asked = [(1, cljax.Forget(classes=("class0",))), (1, cljax.Forget(ids=tuple(zero))), (2, cljax.Forget(classes=(1,)))]
  return streams.build(dataset, "class", tasks=2, validation=0.25, forget=asked)


def prepared(stream, model, method="er", **more):
  hyper = {"capacity": 12} if method == "er" else {}
  options = {"training": TRAINING, "options": cljax.Options(chunk_steps=2), **more}
  return engine.prepare(stream, model, method, hyper, forget=method if method == "retrain" else "graddiff", **options)


@pytest.fixture(scope="module")
def ran(stream, small_model, tmp_path_factory):
  folder = tmp_path_factory.mktemp("ran")
  return prepared(stream, small_model).run(str(folder)), folder


def test_a_repeated_deletion_is_recorded_and_changes_nothing(ran, stream, small_model):
  result, folder = ran
  lines = ledger.read(folder)
  assert [line["rows"] for line in lines] == [18, 0, 18]
  assert [sorted(line["fates"]) for line in lines] == [["forgotten", "held out"], ["already gone"],
                                                       ["forgotten", "held out"]]  # fmt: skip
  assert [len(line["fates"]["already gone"]) for line in lines[1:2]] == [2]
  assert lines[1]["parameters_changed"] == {}
  assert lines[1]["status"] == "done"
  assert [line["after_tasks"] for line in lines] == [1, 1, 2]
  assert result.forgotten[1]["forget"] == [None]
  assert result.forgotten[1]["fates"] == {"already gone": 2}
  once = stream._replace(events=(*stream.events[:2], *stream.events[3:]))
  assert prepared(once, small_model).run().accuracy[0, -1].tolist() == result.accuracy[0, -1].tolist()


def test_a_repeated_deletion_does_not_end_a_replay(stream, small_model):
  result = prepared(stream, small_model, "retrain").run()
  assert [told["rows"] for told in result.forgotten] == [18, 0, 18]


def test_held_out_rows_that_are_named_are_evaluated_on_no_more(ran, stream, dataset, small_model):
  """Against accuracies over the rows that are left, by the final predictions."""
  result, folder = ran
  named = np.isin(dataset.train.y, (0, 1))
  assert result.validation.shape == (1, 6, 2)
  assert np.isfinite(result.validation[0, :5]).all()
  assert np.isnan(result.validation[0, 5, 0]), "both classes of the first task were deleted with what it held out"
  rows = stream.validation[1]
  assert not named[rows].any()
  right = np.argmax(np.asarray(result.predict(dataset.train.x[rows])), -1) == dataset.train.y[rows]
  assert result.validation[0, 5, 1] == pytest.approx(right.mean())
  assert all(ledger.is_deleted(folder, int(i)) is True for i in dataset.train.id[named])
  assert all(ledger.is_deleted(folder, int(i)) is False for i in dataset.train.id[~named])


def test_what_is_left_of_a_tasks_held_out_rows_still_counts(dataset, small_model):
  """Some of a task's held-out rows are named, alone and without any learned row: the others are judged on."""
  plain = streams.build(dataset, "class", tasks=2, validation=0.25)
  some = plain.validation[0][::2]
  asked = [(2, cljax.Forget(ids=tuple(int(i) for i in dataset.train.id[some])))]
  stream = streams.build(dataset, "class", tasks=2, validation=0.25, forget=asked)
  result = prepared(stream, small_model).run()
  left = plain.validation[0][~np.isin(plain.validation[0], some)]
  predicted = np.argmax(np.asarray(result.predict(dataset.train.x[left])), -1)
  assert result.validation[0, 3, 0] == pytest.approx((predicted == dataset.train.y[left]).mean())
  assert result.forgotten[0]["fates"] == {"held out": len(some)}


def test_a_test_row_that_is_a_deleted_training_row_is_judged_no_more(dataset, small_model):
  """``label_random`` tests on what it trains on; also inside a task that comes after, and of a few rows."""
  plain = streams.build(dataset, "label_random", tasks=2)
  some = tuple(int(i) for i in dataset.train.id[::3])
  stream = streams.build(dataset, "label_random", tasks=2, forget=[(1, cljax.Forget(ids=some))])
  options = cljax.Options(chunk_steps=2, eval_every=6, eval_limit=30)
  result = prepared(stream, small_model, options=options).run()
  left = np.flatnonzero(~np.isin(plain.dataset.test.id, some))
  predicted = np.argmax(np.asarray(result.predict(plain.dataset.test.x[left])), -1)
  for t in (0, 1):
    right = predicted == plain.labels[t][plain.dataset.test.y[left]]
    assert result.accuracy[0, -1, t] == pytest.approx(right.mean())
  seen = {c["event"]: np.asarray(c["accuracy"])[0, 0] for c in result.curves}  # of so many rows each is a share
  assert seen[0] * 30 == pytest.approx(round(seen[0] * 30), abs=1e-4)
  few = [r for r in few_first(plain.test[0], plain.dataset.test.y, 30)[:30] if r in left]
  assert 0 < len(few) < 30
  assert seen[2] * len(few) == pytest.approx(round(seen[2] * len(few)), abs=1e-4)
  whole = streams.build(dataset, "label_random", tasks=2, forget=[(1, cljax.Forget(tasks=(0,)))])
  result = prepared(whole, small_model).run()
  assert np.isnan(result.accuracy[0, 2:, 0]).all(), "no row is left to judge the first task on"
  assert np.isfinite(result.accuracy[0, :, 1]).all()
  assert results.matrix_metrics(result.accuracy, result.events)["acc"]["mean"] is None


def test_other_test_rows_of_the_same_ids_stay(dataset):
  """Ids of a test split may be those of other rows."""
  alike = dataset._replace(test=dataset.test._replace(id=dataset.train.id[: len(dataset.test.id)]))
  stream = streams.build(alike, "class", tasks=2, forget="1:class=0")
  assert not np.concatenate(fates.deleted_tests(stream, len(stream.events))).any()


def test_a_resumed_run_judges_on_the_rows_that_are_left(ran, stream, small_model, tmp_path):
  """Stopped behind the first request: what it evaluates after is what the run that was let be does."""
  met = []
  note = lambda message: met.append(message) if message.get("event") == 3 else None
  with pytest.raises(cljax.Stopped, match=r"stopped at .*task 1 \(event 3\)"):
    prepared(stream, small_model).run(str(tmp_path), report=note, stop=lambda: bool(met))
  again = prepared(stream, small_model).run(str(tmp_path))
  assert again.params_sha256 == ran[0].params_sha256
  np.testing.assert_array_equal(again.validation, ran[0].validation)
