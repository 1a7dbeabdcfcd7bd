"""Streams over real targets: by group and by view; what is drawn is drawn by group."""

import numpy as np
import pytest

from cljax import data, streams
from cljax.core.types import Forget, UsageError
from cljax.streams.build import KINDS
from cljax.streams.rows import balanced

SIZES = (30, 20, 10)


@pytest.fixture(scope="module")
def real():
  rng = np.random.default_rng(0)
  group = np.repeat(np.arange(3), SIZES)
  part = lambda s: {f"x_{s}": rng.random((60, 4)), f"y_{s}": rng.random((60, 2)), f"group_{s}": group}
  return data.arrays.from_arrays("real", part("train") | part("test"))


def test_a_task_is_a_group_and_holds_out_its_share(real):
  s = streams.build(real, "group", tasks=3, validation=0.2)
  for t, size in enumerate(SIZES):
    assert (len(s.train[t]), len(s.validation[t]), len(s.test[t])) == (size * 0.8, size * 0.2, size)
    assert set(real.train.group[[*s.train[t], *s.validation[t]]]) == {t}
  assert s.num_classes == 2, "outputs of the model: the targets of a row"
  assert s.labels.shape == (3, 1)
  few = streams.build(real, "group", tasks=3, validation=0.0, task_fractions=(0.5, 1.0, 0.1), order=(2, 0, 1, 2))
  assert [len(r) for r in few.train] == [15, 20, 1]


@pytest.mark.parametrize("kind", ["permuted", "rotated"])
def test_kinds_that_change_inputs_alone(kind):
  rng = np.random.default_rng(1)
  made = data.arrays.from_arrays("real", {"x": rng.random((20, 4, 4, 1)), "y": rng.random(20)})
  s = streams.build(made, kind, tasks=2, validation=0.0)
  assert s.num_classes == 1
  assert all(len(r) == len(made.train.y) for r in s.train)


def test_some_rows_are_any_rows():
  """Not those of the smallest targets, which balancing by class would take."""
  y = np.arange(1000) / 1000
  rows = balanced(y, 200, 0)
  assert len(np.unique(rows)) == 200
  assert abs(y[rows].mean() - 0.5) < 0.06
  assert len(balanced(np.zeros((50, 2)), 10, 0)) == 10


def test_requests_name_ids_groups_and_tasks(real):
  s = streams.build(real, "group", tasks=3, validation=0.0, forget="2:ids=0-4; 3:group=1")
  assert [len(e.ids) for e in s.events if isinstance(e, Forget)] == [5, 0]
  assert not streams.requests.forgotten_classes(s, len(s.events)).any()
  with pytest.raises(UsageError, match="class= needs classes, which the data do not have; give ids=, task= or group="):
    streams.build(real, "group", tasks=3, forget="2:class=1")


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"group", "instance", "permuted", "rotated"}))
def test_kinds_that_need_classes_are_refused(kind, real):
  with pytest.raises(UsageError, match=f"stream.kind: '{kind}' needs classes, which the data do not have; allowed: gr"):
    streams.build(real, kind, tasks=2)
