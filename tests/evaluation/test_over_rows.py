"""Means over test rows in results and tables: against the raw log, and where rows were deleted."""

from __future__ import annotations

import numpy as np
import pytest
from made_sweeps import result as made

import cljax
from cljax import metrics, streams
from cljax.cli.sweeps import _units
from cljax.evaluation import results

OVER = ("acc_over_rows", "average_incremental_accuracy_over_rows")


def described(found, kind: str = "class", **more) -> dict:
  config = {"forget": {"name": ""}, "stream": {}, "data": {}}
  return results.describe(found, config=config, method="er", stream="blobs", kind=kind, seeds=[0, 1], **more)


def test_they_are_what_the_raw_log_says(make_blobs, small_model):
  """Tasks of 3 and 1 classes: 24 and 8 test rows."""
  stream = streams.build(make_blobs(), "class", tasks=2, classes_per_task=(3, 1))
  found = cljax.run(stream, small_model, seeds=2, training=cljax.Recipe(batch_size=16))
  assert found.evaluated_rows.tolist() == [[[24, 8]] * 3] * 2
  told = described(found)
  np.testing.assert_allclose(told["metrics"]["acc_over_rows"]["values"], metrics.row_weighted(found.log))
  first = (found.accuracy[:, 1, 0] + metrics.row_weighted(found.log)) / 2
  np.testing.assert_allclose(told["metrics"]["average_incremental_accuracy_over_rows"]["values"], first)
  assert set(OVER) <= set(results.rows(told)[0])
  assert "ACC over rows" in results.table([told], ["er"])
  assert "final accuracy over test rows" in results.summary(told)
  assert results.is_whole(told)
  assert not results.is_whole({**told, "evaluated_rows": told["evaluated_rows"][:1]})


def test_tasks_of_one_size_show_no_second_mean(class_stream, small_model):
  told = described(cljax.run(class_stream, small_model, seeds=2))
  assert told["metrics"]["acc_over_rows"]["values"] == pytest.approx(told["metrics"]["acc"]["values"])
  assert "over rows" not in results.table([told], ["er"])
  assert "over test rows" not in results.summary(told)


def test_rows_that_were_deleted_leave_the_mean(make_blobs, small_model):
  """Random labels are tested on the rows that are learned, so a request takes test rows too."""
  stream = streams.build(make_blobs(), "label_random", tasks=2, rows=40, order=(0, 1, 0), forget="2:ids=1000-1007")
  named = [int(np.isin(stream.dataset.train.id[rows], range(1000, 1008)).sum()) for rows in stream.train]
  found = cljax.run(stream, small_model, "finetune", forget="ssd", training=cljax.Recipe(batch_size=16))
  size = [len(rows) for rows in stream.test]
  left = [n - gone for n, gone in zip(size, named, strict=True)]
  assert found.evaluated_rows[0].tolist() == [size, size, size, left, left]
  assert sum(named) > 0


def test_results_of_before_and_of_now_are_joined():
  rng = np.random.default_rng(0)
  old, new = made("er", 0.8, seeds=(0,), rng=rng), made("er", 0.7, seeds=(1,), rng=rng)
  shape = np.shape(new["accuracy_matrix"])
  counted = {**new, "evaluated_rows": np.full(shape, 5).tolist()}
  assert "evaluated_rows" not in _units.merge(old, counted)
  assert (
    np.shape(_units.merge({**old, "evaluated_rows": np.full(shape, 4).tolist()}, counted)["evaluated_rows"])[0] == 2
  )
