"""What is judged: the classes that compete, and that a run's predictions are those that it was judged by."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import streams
from cljax.core import judging

TRAINING = cljax.Recipe(batch_size=8, epochs=1)
OPTIONS = cljax.Options(chunk_steps=4)
KINDS = {
  "class": {}, "task": {}, "domain": {}, "group": {"tasks": 2}, "permuted": {}, "rotated": {}, "label_permuted": {},
  "instance": {},
  "si_blurry": {"seed": 1}, "scole": {"tasks": 3, "classes_per_task": 2},
}  # fmt: skip
# Methods with a predict of their own, and plain ones.
METHODS = {"finetune": {}, "ncm": {}, "supsup": {}, "ema": {"capacity": 8}}


def stream_of(dataset, kind, active=""):
  return streams.build(dataset, kind, **{"tasks": 2, "validation": 0.0, "active": active, **KINDS[kind]})


def pairs():
  """Each kind with each of two methods and activations: a pairwise design, not the product."""
  names, actives = list(METHODS), ["all", "seen", "task"]
  return [(k, names[(i + j) % 4], actives[(i + 2 * j) % 3]) for i, k in enumerate(KINDS) for j in range(2)]


@pytest.mark.parametrize(("kind", "method", "active"), pairs())
def test_what_is_reported_is_what_is_predicted(dataset, small_model, kind, method, active, tmp_path):
  stream = stream_of(dataset, kind, active)
  model = small_model if stream.num_classes == 4 else cljax.models.mlp((4, 4, 1), stream.num_classes, hidden=(8,))
  result = cljax.run(
    stream, model, method, METHODS[method], training=TRAINING, options=OPTIONS, seeds=2, workdir=tmp_path
  )
  loaded = cljax.load(tmp_path, stream=stream, model=model, method=method, hyper=METHODS[method], training=TRAINING)
  for task, rows in enumerate(stream.test):
    x, y = stream.dataset.test.x[rows], stream.labels[task, stream.dataset.test.y[rows]]
    for member in range(2):
      logits = np.asarray(result.predict(x, member=member, task=task))
      assert np.mean(logits.argmax(-1) == y) == pytest.approx(result.accuracy[member, -1, task], abs=1e-7)
      np.testing.assert_array_equal(np.asarray(loaded.predict(x, member=member, task=task)), logits)
  needed = bool(stream.view.tables) or stream.task_id_given
  if needed:
    with pytest.raises(cljax.UsageError, match="task: got none"):
      result.predict(x)
  else:
    assert np.asarray(result.predict(x)).shape == (len(x), stream.num_classes)
  with pytest.raises(cljax.UsageError, match="expected one of 0"):
    result.predict(x, task=stream.num_tasks)


def constant(model, spec, order=()):
  """Answers every input with the same logits, highest for the class that comes last in ``order``."""
  del model
  logits = jnp.zeros(spec.num_classes).at[jnp.asarray(order)].set(jnp.arange(1.0, len(order) + 1))
  return cljax.Method(predict=lambda key, learner, x, task: jnp.broadcast_to(logits, (x.shape[0], spec.num_classes)))


def test_classes_never_met_do_not_compete(dataset, small_model):
  """Logits 3 > 2 > 1 > 0 for every input, tasks {0, 1} and {2, 3}: by hand, over the union of what was trained."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.125, active="seen", forget="1:class=0")
  method = lambda model, spec: constant(model, spec, (0, 1, 2, 3))._replace(
    access=cljax.Access(forgets=True), forget=lambda key, learner, request, tools: learner
  )
  options = OPTIONS._replace(eval_every=4)
  result = cljax.run(stream, small_model, method, training=TRAINING, options=options)
  share = lambda task, label: np.mean(stream.dataset.test.y[stream.test[task]] == label)
  before = [share(0, 3), share(1, 3)]  # all classes compete
  first = [share(0, 1), share(1, 3)]  # of task 0 only 0 and 1; task 1 is to come
  last = [share(0, 3), share(1, 3)]
  np.testing.assert_allclose(result.accuracy[0], [before, first, first, last], atol=1e-7)
  np.testing.assert_allclose(result.validation[0, :, 0], [0, 0.5, 1, 0], atol=0.3)  # class 0's held-out rows went too
  assert result.validation[0, 1, 0] > 0 == result.validation[0, 0, 0]
  assert {c["event"]: c["accuracy"][0] for c in result.curves} == {0: first, 2: last}
  (forgotten,) = result.forgotten
  y = stream.dataset.train.y[stream.train[0]]
  np.testing.assert_allclose(forgotten["forget"], [0.0])
  np.testing.assert_allclose(forgotten["retain"], [np.mean(y[y != 0] == 1)])


def test_the_task_is_told_where_the_stream_tells_it(dataset, small_model):
  stream = streams.build(dataset, "task", tasks=2, validation=0.0)
  method = lambda model, spec: constant(model, spec, (0, 1, 2, 3))
  result = cljax.run(stream, small_model, method, training=TRAINING, options=OPTIONS)
  share = lambda task, label: np.mean(stream.dataset.test.y[stream.test[task]] == label)
  np.testing.assert_allclose(result.accuracy[0], [[share(0, 1), share(1, 3)]] * 3, atol=1e-7)


def test_the_union_by_hand(dataset):
  classes = streams.build(dataset, "class", tasks=2, validation=0.0)
  every, old = [True] * 4, [True, True, False, False]
  assert judging.judged_classes(classes, []).tolist() == [every, every]
  assert judging.judged_classes(classes, [0]).tolist() == [old, every]
  assert judging.judged_classes(classes, [0], "all").tolist() == [every, every]
  assert judging.judged_classes(classes, [0, 1, 0]).tolist() == [every, every]
  told = streams.build(dataset, "task", tasks=2, validation=0.0)
  assert judging.judged_classes(told, []).tolist() == told.classes_of_task.tolist()
  drawn = streams.build(dataset, "scole", tasks=3, classes_per_task=2, validation=0.0)
  met = drawn.classes_of_task[drawn.events[0].task]
  first = drawn.events[0].task
  assert judging.judged_classes(drawn, [first])[first].tolist() == met.tolist()
  assert judging.judged_classes(drawn, [first])[-1].tolist() == every, "the whole test set is no task that was met"
  prefix = classes._replace(events=classes.events[:1])
  assert judging.judged_classes(prefix, [0]).tolist() == judging.judged_classes(classes, [0]).tolist()


def test_a_partial_evaluation_sees_every_class(dataset, small_model):
  """Rows stored by class: the first ones of a task would be of one class. By hand: the share of a constant answer."""
  order = np.argsort(dataset.test.y, kind="stable")
  by_class = dataset._replace(test=type(dataset.test)(*(a[order] for a in dataset.test)))
  for kind in ("domain", "permuted"):
    stream = streams.build(by_class, kind, tasks=2, validation=0.0)
    method = lambda model, spec: constant(model, spec, range(spec.num_classes))
    model = small_model if kind == "permuted" else cljax.models.mlp((4, 4, 1), 2, hidden=(8,))
    options = OPTIONS._replace(eval_every=4, eval_limit=8)
    result = cljax.run(stream, model, method, training=TRAINING, options=options)
    assert {tuple(c["accuracy"][0]) for c in result.curves} == {(1 / stream.num_classes,) * 2}
    np.testing.assert_allclose(result.accuracy[0], 1 / stream.num_classes, atol=1e-7)


def test_without_a_task_the_classes_met_compete(dataset, small_model):
  """After one of two tasks, whose classes are 0 and 1, the others can not be answered."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.0)
  result = cljax.run(stream._replace(events=stream.events[:1]), small_model, training=TRAINING, options=OPTIONS)
  logits = np.asarray(result.predict(dataset.test.x[:3]))
  assert np.isfinite(logits[:, :2]).all()
  assert (logits[:, 2:] == -np.inf).all()
  assert np.isfinite(np.asarray(result.predict(dataset.test.x[:3], task=1))).all()


def test_no_validation_rows_at_all_are_no_warning(dataset, small_model):
  whole = streams.build(dataset, "class", tasks=2, validation=0.25)
  one = whole._replace(validation=(whole.validation[0], whole.validation[1][:0]))
  none = whole._replace(validation=tuple(v[:0] for v in whole.validation))
  run = lambda stream: cljax.run(stream, small_model, training=TRAINING, options=OPTIONS)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert run(none).validation is None
  with pytest.warns(UserWarning, match="task 1 has no validation rows, so none are evaluated"):
    assert run(one).validation is None
