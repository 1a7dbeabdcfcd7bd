"""The class orders that papers share, by name."""

import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.streams.class_orders import CLASS_ORDERS
from cljax.streams.rows import class_groups

NAMES = tuple(f"class{c}" for c in range(100))


def test_each_is_an_order_and_numpys_is_numpys():
  for order in CLASS_ORDERS.values():
    assert sorted(order.places) == list(range(100))
  drawn = np.random.RandomState(1993).permutation(100)
  assert CLASS_ORDERS["numpy_1993"].places == tuple(drawn)
  assert CLASS_ORDERS["icarl"].places[:5] == (87, 0, 52, 58, 44)


def test_a_name_alone_or_as_the_command_line_gives_it():
  for given in ("icarl", ["icarl"], ("icarl_1993",), list(CLASS_ORDERS["icarl"].places)):
    groups = class_groups(NAMES, 6, (50, 10, 10, 10, 10, 10), given)
    assert np.concatenate(groups).tolist() == list(CLASS_ORDERS["icarl"].places)
    assert [len(g) for g in groups] == [50, 10, 10, 10, 10, 10]


def test_a_class_of_that_name_and_data_of_other_sizes():
  assert [g.tolist() for g in class_groups(("icarl", "a"), 1, (), "icarl,a")] == [[0, 1]]
  assert [g.tolist() for g in class_groups(("a", "icarl"), 1, 1, ["icarl"])] == [[1]]
  with pytest.raises(UsageError, match=r"'icarl' orders the 100 classes of cifar100; the data have 4"):
    class_groups(NAMES[:4], 2, (), "icarl")
