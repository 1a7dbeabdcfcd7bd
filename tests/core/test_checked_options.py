"""The one check of options' values, of methods and of objectives."""

from __future__ import annotations

import math

import pytest

from cljax import methods, objectives
from cljax.core.options import Option, checked
from cljax.core.types import UsageError

ALLOWED = [
  (Option(0.5, 0), 1, 1.0),
  (Option(0.5, 0, above=True), 1e-9, 1e-9),
  (Option(0.5, 0, 1), 1.0, 1.0),
  (Option(3, 1), 1, 1),
  (Option("a", choices=("a", "b")), "b", "b"),
  (Option(False), True, True),
  (Option(""), "x", "x"),
  (Option(None), None, None),
  (Option(None), len, len),
]
REFUSED = [
  (Option(0.5, 0), -0.1, "o: got -0.1; expected a number of at least 0"),
  (Option(0.5, 0, above=True), 0, "o: got 0.0; expected a number above 0"),
  (Option(0.5, 0, 1), 1.5, "o: got 1.5; expected a number of at most 1"),
  (Option(0.5, 0, 1, below=True), 1.0, "o: got 1.0; expected a number below 1"),
  (Option(0.5), math.nan, "o: got nan; expected a number"),
  (Option(0.5), "x", "o: got 'x' of type str; expected float"),
  (Option(0.5), True, "o: got True of type bool; expected float"),
  (Option(3, 1), 0, "o: got 0; expected an integer of at least 1"),
  (Option(3, 1), 2.0, "o: got 2.0; expected an integer of at least 1"),
  (Option(3, 1), True, "o: got True; expected an integer of at least 1"),
  (Option(3), 2**31, "o: got 2147483648; expected an integer of at most 2147483647"),
  (Option("a", choices=("a", "b")), "c", "o: got 'c'; allowed: a, b"),
  (Option(False), 1, "o: got 1 of type int; expected bool"),
  (Option(None), 3, "o: got 3 of type int; expected a function"),
]


@pytest.mark.parametrize(("option", "value", "want"), ALLOWED)
def test_a_value_that_is_allowed_comes_in_the_option_s_type(option, value, want):
  found = checked("o", value, option)
  assert found == want
  assert type(found) is type(want)


@pytest.mark.parametrize(("option", "value", "text"), REFUSED)
def test_a_value_that_is_not_is_refused_in_one_line(option, value, text):
  with pytest.raises(UsageError) as error:
    checked("o", value, option)
  assert str(error.value) == text


def test_methods_and_objectives_ask_it_under_their_own_names():
  with pytest.raises(UsageError, match=r"^method\.strength: got -1\.0; expected a number of at least 0$"):
    methods.check_options("ewc", {"strength": -1.0})
  with pytest.raises(UsageError, match=r"^objective\.noise: got 0\.0; expected a number above 0$"):
    objectives.chosen("regression", {"noise": 0})
