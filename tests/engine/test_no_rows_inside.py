"""No compiled program holds rows: what it is trained and evaluated on are arguments, so that a deleted row is gone from
it, and one program serves all data of a shape."""

from __future__ import annotations

import math
import re

import jax.numpy as jnp
import pytest

import cljax
from cljax import data, models, streams
from cljax.engine.programs import Program

LARGEST = 1000  # numbers; the training rows are 1,437 of 64 each, their labels 1,437
_CONSTANT = re.compile(r"stablehlo\.constant dense<(.{0,3}).*?> : tensor<([0-9x]*)x?[a-z]\w*>")


def large(text: str) -> list[int]:
  """The sizes of a program's constants that are not one number everywhere, from LARGEST on."""
  found = []
  for begin, shape in _CONSTANT.findall(text):
    size = math.prod(int(n) for n in shape.split("x") if n)
    if begin.startswith(("[", '"')) and size >= LARGEST:
      found.append(size)
  return found


@pytest.fixture
def lowered(monkeypatch):
  """The text of every program that is compiled, by what it does."""
  found: dict[str, str] = {}
  made = Program._made

  def watched(self, args):
    found[self._name] = self._jitted.lower(*args).as_text()
    return made(self, args)

  monkeypatch.setattr(Program, "_made", watched)
  return found


def ran(method, options, **more):
  events = [cljax.Learn(0), cljax.Learn(1), *more.pop("events", ())]
  stream = streams.build(data.load("digits"), "class", tasks=5)
  stream = stream._replace(events=tuple(events))
  model = models.mlp((8, 8, 1), 10, hidden=(4,))
  return cljax.run(stream, model, method, options, training=cljax.Recipe(batch_size=64), **more)


@pytest.mark.parametrize("method", ["finetune", "er", "ewc", "agem", "gpm"])
def test_no_program_of_a_run_holds_rows(lowered, method):
  ran(method, {"capacity": 20} if method in ("er", "agem") else {})
  assert {"init", "chunk", "evaluate"} <= set(lowered)
  assert {name: large(text) for name, text in lowered.items() if large(text)} == {}


@pytest.mark.parametrize("forget", ["ssd", "gradient_ascent"])
def test_no_program_of_a_request_holds_rows(lowered, forget):
  ran("er", {"capacity": 20}, forget=forget, events=[cljax.Forget(ids=(1, 2, 3))])
  assert "forget" in lowered
  assert {name: large(text) for name, text in lowered.items() if large(text)} == {}


def test_rows_that_a_method_closes_over_are_found(lowered):
  rows = jnp.asarray(data.load("digits").train.x[:20], jnp.float32)

  def method(model, spec):
    term = lambda key, params, learner, batch, outputs: 0.0 * rows.sum()
    return cljax.Method(init=lambda key, learner: (), terms={"mine": term})

  ran(method, {})
  assert large(lowered["chunk"]) == [20 * 64]
