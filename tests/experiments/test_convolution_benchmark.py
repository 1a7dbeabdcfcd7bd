"""The suites ``convolutions`` and ``groups``: every form is the same convolution, and the tables have their rows."""

from __future__ import annotations

import pytest

from experiments.benchmarks import convolutions, groups
from experiments.benchmarks._convolution_forms import FORMS

LAYERS = [
  convolutions.Layer(5, 3, 4, 3, 1, 1),
  convolutions.Layer(6, 3, 4, 3, 2, 1),
  convolutions.Layer(6, 3, 4, 1, 2, 1),
]


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch):
  monkeypatch.setattr(convolutions, "BATCH", 4)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("name", [n for n in FORMS if n != "lax"])
def test_every_form_is_lax_conv_with_its_gradients(name, layer):
  assert convolutions.error(FORMS[name], layer, convolutions.draws(layer)) < 2e-6


def test_the_suite_of_convolutions_has_a_row_for_each_form():
  layer = LAYERS[0]._replace(whole=True)
  table = convolutions.suite(lambda line: None, 3, [layer], seeds=2, network=False)
  of = lambda what: {row["form"] for row in table.rows if row["what"].startswith(what)}
  assert {*FORMS, "lax in a loop", "lax from the host"} - {"lax"} <= of("one seed")
  assert of("2 seeds") == {"patches", "shifted products", "lax from the host"}
  assert all(row["cpu ms"] > 0 for row in table.rows)


def test_the_suite_of_groups_has_a_row_for_each_group():
  table = groups.suite(lambda line: None, 3, ("mlp",), 2, (1, 2), (4, 4, 1))
  assert [row["group"] for row in table.rows] == [1, 2]
  assert all(row["seed-step ms"] > 0 and row["scratch MB"] > 0 for row in table.rows)
