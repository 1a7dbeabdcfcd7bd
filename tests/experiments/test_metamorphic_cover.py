"""Features crossed with one another: the design covers every pair, and a seeded sample of its rows holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cljax import methods
from experiments import _metamorphic_cover as cover
from experiments import metamorphic

SAMPLE = np.random.default_rng(14).permutation(300)[:4].tolist()


@pytest.mark.parametrize("seed", [0, 1])
def test_every_pair_of_levels_meets(seed):
  factors = {"a": tuple(range(9)), "b": ("x", "y", "z"), "c": (True, False), "d": ((), (0,), (1, 0))}
  rows = cover.covering(factors, seed)
  for one, other in itertools.combinations(factors, 2):
    assert {(r[one], r[other]) for r in rows} == set(itertools.product(factors[one], factors[other]))
  assert 27 <= len(rows) <= 36, "at least the product of the two largest, and not many more"


def test_every_entry_meets_every_level():
  rows = cover.design(0)
  for name, levels in cover.FACTORS.items():
    assert {(r["entry"], r[name]) for r in rows} == set(itertools.product(methods.METHODS, levels))
  drawn = [metamorphic.drawn(0, n, "crossed")[1] for n in range(0, len(rows), 7)]
  assert {c.dtype for c in drawn} == {"float32", "bfloat16"}
  assert any(len(c.parts) == 2 and c.requests for c in drawn)


@pytest.mark.parametrize("number", SAMPLE)
def test_a_row_holds(number):
  result = metamorphic.attempt(0, number, "crossed")
  assert result["violated"] == {}, result["combination"]
  assert result["refused"] or "crossed" in result["checked"]
