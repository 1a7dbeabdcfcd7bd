"""The metamorphic search: a seeded sample of it, and that it finds faults which are planted."""

from __future__ import annotations

import json
import queue
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import methods
from experiments import _metamorphic_draw as draws
from experiments import metamorphic
from experiments._metamorphic_trial import Trial

# Of seed 0, cheap ones: between them each law that has found a fault, and one or two methods of each family.
SAMPLE = [
  ("resumed", 5), ("population", 8), ("grain", 8), ("goes on", 9), ("rows seen", 3), ("rows seen", 8),
  ("tasks renamed", 8), ("outputs renamed", 5), ("rows of one's own", 3), ("request spelled", 8), ("neutral part", 7),
  ("penalty twice", 4), ("logits at rate 0", 3), ("neutral request", 8), ("deleted contents", 0),
]  # fmt: skip


@pytest.mark.parametrize(("law", "number"), SAMPLE)
def test_no_law_is_violated(law, number):
  result = metamorphic.attempt(0, number, law)
  assert result["violated"] == {}, result["combination"]
  assert result["refused"] == ""
  assert result["checked"][-1] == law
  assert result["runs"] >= 1


def test_a_number_is_drawn_the_same_again():
  first, again = (metamorphic.drawn(3, 11) for _ in range(2))
  assert first[0] == again[0]
  assert str(first[1]) == str(again[1])
  assert len({str(metamorphic.drawn(3, n)[1]) for n in range(20)}) == 20


# Planted faults.


@pytest.fixture
def planted():
  """Registers methods for one test."""
  names = []

  def add(name, factory, access):
    methods.register(name, methods.Entry(factory, {}, access, "planted"))
    names.append(name)
    return draws.Part(name, {})

  yield add
  for name in names:
    del methods.METHODS[name]


def tried(law: str, *parts, composed=False, seed=0, **fields):
  """What a law says of a plain combination of these parts."""
  plain = draws.Combination(
    parts, None, "class", {"tasks": 2, "validation": 0.0}, classes=4, rows=60, data_seed=0, requests=(), seeds=(0,),
    optimizer="sgd", learning_rate=0.05, recipe=cljax.Recipe(batch_size=draws.BATCH),
    options=cljax.Options(chunk_steps=4), activation="relu",
  )._replace(**fields)  # fmt: skip
  trial = Trial(plain, composed=composed)
  trial.start()
  return metamorphic.laws()[law].check(trial, np.random.default_rng(seed))


def by_number(model, spec):
  """Steps grow with the number of the task."""
  del model, spec

  def update(updates, state, params=None, *, task, **extra):
    del params, extra
    return jax.tree.map(lambda u: u * (1.0 + task), updates), state

  init = lambda params: optax.EmptyState()
  return cljax.Method(transform=optax.GradientTransformationExtraArgs(init, update))


def test_an_update_that_depends_on_the_number_of_a_task_is_found(planted):
  part = planted("by_number", by_number, cljax.Access(task_boundaries=True))
  assert "parameters differ" in tried("tasks renamed", part)
  assert tried("tasks renamed", draws.Part("finetune", {})) is None


def last_rows(model, spec):
  """Replay that takes the last rows of the batch for its own."""
  base = methods.make("er", model, spec, capacity=8)
  pull = lambda key, params, learner, batch, outputs: 0.3 * jnp.mean(outputs.logits[-spec.batch_size :] ** 2)
  return base._replace(terms={"pull": pull})


def test_rows_read_by_position_are_found(planted):
  part = planted("last_rows", last_rows, cljax.Access(stores_data=True))
  seed = next(s for s in range(100) if neutral_drawn(s) == ("derpp", False))
  assert "with derpp" in tried("neutral part", part, composed=True, seed=seed)
  assert tried("neutral part", draws.Part("er", {"capacity": 8}), composed=True, seed=seed) is None


def neutral_drawn(seed: int):
  """What the law draws: the neutral part, and whether it stands first."""
  from experiments._metamorphic_parts import NEUTRAL

  rng = np.random.default_rng(seed)
  return draws.pick(rng, NEUTRAL), rng.random() < 0.3


# The search itself.


def stub(code: str):
  """A worker that runs ``code`` instead."""
  command = [sys.executable, "-c", code]
  return lambda seed, only: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


ANSWERS = """
import json, sys
for line in sys.stdin:
  n = int(line)
  if n == 1:
    sys.exit(3)
  r = {"seed": 0, "number": n, "law": "chunks", "combination": "", "refused": "", "checked": ["chunks"], "runs": 2}
  print(json.dumps({**r, "violated": {}, "seconds": 1, "bytes": 1}), flush=True)
"""


def searched(monkeypatch, code, count=3, limit=60.0):
  monkeypatch.setattr(metamorphic, "start", stub(code))
  numbers: queue.SimpleQueue = queue.SimpleQueue()
  for n in range(count):
    numbers.put(n)
  results: list[dict] = []
  metamorphic.labour(numbers, results.append, 0, limit, recycle=25)
  return results


def test_a_worker_that_dies_is_a_violation_and_the_search_goes_on(monkeypatch):
  results = searched(monkeypatch, ANSWERS)
  assert [r["number"] for r in results] == [0, 1, 2]
  assert results[1]["violated"] == {"ends": "the process ended with code 3"}
  table = metamorphic.summary(results)
  assert (table["combinations"], table["runs"], table["violated"]) == (3, 5, 1)
  assert table["laws"]["chunks"]["checked"] == 2
  assert table["violations"][0]["number"] == 1
  text = metamorphic.as_markdown(json.loads(json.dumps(table)))
  assert "`--seed=0 --only=1`" in text


def test_a_worker_that_hangs_is_a_violation(monkeypatch):
  (result,) = searched(monkeypatch, "import sys\nfor _ in sys.stdin: pass", count=1, limit=1.0)
  assert result["violated"] == {"ends": "no result after 1 s"}
