"""Each seed with a stream of its own (``stream.per_seed``), all in one population and one program."""

from __future__ import annotations

import numpy as np
import pytest

import cljax
from cljax import streams
from cljax.core.types import Forget, UsageError
from cljax.engine import prepare

SEEDS = [4, 0, 2]  # of which the first has a smaller first task than others
TRAINING = cljax.Recipe(batch_size=8, epochs=2)
UNEVEN = {"tasks": 3, "classes_per_task": (1, 2, 1), "validation": 0.125}


@pytest.fixture(scope="module")
def lopsided(make_blobs):
  """Classes of 6, 12, 18 and 24 rows, so that the tasks of each order have sizes of their own."""
  found = make_blobs()
  kept = np.sort(np.concatenate([np.flatnonzero(found.train.y == c)[: 6 * (c + 1)] for c in range(4)]))
  return found._replace(train=type(found.train)(*(a[kept] for a in found.train)))


@pytest.fixture(scope="module")
def model(small_model):
  return small_model


CASES = {
  "domain": ("ewc", {**UNEVEN, "active": "task"}),  # passes over a task's rows at its end
  "class": ("er", {**UNEVEN, "active": "seen"}),
  "task": ("joint", {"tasks": 2, "validation": 0.0}),
  "permuted": ("finetune", {"tasks": 2, "rows": 40}),
  "rotated": ("finetune", {"tasks": 2, "rows": 40}),
}


def arguments(stream, method: str) -> dict:
  from cljax import models

  return {
    "model": models.mlp((4, 4, 1), stream.num_classes, hidden=(8,)),
    "method": method,
    "hyper": {"capacity": 16} if method == "er" else {},
    "training": TRAINING,
  }


@pytest.mark.parametrize("kind", CASES)
def test_a_member_is_the_run_of_its_seed_alone(kind, lopsided):
  """To the bit: parameters, every score, and predictions of each task."""
  method, options = CASES[kind]
  stream = streams.build(lopsided, kind, per_seed=True, **options)
  given = arguments(stream, method)
  whole = cljax.run(stream, seeds=SEEDS, **given)
  assert max(whole.compilations.values()) == 1
  x = lopsided.test.x[:8]
  for k, seed in enumerate(SEEDS[1:] if kind == "domain" else SEEDS[1:2], 1):
    one = cljax.run(stream, seeds=[seed], **given)
    assert one.params_sha256[0] == whole.params_sha256[k]
    assert int(one.learner.step[0]) == int(whole.learner.step[k])
    for field in ("accuracy", "task_accuracy", "validation", "evaluated_rows"):
      if getattr(one, field) is not None:
        np.testing.assert_array_equal(getattr(one, field)[0], getattr(whole, field)[k], err_msg=field)
    assert one.drawn[0] == whole.drawn[k]
    for task in range(stream.num_tasks):
      np.testing.assert_array_equal(one.predict(x, task=task), whole.predict(x, k, task=task))


def test_it_is_a_shared_stream_of_that_order(lopsided):
  """Where labels agree: positions within a task. The sizes that methods see are those of the largest task there is."""
  own = streams.build(lopsided, "domain", per_seed=True, **UNEVEN)
  shared = streams.build(lopsided, "domain", seed=2, class_order=2, reserve_rows=own.row_room, **UNEVEN)
  assert own.row_room == 18 + 24 - round(18 / 8) - round(24 / 8)
  given = arguments(own, "ewc")
  found = [cljax.run(s, seeds=[2], **given) for s in (own, shared)]
  assert found[0].params_sha256 == found[1].params_sha256
  np.testing.assert_array_equal(found[0].accuracy, found[1].accuracy)
  assert [sorted(c) for c in found[0].drawn[0]["classes"]] == [np.flatnonzero(r >= 0).tolist() for r in shared.labels]


def test_outputs_are_places_in_the_members_own_order(lopsided):
  stream = streams.build(lopsided, "class", per_seed=True, **UNEVEN)
  orders = []
  for seed in range(6):
    mine = stream.of_seed(seed)
    order = np.concatenate(mine.drawn["classes"])
    assert mine.labels.max(0)[order].tolist() == [0, 1, 2, 3]
    for t, classes in enumerate(mine.drawn["classes"]):
      assert set(lopsided.train.y[mine.train[t]]) == set(lopsided.test.y[mine.test[t]]) == set(classes)
    assert len(mine.train[1]) <= stream.row_room
    np.testing.assert_array_equal(mine.classes_of_task, stream.classes_of_task)
    orders.append(tuple(order))
  assert len(set(orders)) > 3
  given = streams.build(lopsided, "class", per_seed=True, class_order=[3, 1, 0, 2], **UNEVEN)
  assert given.of_seed(5).drawn["classes"] == [[3], [1, 0], [2]]
  assert (given.of_seed(5).validation[1] != given.of_seed(6).validation[1]).any()  # the order is shared, the rest not


def test_it_resumes_to_the_same_bits(lopsided, tmp_path):
  stream = streams.build(lopsided, "class", per_seed=True, **UNEVEN)
  given = arguments(stream, "er") | {"options": cljax.Options(checkpoint_every=3, chunk_steps=3)}
  whole = cljax.run(stream, seeds=SEEDS, **given)
  for after in (2, 4, 7, None):
    calls = iter(range(10**6))
    stop = None if after is None else (lambda calls=calls, after=after: next(calls) >= after)
    try:
      found = cljax.run(stream, seeds=SEEDS, workdir=str(tmp_path / "run"), stop=stop, **given)
    except cljax.Stopped:
      continue
  assert found.params_sha256 == whole.params_sha256
  np.testing.assert_array_equal(found.accuracy, whole.accuracy)
  rest = {k: v for k, v in given.items() if k != "options"}
  loaded = cljax.load(tmp_path / "run", stream=stream, **rest)
  x = lopsided.test.x[:8]
  for k in range(3):
    np.testing.assert_array_equal(loaded.predict(x, k), whole.predict(x, k))
  with pytest.raises(UsageError, match=r"members"):
    cljax.run(stream, seeds=[4, 0, 3], workdir=str(tmp_path / "run"), **given)


def test_a_launcher_extends_it_no_more_than_python_does(lopsided, tmp_path):
  build = lambda n: streams.build(lopsided, "class", per_seed=True, tasks=n, classes_per_task=(1, 2, 1)[:n])
  given = arguments(build(3), "finetune")
  workdir = str(tmp_path / "run")
  cljax.run(build(2), seeds=2, workdir=workdir, **given)
  said = r"extend: got it with stream\.per_seed and several seeds"
  with pytest.raises(UsageError, match=said):
    cljax.run(build(3), seeds=2, workdir=workdir, extend=True, **given)
  with pytest.raises(UsageError, match=said):
    prepare(build(3), seeds=2, **given).extends(workdir)
  prepare(build(2), seeds=2, **given).extends(workdir)  # nothing new: it is brought to its end


def test_one_seed_alone_may_do_what_many_may_not(lopsided, tmp_path):
  stream = streams.build(lopsided, "class", per_seed=True, **UNEVEN)
  given = arguments(stream, "finetune")
  record = cljax.Options(presentations=True)
  said = {
    "train.presentations: got True with stream.per_seed": {"options": record},
    "train.feed: got 'grain' with stream.per_seed": {"options": cljax.Options(feed="grain")},
    "mesh: got {'data': 1} with stream.per_seed": {"mesh": {"data": 1}},
  }
  for text, more in said.items():
    with pytest.raises(UsageError) as error:
      cljax.run(stream, seeds=2, **given, **more)
    assert text in str(error.value)
  assert cljax.run(stream, seeds=[1], **given, options=record).presentations is not None
  done = cljax.run(stream, seeds=2, **given)
  with pytest.raises(UsageError, match=r"learner: got it with stream\.per_seed and several seeds"):
    cljax.run(stream, seeds=2, learner=done, **given)
  with pytest.raises(UsageError, match=r"stream\.forget: got a request with stream\.per_seed=True; whether"):
    prepare(streams.with_forget(stream, [(2, Forget(tasks=(0,)))]), seeds=2, **given)
  with pytest.raises(UsageError, match="was changed by hand"):
    prepare(stream._replace(active="task"), seeds=2, **given)


@pytest.mark.parametrize(
  ("kind", "options", "said"),
  [
    ("class", {"forget": "1:class=0"}, "stream.forget: got '1:class=0' with stream.per_seed=True; whether the rows"),
    ("class", {"label_noise": 0.1}, "stream.label_noise: got 0.1 with stream.per_seed=True; members share the rows"),
    ("group", {}, "stream.per_seed: got True, which kind 'group' does not read; read by: class, task, domain"),
    ("si_blurry", {}, "which kind 'si_blurry' does not read"),
    ("class", {"per_seed": 1}, "stream.per_seed: got 1; expected True or False"),
  ],
)
def test_what_members_can_not_have_apart(kind, options, said, lopsided):
  with pytest.raises(UsageError) as error:
    streams.build(lopsided, kind, **{"tasks": 2, "per_seed": True, **options})
  assert said in str(error.value)


def test_evaluators_see_the_members_own_stream(lopsided):
  stream = streams.build(lopsided, "class", per_seed=True, **UNEVEN)
  seen = []

  def look(learner, predict, stream, event):
    seen.append(stream.drawn["seed"])
    return {"first": np.full(stream.num_tasks, float(stream.drawn["classes"][0][0]))}

  judge = cljax.Evaluator("look", look)
  found = cljax.run(stream, seeds=SEEDS, evaluators=judge, **arguments(stream, "finetune"))
  assert seen[:3] == SEEDS
  assert found.evaluations["look"]["first"][:, -1, 0].tolist() == [d["classes"][0][0] for d in found.drawn]
