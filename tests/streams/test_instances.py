"""Instance-incremental streams against their definition."""

import numpy as np
import pytest

from cljax import streams
from cljax.core.types import UsageError


def test_instance_rows_are_each_class_dealt_in_turn():
  """Row by row: classes in order, each shuffled by the seed's own generator, cards to the tasks one by one."""
  y = np.asarray([2, 0, 1, 0, 2, 2, 0, 1, 1, 0, 2])
  pool = np.asarray([0, 1, 2, 3, 4, 5, 6, 7, 9, 10])  # row 8 is held back
  rng, turn, want = np.random.default_rng(np.random.SeedSequence([7, 0x1257A])), 0, [[], [], []]
  for c in (0, 1, 2):
    for row in rng.permutation([i for i in pool if y[i] == c]):
      want[turn % 3].append(row)
      turn += 1
  for got, rows in zip(streams.instance_rows(y, pool, 3, 7), want, strict=True):
    np.testing.assert_array_equal(got, sorted(rows))
  with pytest.raises(UsageError, match=r"stream\.tasks: got 11; 10 training rows make at most as many tasks"):
    streams.instance_rows(y, pool, 11, 7)


def test_an_instance_stream_is_a_partition_with_every_class_in_every_task(dataset):
  """Of 24 rows a class, 3 held out: 7 a task; one label table, all test rows, and other parts for another seed."""
  stream = streams.build(dataset, "instance", tasks=3, validation=0.125, seed=1)
  y = dataset.train.y
  for t in range(3):
    assert np.bincount(y[stream.train[t]], minlength=4).min() >= 5
    np.testing.assert_array_equal(stream.test[t], np.arange(len(dataset.test.y)))
    np.testing.assert_array_equal(stream.labels[t], np.arange(4))
  everything = np.concatenate([*stream.train, *stream.validation])
  np.testing.assert_array_equal(np.sort(everything), np.arange(len(y)))
  assert not np.array_equal(streams.build(dataset, "instance", tasks=3, seed=2).train[0], stream.train[0])
  assert (stream.num_classes, stream.active, stream.task_id_given) == (4, "all", False)
