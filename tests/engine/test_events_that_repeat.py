"""Tasks that come back, rows that tasks share, and deletion: which rows are trained, forgotten and counted."""

from __future__ import annotations

import json
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from bench import assert_same

import cljax
from cljax import streams
from cljax.engine import loop, own_streams, prepare, schedule
from cljax.engine.step import AGAIN, FRESH

TRAINING = cljax.Recipe(batch_size=8, epochs=2)
OPTIONS = cljax.Options(chunk_steps=4)
NOTHING = {"forget": "finetune_retain", "forget_hyper": {"steps": 1}}


def offered(stream, trains_on, recipe=TRAINING, seed=0):
  """Counts of each (task, row) pair, in all and FRESH, and the steps of each event."""
  count, fresh, steps, learned = Counter(), Counter(), [], []
  for at, event in enumerate(stream.events):
    plan = schedule.schedule(stream, learned, at, event.task, trains_on, recipe)
    none = np.zeros(len(plan.pairs.index), bool)
    index, task, what = schedule.rows(plan, seed, 0, plan.steps, plan.steps, none) if plan.steps else np.zeros((3, 0))
    there = what > 0
    count.update(zip(task[there].tolist(), index[there].tolist(), strict=True))
    fresh.update(zip(task[what == FRESH].tolist(), index[what == FRESH].tolist(), strict=True))
    assert set(np.unique(what)) <= {0, FRESH, AGAIN}
    steps.append(plan.steps)
    learned.append(event.task)
  return count, fresh, steps


@pytest.mark.parametrize(("tasks", "epochs", "first"), [(2, 1, 0), (2, 3, 0), (4, 2, 0), (4, 1, 3)])
def test_joint_goes_through_its_rows_evenly(dataset, tasks, epochs, first):
  """At the cost of the others: each row once an epoch."""
  stream = streams.build(dataset, "class", tasks=tasks, validation=0.125)
  recipe = cljax.Recipe(batch_size=10, epochs=epochs, first_task_epochs=first)
  count, fresh, steps = offered(stream, "all", recipe)
  plain = offered(stream, "current", recipe)
  assert steps == plain[2]
  every = {(t, r) for t, rows in enumerate(stream.train) for r in rows.tolist()}
  assert set(count) == every == set(fresh)
  assert set(fresh.values()) == {1}
  if not first:
    assert set(count.values()) == {epochs}
  else:
    assert max(count.values()) - min(count.values()) <= 1


def test_returned_tasks_count_once(dataset):
  stream = streams.build(dataset, "class", tasks=2, validation=0.0, order=(0, 1, 0))
  count, fresh, _ = offered(stream, "seen")
  by_task = {t: {count[t, r] for r in rows.tolist()} for t, rows in enumerate(stream.train)}
  assert by_task == {0: {6}, 1: {4}}, "two epochs of each event's rows, none twice"
  assert set(fresh.values()) == {1}
  count, fresh, _ = offered(stream, "current")
  assert {count[0, r] for r in stream.train[0].tolist()} == {4}
  assert set(fresh.values()) == {1}, "a task that comes back offers nothing new"


def test_pairs_are_listed_once(dataset):
  stream = streams.build(dataset, "class", tasks=2, validation=0.0)
  pairs = schedule.pairs_of(stream, [1, 0, 1])
  assert pairs.tasks == (1, 0)
  np.testing.assert_array_equal(pairs.index, np.concatenate([stream.train[1], stream.train[0]]))
  masks = [rows % 2 == 0 for rows in stream.train]
  np.testing.assert_array_equal(pairs.select(masks), pairs.index % 2 == 0)


class Seen(NamedTuple):
  forget: list
  retain: list
  classes: list


def recorder(seen: Seen):
  """A method that answers requests by writing down which rows they name."""

  def method(model, spec):
    del model

    def forget(key, learner, request, tools):
      del key, tools
      forget, retain = (r.batch(0, r.capacity) for r in (request.forget, request.retain))
      kept = (forget.id, forget.task, forget.weight, retain.id, retain.task, retain.weight, request.classes)
      return learner._replace(method_state=kept)

    def init(key, learner):
      del key, learner
      rows = (np.zeros(spec.total_rows, np.int32),) * 2 + (np.zeros(spec.total_rows, np.float32),)
      return (*rows, *rows, np.zeros(spec.num_classes, bool))

    access = cljax.Access(forgets=True, forget_data=True, retain_data=True)
    return cljax.Method(init=init, forget=forget, access=access)

  def run(stream, model):
    result = cljax.run(stream, model, method, training=TRAINING, options=OPTIONS)
    state = [np.asarray(a)[0] for a in result.learner.method_state]
    named = lambda i, t, w: sorted(zip(t[w > 0].tolist(), i[w > 0].tolist(), strict=True))
    seen.forget[:], seen.retain[:], seen.classes[:] = named(*state[:3]), named(*state[3:6]), state[6].tolist()
    return result

  return run


def pairs_where(stream, tasks, keep):
  return sorted((t, r) for t in tasks for r in stream.train[t].tolist() if keep(t, r))


def test_forgetting_after_a_task_came_back(dataset, small_model):
  stream = streams.build(dataset, "class", tasks=2, validation=0.0, order=(0, 1, 0), forget="3:class=1")
  seen = Seen([], [], [])
  result = recorder(seen)(stream, small_model)
  y = dataset.train.y
  assert seen.forget == pairs_where(stream, (0, 1), lambda t, r: y[r] == 1)
  assert seen.retain == pairs_where(stream, (0, 1), lambda t, r: y[r] != 1)
  assert seen.classes == [False, True, False, False]
  (entry,) = result.forgotten
  assert entry["rows"] == int((y == 1).sum())


def test_forgetting_a_task_whose_rows_are_shared(dataset, small_model):
  """96 rows in each of two permuted tasks: one task's pairs are forgotten, the other's kept."""
  stream = streams.build(dataset, "permuted", tasks=2, validation=0.0, forget="2:task=0")
  seen = Seen([], [], [])
  result = recorder(seen)(stream, small_model)
  assert seen.forget == pairs_where(stream, (0,), lambda t, r: True)
  assert seen.retain == pairs_where(stream, (1,), lambda t, r: True)
  assert seen.classes == [False] * 4, "task 1 has all of them"
  assert result.forgotten[0]["rows"] == len(stream.train[0]) == 96


def test_retraining_without_a_task_keeps_the_others_rows(dataset, small_model):
  """To the bit the run on the same stream whose first task is absent from the start, by hand."""
  given = {"training": TRAINING, "options": OPTIONS}
  stream = streams.build(dataset, "permuted", tasks=2, validation=0.0, forget="2:task=0")
  result = cljax.run(stream, small_model, "finetune", forget="retrain", **given)
  assert result.forgotten[0]["rows"] == 96
  built = prepare(stream, small_model, "finetune", forget="retrain", **given).setup
  gone = streams.deleted_pairs(stream, 3)
  assert [int(g.sum()) for g in gone] == [96, 0]
  plan = schedule.schedule(stream, [0], 1, 1, "current", TRAINING)
  assert not plan.pairs.select(gone).any()
  learner, alive = loop.initial_learner(built), loop.all_alive(built)
  nothing = np.ones(96, bool)
  for at, mask in ((0, nothing), (1, ~nothing)):
    plan = schedule.schedule(stream, [0][:at], at, at, "current", TRAINING)
    where = loop.where_in_stream(built, at, 24 * at, plan.steps)
    for start in range(0, plan.steps, 4):
      order = [schedule.rows(plan, m.seed, start, 4, 4, mask) for m in built.population]
      learner, alive, _ = own_streams.run_chunk(built, built.hyper, order, where, learner, alive, 4)
  assert_same(result.learner.params, learner.params)


SPELLINGS = {"class": "2:class=0,1", "task": "2:task=0", "ids": None}


@pytest.mark.parametrize("kind", ["class", "task", "domain", "label_permuted"])
def test_a_request_means_the_same_however_it_is_named(dataset, small_model, kind):
  """The rows of classes 0 and 1 by class, by task (where they are one) and by id: the same pairs, the same labels."""
  found = {}
  model = small_model if kind != "domain" else cljax.models.mlp((4, 4, 1), 2, hidden=(8,))
  for name, text in SPELLINGS.items():
    if name == "task" and kind == "label_permuted":
      continue
    rows = np.flatnonzero(dataset.train.y < 2)
    text = text or "2:ids=" + ",".join(map(str, dataset.train.id[rows].tolist()))
    stream = streams.build(dataset, kind, tasks=2, validation=0.0, forget=text)
    seen = Seen([], [], [])
    recorder(seen)(stream, model)
    found[name] = (list(seen.forget), list(seen.retain), list(seen.classes))
  assert len({repr(v) for v in found.values()}) == 1
  wanted = {"class": [True, True, False, False], "task": [True, True, False, False], "domain": [False, False]}
  stream = streams.build(dataset, kind, tasks=2, validation=0.0)
  left = {stream.labels[t, dataset.train.y[r]] for t, r in found["class"][1]}
  assert found["class"][2] == wanted.get(kind, [c not in left for c in range(4)])


def test_no_rows_have_no_accuracy(dataset, small_model, tmp_path):
  stream = streams.build(dataset, "class", tasks=2, validation=0.0, forget="1:task=0")
  result = cljax.run(
    stream, small_model, "finetune", training=TRAINING, options=OPTIONS, workdir=tmp_path,
    forget="gradient_ascent", forget_hyper={"steps": 1}, seeds=2,
  )  # fmt: skip
  assert result.forgotten[0]["retain"] == [None, None]
  assert all(0 <= v <= 1 for v in result.forgotten[0]["forget"])
  (entry,) = map(json.loads, (tmp_path / "deletions.jsonl").read_text().splitlines())
  assert entry["evidence"]["retain"] == [None, None]
