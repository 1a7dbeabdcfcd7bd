"""Sizes of zoo models: estimated before anything is made, and refused where they cannot be meant."""

from __future__ import annotations

import sys

import jax
import pytest

from cljax import UsageError, models
from cljax.models import build

BUILD = sys.modules["cljax.models.build"]  # cljax.models.build is the function

SIZES = [
  ("mlp", (5, 5, 2), {"hidden": (3, 7)}),
  ("mlp", (6,), {"hidden": ()}),
  ("cnn", (5, 4), {"widths": (3, 4)}),
  ("cnn", (5, 4, 3), {"widths": (2,)}),
  ("resnet18", (8, 8, 3), {"width": 3}),
  ("vit", (8, 8, 3), {"patch": 4, "width": 8, "depth": 3, "heads": 2, "mlp_ratio": 3}),
  ("vit", (8, 4), {"patch": 2, "width": 4, "depth": 1, "heads": 1}),
]


@pytest.mark.parametrize(("name", "shape", "given"), SIZES, ids=[f"{n}-{s}" for n, s, _ in SIZES])
def test_the_estimate_is_what_is_made(name, shape, given):
  params, _ = jax.eval_shape(build(name, shape, 5, **given).init, jax.random.key(0))
  made = sum(a.size for a in jax.tree.leaves(params))
  assert BUILD.parameters(name, shape, 5, {**models.options(name), **given}) == made


BAD = [
  ("vit", {"depth": 2147483648}, "depth: got 2147483648 layers; expected at most 1000"),
  ("vit", {"width": 2**30}, "model: vit with patch=4, width=1073741824, depth=4, .* would have about .* PiB"),
  ("mlp", {"hidden": (2**40,)}, "model: mlp with hidden=.* the limit is this machine's memory"),
  ("mlp", {"hidden": (1,) * 1001}, "hidden: got 1001 layers"),
  ("mlp", {"hidden": (0,)}, "hidden: got 0; expected integers of at least 1"),
  ("mlp", {"hidden": ("a",)}, "hidden: got 'a'; expected integers"),
  ("mlp", {"hidden": 3}, "hidden: got 3; expected a list of widths"),
  ("mlp", {"hidden": "ab"}, "hidden: got 'ab'; expected a list of widths"),
  ("mlp", {"dropout": 1.0}, "dropout: got 1.0; expected 0 <= dropout < 1"),
  ("cnn", {"widths": (-1,)}, "widths: got -1"),
  ("resnet18", {"width": 2**35}, "would have about"),
  ("vit", {"patch": 0}, "patch: got 0"),
  ("vit", {"heads": 0}, "heads: got 0"),
]


@pytest.mark.parametrize(("name", "given", "text"), BAD, ids=[f"{n}-{next(iter(g.items()))}"[:40] for n, g, _ in BAD])
def test_a_size_that_cannot_be_meant_is_refused_at_once(name, given, text):
  with pytest.raises(UsageError, match=text):
    build(name, (8, 8, 1), 10, **given)


def test_the_limit_is_this_machines_memory(monkeypatch):
  monkeypatch.setattr(BUILD, "memory", lambda: 4 * (8 * 4 + 4 + 4 * 3 + 3))
  build("mlp", (8,), 3, hidden=(4,))
  with pytest.raises(UsageError, match=r"about 224 B of parameters; .* memory, 204 B"):
    build("mlp", (8,), 4, hidden=(4,))
