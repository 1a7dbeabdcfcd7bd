"""A member whose loss is no number is held where it was, in all that it keeps; the others go on as they would alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bench import assert_same

import cljax
from cljax import streams
from cljax.engine import Member
from cljax.methods.replay.buffers import Replay

TRAINING = cljax.Recipe(batch_size=8, epochs=2)
OPTIONS = cljax.Options(chunk_steps=4, on_divergence="freeze")
DEADLY = 1e30


def run(dataset, model, method="finetune", hyper=None, rates=(0.1, DEADLY, 0.1), steps=None, **more):
  stream = streams.build(dataset, "class", tasks=2, validation=0.0)
  told = []
  members = [Member(i, {"optimizer.learning_rate": r}) for i, r in enumerate(rates)]
  options = {"momentum": 0.9, "weight_decay": 0.01, **more.pop("optimizer_options", {})}
  result = cljax.run(
    stream, model, method, hyper, training=TRAINING, options=OPTIONS, population=members, report=told.append,
    optimizer="momentum", optimizer_options=options, **more,
  )  # fmt: skip
  return result, told


def member(tree, i):
  return jax.tree.map(lambda a: a[i], tree)


def zero_absent_rows(learner):
  """What waits to be stored with weight 0 is no row: a batch of them has another task, and that is all."""
  is_replay = lambda node: isinstance(node, Replay)
  state = jax.tree.map(
    lambda n: n._replace(pending={**n.pending, "task": n.weight}) if is_replay(n) else n,
    learner.method_state, is_leaf=is_replay,
  )  # fmt: skip
  return learner._replace(method_state=state)


@pytest.fixture(scope="module")
def mixed(dataset, small_model):
  return run(dataset, small_model, "er", {"capacity": 12})


def test_the_living_are_as_alone(dataset, small_model, mixed):
  alone, _ = run(dataset, small_model, "er", {"capacity": 12}, rates=(0.1,))
  assert mixed[0].alive.tolist() == [True, False, True]
  assert_same(member(mixed[0].learner.params, 0), member(alone.learner.params, 0))
  assert_same(member(mixed[0].learner.method_state, 0), member(alone.learner.method_state, 0))


def test_one_message_a_member_and_the_loss_of_the_living(mixed):
  told = mixed[1]
  assert [m["seed"] for m in told if m["kind"] == "diverged"] == [1]
  chunks = [m for m in told if m["kind"] == "chunk"]
  assert np.isfinite([m["loss"] for m in chunks]).all()
  assert chunks[-1]["living"] == 2


@pytest.mark.parametrize(
  ("method", "hyper"),
  [("finetune", {}), ("er", {"capacity": 12}), ("ema", {"capacity": 12}), ("agem", {"capacity": 12})],
)
def test_a_dead_member_stays_as_it_was(dataset, small_model, method, hyper):
  """What is left of it after the first task is left after the second: parameters, momentum, averages, memory."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.0)
  members = [Member(0, {"optimizer.learning_rate": DEADLY}), Member(1, {"optimizer.learning_rate": 0.1})]
  both = []
  for events in (stream.events[:1], stream.events):
    result = cljax.run(
      stream._replace(events=events), small_model, method, hyper, training=TRAINING, options=OPTIONS,
      population=members, optimizer="momentum", optimizer_options={"momentum": 0.9, "weight_decay": 0.01},
    )  # fmt: skip
    assert result.alive.tolist() == [False, True]
    both.append(result.learner)
  before, after = (member(learner, 0) for learner in both)
  assert_same(zero_absent_rows(before), zero_absent_rows(after))
  living = [np.asarray(member(learner, 1).step) for learner in both]
  assert living[0] < living[1]


def test_where_all_die_the_loss_is_none(dataset, small_model):
  _, told = run(dataset, small_model, rates=(DEADLY, DEADLY))
  last = [m for m in told if m["kind"] == "chunk"][-1]
  assert np.isnan(last["loss"])
  assert last["living"] == 0
  assert [m["seed"] for m in told if m["kind"] == "diverged"] == [0, 1]
