"""What is counted of training presentations, against a loop written by hand that trains a linear model in NumPy."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
import records

import cljax
from cljax import data, engine, methods, models, streams
from cljax.core.types import Forget, Learn, UsageError
from cljax.engine import precompile, presentations
from cljax.io import members

BATCH, EPOCHS, RATE, SEEDS = 7, 4, 0.5, [3, 5]
TRAIN = cljax.Recipe(batch_size=BATCH, epochs=EPOCHS)
COUNT = cljax.Options(presentations=True)
OPTIMIZER = {"optimizer_options": {"learning_rate": RATE}}


@pytest.fixture(scope="module")
def stream():
  """Rows of four classes that lie over one another, so that what is learned is forgotten again."""
  rng = np.random.default_rng(0)
  y = np.arange(112) % 4
  x = rng.normal(size=(4, 4, 4, 1))[y] + 1.5 * rng.normal(size=(112, 4, 4, 1))
  rows = data.from_arrays("noisy", {"x": x.astype(np.float32), "y": y})
  return streams.build(rows, "permuted", tasks=2, seed=1, validation=0.0)


@pytest.fixture(scope="module")
def model():
  return models.mlp((4, 4, 1), 4, hidden=())


def run(stream, model, name="finetune", hyper=None, options=COUNT, **more):
  return cljax.run(stream, model, name, hyper, training=TRAIN, options=options, seeds=SEEDS, **OPTIMIZER, **more)


def by_hand(stream, first, seed, events, gone=()):
  """``{(task, row): [right, right, ...]}``, one for each presentation, by plain descent on float64 logits."""
  w, b = (np.asarray(first["head"][k], np.float64) for k in ("kernel", "bias"))
  shown: dict = {}
  x = stream.dataset.train.x.reshape(len(stream.dataset.train.y), -1) * stream.dataset.scale
  y = stream.dataset.train.y
  for at, event in enumerate(events):
    if not isinstance(event, Learn):
      continue
    rows = np.asarray(stream.train[event.task])
    turned = x[:, stream.view.tables[0][event.task]]
    for epoch in range(EPOCHS):
      order = np.random.default_rng(np.random.SeedSequence([seed, at, epoch, 0xB47C])).permutation(len(rows))
      for begin in range(0, len(rows), BATCH):
        batch = [r for r in rows[order[begin : begin + BATCH]] if (event.task, r) not in gone]
        logits = turned[batch] @ w + b
        for r, z in zip(batch, logits, strict=True):
          shown.setdefault((event.task, r), []).append(bool(z.argmax() == y[r]))
        if batch:
          p = np.exp(logits - logits.max(1, keepdims=True))
          error = (p / p.sum(1, keepdims=True) - np.eye(4)[y[batch]]) / len(batch)
          w, b = w - RATE * turned[batch].T @ error, b - RATE * error.sum(0)
  return shown


def same(counted, member, shown):
  """Every pair's five numbers, by walking through its own presentations."""
  met = forgot = 0
  for i, (task, row) in enumerate(zip(counted.task, counted.row, strict=True)):
    own = shown.get((task, row), [])
    pairs = list(itertools.pairwise(own))
    want = (
      sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), own.index(True) if True in own else -1,
      len(own), True in own and not any(a and not b for a, b in pairs),
    )  # fmt: skip
    assert tuple(int(a[member, i]) for a in counted.events) == want, (task, row)
    met, forgot = met + bool(own), forgot + want[0]
  return met, forgot


@pytest.fixture(scope="module")
def counted(stream, model):
  return run(stream, model)


@pytest.fixture(scope="module")
def begun(stream, model):
  """The parameters of each member before the first step."""
  seen = []
  look = cljax.Evaluator("look", lambda learner, *rest: seen.append(learner.params) or {"steps": int(learner.step)})
  cljax.run(stream._replace(events=stream.events[:1]), model, training=cljax.Recipe(batch_size=32), seeds=SEEDS,
            evaluators=look)  # fmt: skip
  return seen[: len(SEEDS)]


def test_forgetting_events_are_those_of_a_hand_written_loop(stream, counted, begun):
  for member, seed in enumerate(SEEDS):
    met, forgot = same(counted.presentations, member, by_hand(stream, begun[member], seed, stream.events))
    assert met == sum(map(len, stream.train))
    assert forgot > 20
  rows = np.concatenate([np.asarray(r) for r in stream.train])
  np.testing.assert_array_equal(counted.presentations.row, rows)
  assert counted.presentations.task.tolist() == [0] * len(stream.train[0]) + [1] * len(stream.train[1])


def test_counting_changes_no_bit_and_is_not_done_unasked(stream, model, counted):
  plain = run(stream, model, options=cljax.Options())
  assert plain.params_sha256 == counted.params_sha256
  assert plain.presentations is None


def test_a_stopped_run_counts_on(stream, model, counted, tmp_path):
  """Stopped inside both tasks, and each time a checkpoint later."""
  asked = []

  def stop():
    asked.append(1)
    return len(asked) % 3 == 0

  options = COUNT._replace(chunk_steps=5, checkpoint_every=5)
  stopped = 0
  while True:
    try:
      result = run(stream, model, options=options, workdir=str(tmp_path), stop=stop)
      break
    except cljax.Stopped:
      stopped += 1
  assert stopped > 2
  assert result.params_sha256 == counted.params_sha256
  for a, b in zip(result.presentations.events, counted.presentations.events, strict=True):
    np.testing.assert_array_equal(a, b)
  assert cljax.load(tmp_path, stream=stream, model=model, training=TRAIN, **OPTIMIZER).params is not None
  with pytest.raises(UsageError, match=r"options.presentations: true -> absent"):
    run(stream, model, options=cljax.Options(), workdir=str(tmp_path))


def test_host_batches_are_counted_alike(stream, model, counted):
  fed = run(stream, model, options=COUNT._replace(feed="grain"))
  for a, b in zip(fed.presentations.events, counted.presentations.events, strict=True):
    np.testing.assert_array_equal(a, b)


def asks(stream):
  return tuple(int(stream.dataset.train.id[r]) for r in np.asarray(stream.train[0])[[1, 4, 6]])


@pytest.mark.parametrize("where", ["begin", "end"])
def test_an_edit_takes_the_records_of_deleted_rows(stream, model, counted, begun, where):
  """Rows that are deleted after the first task are not shown in the second, and have no record of the first."""
  request = Forget(ids=asks(stream))
  learn = stream.events
  events = (learn[0], request, learn[1]) if where == "begin" else (*learn, request)
  found = run(stream._replace(events=events), model, forget="ssd")
  gone = np.isin(stream.dataset.train.id[found.presentations.row], asks(stream))
  assert gone.sum() == 6
  e, whole = found.presentations.events, counted.presentations.events
  for values, empty in zip(e, (0, 0, -1, 0, False), strict=True):
    assert (values[:, gone] == empty).all()
  kept = ~gone & (found.presentations.task == 0) if where == "begin" else ~gone
  for a, b in zip(e, whole, strict=True):
    np.testing.assert_array_equal(a[:, kept], b[:, kept])
  assert (e.presentations[:, ~gone] == EPOCHS).all()


def test_training_again_counts_again(stream, model, begun, tmp_path):
  """Of what retraining shows: the same batches without the rows, from the first parameters; also where it stopped."""
  request = Forget(ids=asks(stream))
  asked = stream._replace(events=(stream.events[0], request, stream.events[1]))
  made = dict(forget="retrain", forget_hyper={"schedule": "steps"}, options=COUNT._replace(chunk_steps=5))
  found = run(asked, model, **made)
  gone = {(t, r) for t in (0, 1) for r in np.flatnonzero(np.isin(stream.dataset.train.id, asks(stream)))}
  for member, seed in enumerate(SEEDS):
    met, _ = same(found.presentations, member, by_hand(stream, begun[member], seed, asked.events, gone))
    assert met == sum(map(len, stream.train)) - 6
  calls = []

  def stop():
    calls.append(1)
    return len(calls) in (14, 16)

  for _ in range(3):
    try:
      again = run(asked, model, workdir=str(tmp_path), stop=stop, **made)
    except cljax.Stopped:
      continue
  assert len(calls) > 16
  assert again.params_sha256 == found.params_sha256
  for a, b in zip(again.presentations.events, found.presentations.events, strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_longer_run_goes_on_counting(stream, model, counted, tmp_path):
  short = streams.build(stream.dataset, "permuted", tasks=1, seed=1, validation=0.0)
  whole = stream._replace(view=stream.view)
  begun = run(short, model, workdir=str(tmp_path))
  assert begun.presentations.events.presentations.shape[1] == len(stream.train[0])
  for more in ({"workdir": str(tmp_path), "extend": True}, {"learner": begun}):
    longer = run(whole, model, **more)
    assert longer.params_sha256 == counted.params_sha256
    for a, b in zip(longer.presentations.events, counted.presentations.events, strict=True):
      np.testing.assert_array_equal(a, b)
  with pytest.raises(UsageError, match="result: has no presentations"):
    run(whole, model, learner=begun._replace(presentations=None))


def test_rows_of_a_memory_are_no_presentations(stream, model):
  found = run(stream, model, "er", {"capacity": 20})
  assert (found.presentations.events.presentations == EPOCHS).all()


def test_what_is_right_is_so_among_the_classes_that_compete(class_stream):
  """Until the second task comes, its classes are none that the first one's rows could be taken for."""
  model = models.mlp((4, 4, 1), 4, hidden=())
  push = {"head": {"kernel": np.zeros((16, 4), np.float32), "bias": np.asarray([0, 1, 9, 0], np.float32)}}
  given = model._replace(init=lambda key: (push, {}))
  stream = class_stream._replace(events=class_stream.events[:1])
  one = cljax.run(stream, given, training=cljax.Recipe(batch_size=len(stream.train[0])), options=COUNT)
  labels = stream.labels[0][stream.dataset.train.y[np.asarray(stream.train[0])]]
  right = one.presentations.events.first_learned[0, : len(labels)] == 0
  masked = cljax.engine.setup.spec_of(stream, 4).class_mask(np.zeros(1, np.int32), np.asarray([True, False]))
  best = np.where(True if masked is None else np.asarray(masked)[0], push["head"]["bias"], -np.inf).argmax()
  np.testing.assert_array_equal(right, labels == best)


@pytest.mark.parametrize(
  ("options", "more", "said"),
  [
    ({"presentations": 1}, {}, "train.presentations: got 1; expected True or False"),
    ({"presentations": True, "checkpoint_keep_ids": False}, {}, "a record that lacks the deleted rows names them"),
  ],
)
def test_what_is_refused(stream, model, options, more, said):
  with pytest.raises(UsageError, match=said):
    run(stream, model, options=cljax.Options(**options), **more)


def test_a_summary_is_of_the_rows_that_were_shown():
  events = cljax.metrics.Events(*(np.asarray([a]) for a in ([2, 0, 0, 0], [2, 0, 1, 0], [0, -1, 1, -1], [5, 3, 4, 0],
                                                            [False, False, True, False])))  # fmt: skip
  found = presentations.summary(presentations.Presentations(events, np.zeros(4, int), np.arange(4)))
  assert found == {
    "presentations": [4.0], "forgetting_events": [pytest.approx(2 / 3)], "forgotten": [pytest.approx(1 / 3)],
    "unforgettable": [pytest.approx(1 / 3)], "never_right": [pytest.approx(1 / 3)],
  }  # fmt: skip


def test_every_method_can_be_counted(class_stream, task_stream, small_model):
  """What its batch of the loss is made of, and what its gradient gives, leaves each row's logits there."""
  counts = (2, {(2, 2, 2, 1): "uint8"})
  for name, entry in methods.METHODS.items():
    stream = task_stream if entry.access.task_id_at_test else class_stream
    model = records.network(name, small_model)
    made = engine.prepare(stream, model, name, records.arguments(name), options=COUNT._replace(chunk_steps=2),
                          training=cljax.Recipe(batch_size=8), seeds=2)  # fmt: skip
    program, given = next(c for c in precompile.calls(made.setup) if c[0] is made.setup.programs.chunk)
    *_, loss, said = program.shape(*given)
    assert (loss.ndim, {said.shape: said.dtype.name}) == counts, name


def test_the_rows_of_a_batch_may_lie_on_several_devices(stream, model, counted):
  """On two of them where there are two: sums are taken in another order, counts of what is far from a tie the same."""
  axes = {"population": 1, "data": min(2, len(jax.devices()))}
  training = TRAIN._replace(batch_size=8)
  plain, over = (
    cljax.run(stream, model, training=training, options=COUNT, seeds=SEEDS, mesh=mesh, **OPTIMIZER)
    for mesh in (None, axes)
  )
  agree = [np.mean(a == b) for a, b in zip(plain.presentations.events, over.presentations.events, strict=True)]
  assert min(agree) > 0.99, agree


def test_members_take_their_counts_into_a_run_of_their_own(stream, model, counted, tmp_path):
  """As a row of a sweep does that is deleted from."""
  run(stream, model, workdir=str(tmp_path / "all"))
  source, own = f"{tmp_path}/all/checkpoints", f"{tmp_path}/own/checkpoints"
  number, meta = members.newest(source)
  members.write(own, [(source, [1])], [0], {**meta["config"], "members": [meta["config"]["members"][1]]})
  held = presentations.read(own, *members.newest(own))
  whole = presentations.read(source, number, meta)
  for a, b in zip(held, whole, strict=True):
    np.testing.assert_array_equal(a, b[1:])
  np.testing.assert_array_equal(whole.seen, counted.presentations.events.presentations)
