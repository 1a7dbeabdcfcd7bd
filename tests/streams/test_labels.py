"""Labels that are withheld from training: what decides, what is seen, what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bench import assert_same

import cljax
from cljax import streams
from cljax.core.types import Forget, UsageError
from cljax.evaluation import downstream, evidence
from cljax.streams.labels import NAME, unlabelled, withheld
from cljax.streams.requests import forgotten_classes

OPTIONS = {"least_area": 0.9, "jitter": 0.1, "flip": False, "width": 8}
TRAIN = cljax.Recipe(batch_size=8, epochs=2)


def built(dataset, **options):
  return streams.build(dataset, "class", **{"tasks": 2, "labelled": 1, "validation": 0.125, **options})


def run(stream, model, method="happy", **options):
  hyper = OPTIONS if method == "happy" else {}
  return cljax.run(stream, model, method, hyper, **{"training": TRAIN, "seeds": (0,), **options})


def shuffled(dataset, classes, seed=0):
  """The data set with the labels of the training rows of some classes given to one another."""
  y = np.array(dataset.train.y)
  mine = np.flatnonzero(np.isin(y, classes))
  y[mine] = np.random.default_rng(seed).permutation(y[mine])
  assert (y != dataset.train.y).sum() > 10
  return dataset._replace(train=dataset.train._replace(y=y), digest="other")


def test_rows_without_labels_keep_them_where_they_are_measured(dataset):
  plain, stream = built(dataset, labelled=0), built(dataset)
  split = stream.dataset.train
  for t, label in ((0, plain.dataset.train.y[plain.train[0]]), (1, -1)):
    np.testing.assert_array_equal(stream.labels[t][split.y[stream.train[t]]], label)
  assert withheld(stream) == (1,)
  assert [unlabelled(stream, t).mean() for t in (0, 1)] == [0, 1]
  assert withheld(plain) == ()
  for part, whole in (("validation", dataset.train), ("test", dataset.test)):
    for t, rows in enumerate(getattr(stream, part)):
      kept = stream.labels[t][getattr(stream.dataset, "test" if part == "test" else "train").y[rows]]
      np.testing.assert_array_equal(kept, whole.y[rows])
  np.testing.assert_array_equal(stream.classes_of_task, plain.classes_of_task)
  assert stream.num_classes == plain.num_classes
  assert stream.dataset.class_names == (*dataset.class_names, NAME)
  assert stream.dataset.digest != plain.dataset.digest
  assert dataset.train.y.max() == 3, "the data set itself is as it was"


def test_all_tasks_labelled_are_no_other_stream(dataset):
  for labelled in (0, 2):
    stream = built(dataset, labelled=labelled)
    assert stream.dataset is dataset
    assert stream.labels.shape == (2, 4)


@pytest.mark.parametrize(
  "options", [{}, {"task_fractions": (1.0, 0.5)}, {"validation": 0.3, "label_noise": 0.5}, {"order": (1, 0, 1)}]
)
def test_withheld_labels_decide_nothing(dataset, options):
  """Two data sets that differ in them alone: the same rows are learned, held out and thinned."""
  first, second = built(dataset, **options), built(shuffled(dataset, (2, 3)), **options)
  for part in ("train", "validation", "test"):
    for a, b in zip(getattr(first, part), getattr(second, part), strict=True):
      np.testing.assert_array_equal(a, b)
  rows = np.concatenate(first.train)
  np.testing.assert_array_equal(first.dataset.train.y[rows], second.dataset.train.y[rows])


def test_withheld_labels_reach_nothing(dataset, small_model):
  """To the bits of all that a run keeps, and says of test rows."""
  a, b = (run(built(d), small_model, evaluators="clusters") for d in (dataset, shuffled(dataset, (2, 3))))
  assert_same(a.learner, b.learner)
  np.testing.assert_array_equal(a.accuracy, b.accuracy)
  for name, value in a.evaluations["clusters"].items():
    np.testing.assert_array_equal(value, b.evaluations["clusters"][name])


def test_labels_that_are_there_do_reach_the_learner(dataset, small_model):
  """What the test above could not see: of the first task the same exchange moves the bits."""
  a, b = (run(built(d, validation=0.0), small_model) for d in (dataset, shuffled(dataset, (0, 1))))
  leaves = lambda r: np.concatenate([np.ravel(v) for v in jax.tree.leaves(r.learner.params)])
  assert (leaves(a) != leaves(b)).any()


def test_classes_return_in_parts_that_no_two_tasks_share(make_blobs):
  data = make_blobs(classes=6, rows=30)
  plain, stream = (built(data, tasks=3, labelled=1, validation=0.0, returning=r) for r in (0.0, 0.1))
  every = np.concatenate(stream.train)
  np.testing.assert_array_equal(np.sort(every), np.sort(np.concatenate(plain.train)))
  counts = np.array([np.bincount(data.train.y[rows], minlength=6) for rows in stream.train])
  np.testing.assert_array_equal(counts, [[24, 24, 0, 0, 0, 0], [3, 3, 27, 27, 0, 0], [3, 3, 3, 3, 30, 30]])
  np.testing.assert_array_equal(stream.classes_of_task, counts > 0)
  for a, b in zip(plain.test, stream.test, strict=True):
    np.testing.assert_array_equal(a, b)
  other = built(data, tasks=3, labelled=1, validation=0.0, returning=0.1, seed=1)
  assert any(not np.array_equal(a, b) for a, b in zip(stream.train, other.train, strict=True))
  named = built(data, tasks=3, labelled=0, validation=0.0, returning=0.1)
  assert named.dataset is data, "the two options do not need one another"


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"labelled": 3}, "stream.labelled: got 3; expected a number of tasks up to 2 (0: all)"),
    ({"labelled": -1}, "stream.labelled: got -1;"),
    ({"labelled": True}, "stream.labelled: got True;"),
    ({"labelled": 1.0}, "stream.labelled: got 1.0;"),
    ({"returning": -0.1}, "stream.returning: got -0.1; expected a share of at least 0, below 1 in 1 tasks together"),
    ({"returning": 1.0}, "stream.returning: got 1.0;"),
    ({"tasks": 4, "returning": 0.34}, "below 1 in 3 tasks together"),
    ({"returning": "0.1"}, "stream.returning: got '0.1';"),
    ({"per_seed": True}, "stream.labelled: got 1 with stream.per_seed=True; members share the rows on the device"),
    ({"labelled": 0, "returning": 0.1, "per_seed": True}, "stream.returning: got 0.1 with stream.per_seed=True"),
    ({"forget": "1:class=0"}, "class= names rows by labels, which stream.labelled withholds; give ids=, task= or"),
    ({"forget": f"1:class={NAME}"}, "class= names rows by labels, which stream.labelled withholds"),
  ],
)
def test_what_can_not_be_is_said(dataset, options, said):
  with pytest.raises(UsageError) as error:
    built(dataset, **options)
  assert said in str(error.value)
  assert "\n" not in str(error.value)


def test_a_class_of_the_name_of_none_is_refused(dataset):
  named = dataset._replace(class_names=("a", NAME, "b", "c"))
  with pytest.raises(UsageError, match="the data set has a class 'unlabelled', which is what rows without labels are"):
    built(named)
  assert built(named, labelled=0).dataset is named


def test_what_reads_labels_is_refused(dataset, small_model):
  stream = built(dataset)
  told = r"stream\.labelled: the training rows of task 1 have no labels"
  for method in ("er", "ewc", "finetune"):
    with pytest.raises(UsageError, match=f"{told}, which '{method}' learns from; those that do without: happy"):
      run(stream, small_model, method)
  with pytest.raises(UsageError, match=r"which 'er \+ retrain' learns from"):
    run(built(dataset, forget="1:ids=1000-1010"), small_model, "er", forget="retrain")
  with pytest.raises(UsageError, match=f"{told}, so the objective must be of classes; 'contrastive' has other targets"):
    run(stream, small_model, "finetune", objective="contrastive")
  with pytest.raises(UsageError, match=r"train\.patience: got 1, which ends tasks by labels that stream"):
    run(stream, small_model, training=TRAIN._replace(patience=1))
  with pytest.raises(UsageError, match=r"train\.presentations: got True, which compares labels that stream"):
    run(stream, small_model, options=cljax.Options(presentations=True))
  with pytest.raises(UsageError, match="evaluators: 'linear_probe': needs the labels of training rows, which stream"):
    run(stream, small_model, evaluators="linear_probe")
  with pytest.raises(UsageError, match="request: evidence compares the labels of training rows, which stream"):
    evidence.sides(stream, Forget(ids=(1000,)))
  with pytest.raises(UsageError, match="class= names rows by labels"):
    streams.with_forget(stream, [(1, Forget(classes=("class0",)))])


def test_a_part_that_reads_labels_makes_the_whole_read_them():
  able, not_able = cljax.Access(unlabelled=True), cljax.Access()
  from cljax.core.method import union_access

  assert union_access([able, able]).unlabelled
  assert not union_access([able, not_able]).unlabelled


def test_rows_without_labels_are_nobody_s_downstream(make_blobs):
  data = make_blobs(classes=6, rows=30)
  stream = built(data, tasks=2, classes_per_task=2, validation=0.0)
  sides = downstream.with_downstream(evidence.Sides({}, {}, {}, np.ones((2, 6), bool), {}), stream)
  assert set(np.unique(sides.y["downstream"])) == {4, 5}


def test_labels_of_a_task_without_any_are_gone_with_all_of_its_rows(make_blobs):
  """Rows without labels may be of any class of their task, also of one that came before."""
  data = make_blobs(classes=6, rows=30)
  gone = lambda forget, **more: np.flatnonzero(
    forgotten_classes(s := built(data, tasks=3, validation=0.0, forget=forget, **more), len(s.events))
  ).tolist()
  assert gone("3:task=1") == [2, 3]
  assert gone("3:task=0") == [0, 1]
  assert gone("3:task=0+task=2") == [0, 1, 4, 5]
  assert gone("3:task=0", returning=0.1) == []
  assert gone("3:task=1", returning=0.1) == []
  assert gone("3:task=1,2", returning=0.1) == [2, 3, 4, 5]
  stream = built(data, tasks=3, validation=0.0)
  most = ",".join(str(i) for i in data.train.id[stream.train[1][1:]])
  assert gone(f"3:ids={most}") == []


def test_a_run_without_labels_resumes_to_the_same_bits(dataset, small_model, tmp_path):
  stream = built(dataset, returning=0.2)
  saved = cljax.Options(checkpoint_every=3, chunk_steps=3)
  whole = run(stream, small_model, options=saved, seeds=(0, 3), workdir=str(tmp_path / "whole"))
  asked = []
  more = {"options": saved, "seeds": (0, 3), "workdir": str(tmp_path / "cut")}
  with pytest.raises(cljax.Stopped):
    run(stream, small_model, **more, stop=lambda: asked.append(0) or len(asked) > 3)
  assert_same(whole.learner, run(stream, small_model, **more).learner)


def test_requests_are_answered_without_labels(dataset, small_model):
  """By retraining, which no label decides: to the bits of a run whose withheld labels are others."""
  made = lambda d: built(d, validation=0.0, forget="1:ids=1000-1030; 2:task=1")
  found, other = (run(made(d), small_model, forget="retrain", seeds=2) for d in (dataset, shuffled(dataset, (2, 3))))
  assert_same(found.learner, other.learner)
  assert found.forgotten[1]["forget"] == [None, None], "rows without labels have no score"
  assert None not in found.forgotten[0]["forget"] + found.forgotten[0]["retain"] + found.forgotten[1]["retain"]
  assert not np.asarray(found.learner.method_state["happy"].prototypes)[:, 2:].any()


def test_seeds_together_are_seeds_alone(dataset, small_model):
  both, alone = (run(built(dataset), small_model, seeds=s, evaluators="clusters") for s in ((0, 3), (3,)))
  assert both.params_sha256[1] == alone.params_sha256[0]
  for name, value in both.evaluations["clusters"].items():
    np.testing.assert_array_equal(value[1], alone.evaluations["clusters"][name][0])


def test_rows_that_are_fed_have_no_labels_either(dataset, small_model):
  stream = built(dataset)
  fed = run(stream, small_model, options=cljax.Options(feed="grain"))
  assert fed.params_sha256 == run(stream, small_model).params_sha256
