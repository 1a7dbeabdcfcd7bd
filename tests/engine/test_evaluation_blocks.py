"""Evaluation cut into blocks: rows that can be put in order are sliced, others gathered, with the same counts."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cljax
from cljax import models, streams
from cljax.engine import programs
from cljax.evaluation import results


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 5), st.booleans())
def test_blocks_cover_each_slot_once(sizes, block, shared):
  rng = np.random.default_rng(len(sizes))
  rows = rng.permutation(50)
  parts = np.split(rows[: sum(sizes)], np.cumsum(sizes)[:-1])
  slots = [(t, parts[0] if shared else part) for t, part in enumerate(parts)]
  order, moved = programs.in_order(slots)
  assert order is not None
  assert len(order) == len(np.unique(np.concatenate([r for _, r in slots])))
  data = np.concatenate([order, np.full(max(0, block - len(order)), -1)])
  made = programs.blocks(moved, block, length=40, ordered=len(data))
  for s, (t, expected) in enumerate(slots):
    mine = [i for i in range(int(made.count)) if made.slot[i] == s]
    assert all(made.task[i] == t for i in mine)
    assert all(0 <= made.index[i] <= len(data) - block for i in mine)
    cut = [data[made.index[i] : made.index[i] + block][made.weight[i] > 0] for i in mine]
    np.testing.assert_array_equal(np.concatenate(cut), expected)
  np.testing.assert_array_equal(made.totals, [len(r) for _, r in slots])


def test_slots_that_overlap_in_part_have_no_order():
  slots = [(0, np.array([4, 1, 2])), (1, np.array([2, 5])), (2, np.array([4, 2]))]
  order, same = programs.in_order(slots)
  assert order is None
  assert same is slots


@pytest.mark.parametrize("overlap", [False, True])
def test_accuracies_are_those_of_predict(dataset, overlap):
  stream = streams.build(dataset, "class", tasks=2, validation=0.0)
  if overlap:
    first, second = stream.test
    stream = stream._replace(test=(first, np.concatenate([second[3:], first[::2]])))
  model = models.mlp(stream.dataset.test.x.shape[1:], stream.num_classes, hidden=(8,))
  run = cljax.run(stream, model, options=cljax.Options(eval_block=16), training=cljax.Recipe(epochs=1))
  test = stream.dataset.test
  for task, rows in enumerate(stream.test):
    logits = run.predict(test.x[rows], task=task)
    share = np.mean(np.argmax(jax.device_get(logits), -1) == stream.labels[task, test.y[rows]])
    assert run.accuracy[0, -1, task] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("per_seed", [False, True])
def test_tasks_ahead_are_left_out_on_request(make_blobs, small_model, per_seed):
  """All other entries are the same bits; of the metrics only forward transfer is missed."""
  stream = streams.build(make_blobs(), "class", tasks=2, validation=0.125, per_seed=per_seed)
  whole, few = (
    cljax.run(stream, small_model, seeds=2, training=cljax.Recipe(batch_size=16), options=cljax.Options(eval_ahead=a))
    for a in (True, False)
  )
  ahead = np.asarray([[True, True], [False, True], [False, False]])
  for field in ("accuracy", "task_accuracy", "validation"):
    np.testing.assert_array_equal(getattr(few, field), np.where(ahead, np.nan, getattr(whole, field)))
  np.testing.assert_array_equal(few.evaluated_rows, np.where(ahead, 0, whole.evaluated_rows))
  assert few.params_sha256 == whole.params_sha256
  assert few.log is None
  assert few.compilations["evaluate"] == 1
  found, known = (results.matrix_metrics(r.accuracy, r.events, counts=r.evaluated_rows) for r in (few, whole))
  assert found.pop("fwt")["mean"] is None
  assert known.pop("fwt")["mean"] is not None
  assert found == known
