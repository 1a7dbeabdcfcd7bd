"""The raw log says of every test row what checkpoints say of it, however the run came to its end; what was deleted is
in it no more."""

from __future__ import annotations

import itertools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import data, metrics, models, objectives, streams
from cljax.core.judging import judged_classes
from cljax.core.types import CljaxError, Learn, UsageError
from cljax.engine import restore
from cljax.io import ledger, row_log

TRAIN = cljax.Recipe(batch_size=8, epochs=1)
SEEDS = 3
OPTIONS = cljax.Options(eval_log="predictions", eval_block=7, eval_every=2, eval_limit=3)
RNG = np.random.default_rng(0)


def classes_of(blobs, kind, **more):
  return streams.build(blobs, kind, validation=0.0, **more)


def weighed_numbers():
  """Rows of two groups with a target and a weight; each is a task."""
  x, y = RNG.normal(size=(36, 3)).astype(np.float32), RNG.uniform(0.5, 2.0, (36, 2)).astype(np.float32)
  arrays = {"x_train": x[:20], "y_train": y[:20], "x_test": x[20:], "y_test": y[20:]}
  rows = data.from_arrays("weighed", arrays | {"group_train": np.arange(20) % 2, "group_test": np.arange(16) % 2})
  return streams.build(rows, "group", tasks=2, validation=0.0)


def weighed(model, spec, values):
  """The squared error of a row weighs what its target says beside it; the score is the root of the weighed mean."""
  del model, spec, values
  gap = lambda prediction, batch: jnp.square(prediction[:, 0] - batch.y[:, 0])
  score = lambda key, predict, batch: (batch.y[:, 1] * gap(predict(batch), batch), batch.y[:, 1])
  scores = {"error": objectives.Score(score, np.sqrt, "lower")}
  return objectives.supervised("weighed", lambda p, batch: (batch.y[:, 1] * gap(p, batch), None), scores, "error")


KINDS = {
  "class": lambda blobs: classes_of(blobs, "class", tasks=2),
  "task": lambda blobs: classes_of(blobs, "task", tasks=2),
  "permuted": lambda blobs: classes_of(blobs, "permuted", tasks=2),
  "si_blurry": lambda blobs: classes_of(blobs, "si_blurry", tasks=2),
  "recurring": lambda blobs: classes_of(blobs, "class", tasks=2, order=(0, 1, 0), forget="2:group=1"),
  "weighed": lambda blobs: weighed_numbers(),
}


def arguments(kind, stream):
  if kind == "weighed":
    return {"stream": stream, "model": models.mlp((3,), 1, hidden=(4,)), "objective": weighed}
  more = {"method": "er", "hyper": {"capacity": 8}, "forget": "finetune_retain"} if kind == "recurring" else {}
  return {"stream": stream, "model": models.mlp((4, 4, 1), 4, hidden=(4,)), **more}


@pytest.fixture(scope="module", params=KINDS)
def made(request, make_blobs, tmp_path_factory):
  """``(kind, stream, result, folder, arguments)``: one run of each kind, with its checkpoints."""
  kind = request.param
  stream = KINDS[kind](make_blobs(rows=9, test_rows=5))
  given, folder = arguments(kind, stream), tmp_path_factory.mktemp(kind)
  options = OPTIONS._replace(eval_log="scores") if kind == "weighed" else OPTIONS
  result = cljax.run(**given, training=TRAIN, options=options, seeds=SEEDS, workdir=str(folder))
  return kind, stream, result, folder, given


@pytest.fixture(scope="module")
def found(made):
  _, stream, _, folder, given = made
  return replayed(stream, folder, given)


def replayed(stream, folder, given):
  """``{evaluation: [S][T] predictions [n, K]}`` by the checkpoints after events, on all test rows of each task."""
  held = restore.history(folder, **given, training=TRAIN)

  @jax.jit
  def predict(values, learner, x, task):
    shown = stream.view.apply(jax.tree.map(jnp.asarray, stream.view.tables), x, jnp.full(x.shape[0], task))
    return held.parts(values).predict(learner, shown, task)

  out = {}
  for number in held.numbers:
    learner, position = held.read(number)
    one = lambda tree, m: jax.tree.map(lambda a: a[m], tree)
    x = stream.dataset.test.x
    out[position["event"]] = [
      [np.asarray(predict(one(held.values, m), one(learner, m), x, t))[rows] for t, rows in enumerate(stream.test)]
      for m in range(SEEDS)
    ]
  return out


def gone(stream):
  """``[N] bool``: of the requests of this page, which name a group alone."""
  groups = {g for e in stream.events if isinstance(e, cljax.Forget) for g in e.groups}
  return np.concatenate([np.isin(stream.dataset.test.group[rows], list(groups)) for rows in stream.test])


def answers(stream, log, predictions, at):
  """``(numerator, denominator, predicted) [S, N]`` by the definition of the score."""
  learned = [e.task for e in stream.events[:at] if isinstance(e, Learn)]
  test, above, below, chosen = stream.dataset.test, [], [], []
  for each in predictions:
    parts = []
    for t, (logits, rows) in enumerate(zip(each, stream.test, strict=True)):
      if log.classes:
        open_ = judged_classes(stream, learned)[t]
        best = np.where(open_, logits, -np.inf).argmax(1)
        parts.append((best == stream.labels[t][test.y[rows]], np.ones(len(rows)), best))
      else:
        target, weight = test.y[rows].T
        parts.append((weight * (logits[:, 0] - target) ** 2, weight, np.zeros(len(rows))))
    a, b, c = (np.concatenate(p) for p in zip(*parts, strict=True))
    above.append(a)
    below.append(b)
    chosen.append(c)
  return np.asarray(above), np.asarray(below), np.asarray(chosen)


def test_the_log_is_what_checkpoints_say(made, found):
  _, stream, result, *_ = made
  log = result.log
  assert sorted(found) == list(range(1, len(stream.events) + 1))
  there, out = ~gone(stream), ~log.present
  np.testing.assert_array_equal(log.present, there)
  for at, predictions in found.items():
    above, below, chosen = answers(stream, log, predictions, at)
    for m in range(SEEDS):
      np.testing.assert_allclose(log.numerator(m)[at], np.where(there, above[m], 0), rtol=1e-5)
      np.testing.assert_array_equal(log.denominator(m)[at], np.where(there, below[m], 0).astype(np.float32))
      if log.classes:
        np.testing.assert_array_equal(log.predicted(m)[at], np.where(there, chosen[m], -1))
  for name in ("label", "group", "row"):
    assert (getattr(log, name)[out] == -1).all()
  rows = np.concatenate(stream.test)
  np.testing.assert_array_equal(log.row[there], rows[there])
  np.testing.assert_array_equal(log.group[there], stream.dataset.test.group[rows][there])


# The log of the recurring stream lacks rows that are evaluated on: those of a group that a request named.
@pytest.mark.parametrize("made", [k for k in KINDS if k != "recurring"], indirect=True)
def test_the_log_adds_up_to_the_matrix(made):
  """Where nothing is gone: every entry of the matrix, the evaluation before the first event among them."""
  _, stream, result, *_ = made
  log, matrix = result.log, result.scores[result.log.main]
  for m in range(SEEDS):
    for t in range(stream.num_tasks):
      mine = log.task == t
      above, below = (a[:, mine].astype(np.float64).sum(1) for a in (log.numerator(m), log.denominator(m)))
      np.testing.assert_allclose(log.finish(above / below), matrix[m, :, t], rtol=1e-6)


def test_metrics_of_rows_are_those_of_checkpoints(made, found):
  kind, stream, result, *_ = made
  log = result.log
  said, last = metrics.of_rows(log), len(stream.events)
  terms = {at: answers(stream, log, p, at) for at, p in found.items()}
  order = [e.task for e in stream.events if isinstance(e, Learn)]
  task = np.repeat(np.arange(stream.num_tasks), [len(rows) for rows in stream.test])
  group = stream.dataset.test.group[np.concatenate(stream.test)]
  left = ~gone(stream) & np.isin(task, order)
  above, below, chosen = terms[last]
  finish = np.sqrt if kind == "weighed" else lambda v: v
  over = lambda mine: finish(above[:, mine].sum(1) / below[:, mine].sum(1))
  np.testing.assert_allclose(said["row_weighted"], over(left), rtol=1e-5)
  if kind == "recurring":
    assert "worst_group" not in said, "one group is left"
  else:
    each = [over(left & (group == g)) for g in (0, 1)]
    np.testing.assert_allclose(said["worst_group"], (np.max if kind == "weighed" else np.min)(each, 0), rtol=1e-5)
  if kind == "weighed":
    assert set(said) == {"row_weighted", "worst_group"}
    return
  labels = np.concatenate([stream.labels[t][stream.dataset.test.y[rows]] for t, rows in enumerate(stream.test)])
  by_class = np.stack([over(left & (labels == c)) for c in range(4)], 1)
  np.testing.assert_allclose(said["class_scores"], by_class)
  np.testing.assert_allclose(said["worst_class"], by_class.min(1))
  lost, shaken, recency = np.zeros((3, SEEDS))
  learned = {t: next(i + 1 for i, e in enumerate(stream.events) if e == Learn(t)) for t in order}
  for m in range(SEEDS):
    wrong_old, wrong_new = 0, 0
    old = {c for t in order for c in labels[left & (task == t)]} - set(labels[left & (task == order[-1])])
    for n in np.flatnonzero(left):
      since = [bool(terms[at][0][m, n]) for at in sorted(found) if at >= learned[task[n]]]
      lost[m] += any(since) and not since[-1]
      shaken[m] += sum(a and not b for a, b in itertools.pairwise(since))
      if labels[n] in old and not since[-1]:
        wrong_old += 1
        wrong_new += chosen[m, n] in set(labels[left & (task == order[-1])])
    recency[m] = wrong_new / wrong_old if wrong_old else np.nan
  np.testing.assert_allclose(said["examples_forgotten"], lost / left.sum())
  np.testing.assert_allclose(said["examples_shaken"], shaken / left.sum())
  if old:
    np.testing.assert_allclose(said["error_recency"], recency)
  else:
    assert "error_recency" not in said
  votes = np.stack([(chosen == c).sum(0) for c in range(4)], 1)
  assert said["ensemble_accuracy"] == pytest.approx([np.mean(votes.argmax(1)[left] == labels[left])])


def content(folder) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in sorted((pathlib.Path(folder) / row_log.FOLDER).iterdir())}


FEW = ("class", "recurring", "weighed")


@pytest.mark.parametrize("made", FEW, indirect=True)
def test_a_killed_run_ends_with_the_same_bytes(made, tmp_path):
  """Its newest checkpoints gone, and files that it had written beyond them, whole and torn."""
  kind, _, result, folder, given = made
  shutil.copytree(folder, tmp_path / "run")
  kept = sorted((tmp_path / "run" / "checkpoints").iterdir(), key=lambda p: int(p.name))
  for path in kept[1:]:
    shutil.rmtree(path)
  (tmp_path / "run" / row_log.FOLDER / "000002").write_bytes(b"torn")
  options = OPTIONS._replace(eval_log="scores") if kind == "weighed" else OPTIONS
  again = cljax.run(**given, training=TRAIN, options=options, seeds=SEEDS, workdir=str(tmp_path / "run"))
  assert again.params_sha256 == result.params_sha256
  assert content(tmp_path / "run") == content(folder)


@pytest.mark.parametrize("made", FEW, indirect=True)
def test_keeping_a_log_changes_no_bit(made):
  """Of what is learned, nor of what is said of it."""
  _, _, result, _, given = made
  plain = cljax.run(**given, training=TRAIN, options=OPTIONS._replace(eval_log="none"), seeds=SEEDS)
  assert plain.log is None
  assert plain.params_sha256 == result.params_sha256
  for name, matrix in result.scores.items():
    np.testing.assert_array_equal(plain.scores[name], matrix)
  assert plain.curves == result.curves


def test_a_longer_stream_goes_on_with_the_log(make_blobs, tmp_path):
  blobs, model = make_blobs(classes=6, rows=9, test_rows=5), models.mlp((4, 4, 1), 6, hidden=(4,))
  build = lambda tasks: streams.build(blobs, tasks=tasks, classes_per_task=2, validation=0.125)
  run = lambda tasks, **more: cljax.run(build(tasks), model, training=TRAIN, seeds=2, **more)
  first = run(2, workdir=str(tmp_path / "grown"))
  run(3, workdir=str(tmp_path / "whole"))
  grown = run(3, workdir=str(tmp_path / "grown"), extend=True)
  assert content(tmp_path / "grown") == content(tmp_path / "whole"), "the log of the run that had all tasks at once"
  of_result = run(3, learner=first).log
  missing = np.zeros((4, len(of_result.label)), bool)
  missing[1, of_result.task == 2] = True  # that learner is gone
  np.testing.assert_array_equal(of_result.there(), ~missing)
  for m in range(2):
    np.testing.assert_array_equal(of_result.right(m), np.where(missing, False, grown.log.right(m)))


def test_what_a_request_reaches_is_gone_from_every_file(make_blobs, tmp_path):
  """Rows of a group; and test rows that are training rows themselves, named by their ids. No copy of the whole file is
  left, and what is left says what it said."""
  blobs, model = make_blobs(rows=9, test_rows=5), models.mlp((4, 4, 1), 4, hidden=(4,))
  given = {"forget": "finetune_retain", "training": TRAIN, "seeds": 2}
  build = lambda text, kind="class": streams.build(blobs, kind, tasks=2, validation=0.0, forget=text)
  plain = cljax.run(build(""), model, training=TRAIN, seeds=2).log
  cljax.run(build(""), model, **given | {"forget": ""}, workdir=str(tmp_path / "group"))
  run = cljax.run(build("2:group=1&class=0"), model, training=TRAIN, seeds=2, workdir=str(tmp_path / "group"),
                  extend=True, answers={2: "finetune_retain"})  # fmt: skip
  here = (plain.group == 1) & (plain.label == 0)
  assert 0 < here.sum() < len(here)
  np.testing.assert_array_equal(~run.log.present, here)
  for m in range(2):
    np.testing.assert_array_equal(run.log.right(m)[:3], plain.right(m) & ~here)
  mask = np.packbits(here)
  for record in row_log.read(tmp_path / "group").records:
    assert not (record.arrays["accuracy"] & mask).any()
  names = sorted(p.name for p in (tmp_path / "group" / row_log.FOLDER).iterdir())
  assert names == ["000000", "000001", "000002", "000003", "layout"]
  assert ledger.is_deleted(tmp_path / "group", 1, "group") is None
  own = build("", "label_random")
  asked = tuple(int(i) for i in blobs.train.id[own.train[0][[1, 4]]])
  run = cljax.run(build([(1, cljax.Forget(ids=asked))], "label_random"), model, **given)
  named = np.concatenate([np.isin(own.dataset.test.id[rows], asked) for rows in own.test])
  np.testing.assert_array_equal(~run.log.present, named)
  assert named.sum() == 4  # in both tasks


def test_a_log_that_is_too_large_is_not_kept(make_blobs, tmp_path):
  blobs, model = make_blobs(rows=9, test_rows=5), models.mlp((4, 4, 1), 4, hidden=(4,))
  stream = streams.build(blobs, "class", tasks=2, validation=0.0)
  size = np.arange(10**7) % 20
  large = stream._replace(test=(size, size))
  told = cljax.engine.evaluating.log_form(large, [cljax.Member(0)] * 17, objective(stream, model), cljax.Options(), 4)
  assert told == (None, "eval.log: off; it would take 128 MB a run, and eval.log_limit is 64 MB")
  apart = [cljax.Member(0, {"a": float(i)}) for i in range(17)]  # of a sweep: each configuration has its own
  assert cljax.engine.evaluating.log_form(large, apart, objective(stream, model), cljax.Options(), 4)[0] is not None
  run = lambda **more: cljax.run(stream, model, training=TRAIN, workdir=str(tmp_path), options=cljax.Options(**more))
  assert run(checkpoint_keep_ids=False).log is None
  with pytest.raises(UsageError, match=r"eval.log: unknown 'all'; allowed: none, scores, predictions"):
    run(eval_log="all")
  with pytest.raises(UsageError, match=r"eval.log: got 'predictions' with checkpoint.keep_ids=False"):
    run(eval_log="predictions", checkpoint_keep_ids=False)
  with pytest.raises(UsageError, match=r"eval.log_limit: got 0; expected an integer of at least 1"):
    run(eval_log_limit=0)


def test_what_can_not_be_read_goes_with_a_request(make_blobs, tmp_path):
  """A file of the log that is damaged may hold anything; the run ends, and what is left of its log is right."""
  blobs, model = make_blobs(rows=9, test_rows=5), models.mlp((4, 4, 1), 4, hidden=(4,))
  build = lambda text: streams.build(blobs, "class", tasks=2, validation=0.0, forget=text)
  first = cljax.run(build(""), model, training=TRAIN, workdir=str(tmp_path))
  (tmp_path / row_log.FOLDER / "000001").write_bytes(b"{}")
  (tmp_path / row_log.FOLDER / row_log.LAYOUT).write_bytes(b"torn")
  run = cljax.run(build("2:group=1"), model, training=TRAIN, workdir=str(tmp_path), extend=True,
                  answers={2: "finetune_retain"})  # fmt: skip
  assert [r is None for r in run.log.records] == [False, True, False, False]
  np.testing.assert_array_equal(run.log.right(0)[2], first.log.right(0)[2] & (first.log.group == 0))
  (tmp_path / row_log.FOLDER / "000002").write_bytes(b"")
  again = cljax.run(build("2:group=1"), model, training=TRAIN, workdir=str(tmp_path), answers={2: "finetune_retain"})
  assert again.log is None
  assert again.params_sha256 == run.params_sha256


def objective(stream, model):
  return cljax.engine.prepare(stream, model).setup.parts.objective


def test_a_damaged_file_is_said_to_be_so(made, tmp_path):
  _, _, _, folder, _ = made
  shutil.copytree(folder / row_log.FOLDER, tmp_path / row_log.FOLDER)
  path = tmp_path / row_log.FOLDER / "000001"
  path.write_bytes(path.read_bytes()[:-1] + b"x")
  with pytest.raises(CljaxError, match=r"log: .*000001 is damaged: its bytes are not what was written"):
    row_log.read(tmp_path)
  path.unlink()
  log = row_log.read(tmp_path)
  assert [r is None for r in log.records[:3]] == [False, True, False]
  assert not log.there()[1].any()
  assert row_log.read(tmp_path / "nothing") is None


def test_a_run_that_diverges_keeps_what_it_had_evaluated(make_blobs, tmp_path):
  """Its first task is learned; the second one's inputs are beyond what float32 holds."""
  stream = streams.build(make_blobs(rows=9, test_rows=5), "class", tasks=2, validation=0.0)
  x = stream.dataset.train.x.copy()
  x[stream.train[1]] = 3e38
  broken = stream._replace(dataset=stream.dataset._replace(train=stream.dataset.train._replace(x=x), digest="broken"))
  model = models.mlp((4, 4, 1), 4, hidden=(4,))
  with pytest.raises(cljax.DivergedError):
    cljax.run(broken, model, training=TRAIN, options=OPTIONS, workdir=str(tmp_path))
  log = row_log.read(tmp_path)
  assert log.there().any(1).tolist() == [True, True]
  assert len(log.events) >= 1
