"""What methods say of options that have no effect, or hardly one, in a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from bench import BATCH

from cljax import methods
from cljax.core.method import Method, Outlook, compose
from cljax.engine.setup import spec_of


@pytest.mark.parametrize(("options", "steps", "starts"), [
  ({"every": 500}, 499, "method.every: got 500; the stream has 499 steps"),
  ({"every": 500}, 2000, ""),
  ({"every": 2}, 1999, "method.epsilon: got 0.1; reptile goes 0.1 of the way"),
  ({"every": 2, "epsilon": 1.0}, 100, ""),
])  # fmt: skip
def test_reptile_says_where_it_never_acts_or_hardly_learns(class_stream, small_model, options, steps, starts):
  made = methods.make("reptile", small_model, spec_of(class_stream, BATCH), capacity=8, **options)
  said = made.remarks(Outlook(steps, (0, 1)))
  assert [line.startswith(starts) for line in said] == ([True] if starts else [])


@pytest.mark.parametrize(("options", "rate", "optimizer", "says"), [
  ({"queries": 1, "shrink": False}, 2.1 / 1002, "sgd", "diverges"),  # 2 q / (q + d + 1)
  ({"queries": 1, "shrink": False}, 1.9 / 1002, "sgd", ""),
  ({"queries": 20}, 0.1, "sgd", "learning takes"),  # 0.1 * 100 * 20 / 1021 = 0.2
  ({"queries": 20}, 0.2, "sgd", ""),
  ({"queries": 20}, 0.1, "adam", ""),
  ({"update": "scalar_sign"}, 0.0021, "sgd", "diverges"),
  ({"update": "scalar_sign"}, 0.0019, "sgd", ""),
])  # fmt: skip
def test_zeroth_order_says_where_sgd_diverges_or_goes_nowhere(options, rate, optimizer, says):
  made = methods.make("zeroth_order", None, SimpleNamespace(objective=None), **options)
  said = made.remarks(Outlook(100, (0,), optimizer, rate, 1000))
  assert [says in line for line in said] == ([True] if says else [])


def test_a_hybrid_says_what_its_parts_say():
  parts = {n: Method(remarks=lambda outlook, n=n: [f"{n} {outlook.steps}"]) for n in ("a", "b")}
  assert compose(**parts, c=Method()).remarks(Outlook(7, ())) == ["a 7", "b 7"]
