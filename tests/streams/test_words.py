"""Requests and options of any make: a stream, or one line of UsageError; nothing else."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

from cljax import streams
from cljax.core.types import Forget, UsageError

QUIET = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
WORDS = st.lists(
  st.sampled_from([*"0123456789,+&;:=#-'\"", "class", "ids", "task", "group", "class0", " ", "1000", "x", "\n", "²"]),
  max_size=12,
).map("".join)


def one_line_or(function):
  said = ""
  try:
    function()
  except UsageError as e:
    said = str(e)
  assert "\n" not in said
  assert len(said) < 1000


@QUIET
@given(text=WORDS, begun=st.sampled_from(["", "1:class=", "2:ids=", "1:task=0&class="]))
@example(text="0-99999999999", begun="1:ids=")
@example(text="'", begun="1:class=")
@example(text="''", begun="1:class=")
@example(text="²", begun="1:class=")
def test_any_text_is_a_request_or_refused(dataset, text, begun):
  one_line_or(lambda: streams.build(dataset, tasks=2, forget=begun + text))


SCALARS = st.one_of(
  st.none(), st.booleans(), st.integers(-3, 5), st.sampled_from([2**31, -(2**63), 10**30, 1000]),
  st.floats(allow_nan=True, allow_infinity=True), st.text(max_size=3), st.sampled_from(["class0", "#1", "all", "seen"]),
)  # fmt: skip
VALUES = st.one_of(
  SCALARS, st.lists(SCALARS, max_size=3), st.lists(st.lists(SCALARS, max_size=2), max_size=2),
  st.dictionaries(st.sampled_from(["class0", 1, "#2"]), SCALARS, max_size=2),
  st.just(np.array([1.0, 2.0])), st.just(np.zeros((2, 2))), st.just({1, 2}),
)  # fmt: skip


@QUIET
@given(
  kind=st.sampled_from(streams.KINDS),
  given=st.dictionaries(st.sampled_from(sorted(set().union(*streams.READS.values()))), VALUES, min_size=1, max_size=2),
)
@example(kind="class", given={"per_seed": np.zeros((2, 2))})
def test_any_value_of_an_option_is_read_or_refused(dataset, kind, given):
  sizes = {"tasks": 2, **({"classes_per_task": 2} if kind == "scole" else {})}
  one_line_or(lambda: streams.build(dataset, kind, **{**sizes, **given}))


@QUIET
@given(fields=st.dictionaries(st.sampled_from(["classes", "ids", "tasks", "groups", "match"]), VALUES, max_size=3))
def test_any_forget_is_read_or_refused(dataset, fields):
  one_line_or(lambda: streams.build(dataset, tasks=2, forget=[(1, Forget(**fields))]))


@pytest.mark.parametrize("y", [10**7, 2**40])
def test_labels_that_number_nothing_are_refused(y):
  with pytest.raises(UsageError, match=r"y: goes up to \d+; expected labels 0..C-1"):
    streams.from_timestamps(np.zeros((4, 2)), np.array([0, 1, 2, y]), np.arange(4))
