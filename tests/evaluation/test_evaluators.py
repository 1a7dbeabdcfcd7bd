"""Evaluators: the linear probe against NumPy, what a run makes of them, and what is refused."""

from __future__ import annotations

import functools
import queue

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import evaluators, streams
from cljax.core.method import Method
from cljax.core.types import Forget, Learn, Outputs, UsageError
from cljax.io import identity

TRAIN = cljax.Recipe(batch_size=8, epochs=1)


def count(learner, predict, stream, event):
  """The steps that were done, one number; and each task's number, but nothing of those that no event learned yet."""
  del predict
  met = [e.task for e in stream.events[: event + 1] if isinstance(e, Learn)]
  return {"steps": int(learner.step), "task": [t if t in met else np.nan for t in range(stream.num_tasks)]}


def accuracy(learner, predict, stream, event):
  """The run's own score, from what is predicted."""
  del learner, event
  right = lambda t, r: np.asarray(predict(stream.dataset.test.x[r], t)).argmax(-1) == stream.dataset.test.y[r]
  return {"accuracy": [right(t, r).mean() for t, r in enumerate(stream.test)]}


COUNT, ACCURACY = cljax.Evaluator("count", count, {"steps": "lower"}), cljax.Evaluator("own", accuracy)


@pytest.fixture(scope="module")
def judged(class_stream, small_model):
  given = ("linear_probe", COUNT, ACCURACY)
  return cljax.run(class_stream, small_model, "er", {"capacity": 8}, training=TRAIN, seeds=[3, 5], evaluators=given)


def own_fit(features, y, classes, ridge):
  """Ridge regression of one-hot labels with an intercept that is not shrunk, by least squares on augmented rows."""
  features, hot = np.asarray(features, np.float64), np.eye(classes)[y]
  n, size = features.shape
  level = ridge * n * features.var(0).mean()
  rows = np.concatenate([np.ones((n, 1)), features], 1)
  shrunk = np.sqrt(level) * np.concatenate([np.zeros((size, 1)), np.eye(size)], 1)
  both = np.concatenate([rows, shrunk]), np.concatenate([hot, np.zeros((size, classes))])
  return np.linalg.lstsq(*both, rcond=None)[0]


def own_accuracy(solution, features, y, open_):
  values = np.concatenate([np.ones((len(y), 1)), features], 1) @ solution
  return np.mean(np.where(open_, values, -np.inf).argmax(-1) == y)


def as_predict(features):
  return evaluators.Predict(None, lambda x, task=None: Outputs(None, features(x, task)))


@pytest.mark.parametrize(("kind", "ridge", "block"), [("class", 1e-3, 256), ("task", 2.0, 5), ("domain", 0.1, 7)])
def test_a_probe_is_ridge_regression_of_one_hot_labels(make_blobs, kind, ridge, block):
  """On features that are a fixed map of the inputs and the task, by another way to the same solution."""
  dataset = make_blobs(classes=4, rows=12, test_rows=30)
  dataset = dataset._replace(test=dataset.test._replace(x=dataset.test.x + 1.5 * np.sin(9 * dataset.test.x)))
  stream = streams.build(dataset, kind, tasks=2, validation=0.2)
  mix = np.random.default_rng(0).normal(size=(2, 16, 3))
  features = lambda x, task: np.tanh(np.asarray(x).reshape(len(x), -1) @ mix[task] / 2)
  probe = evaluators.linear_probe(ridge=ridge, block=block)
  train, test, classes = dataset.train, dataset.test, stream.num_classes
  for event in (0, 1):
    met = [e.task for e in stream.events[: event + 1]]
    seen = [(features(train.x[r], t), stream.labels[t][train.y[r]]) for t in met for r in [stream.train[t]]]
    x, y = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    solution, there = own_fit(x, y, classes, ridge), np.isin(np.arange(classes), y)
    found = probe.fn(None, as_predict(features), stream, event)["accuracy"]
    for t, rows in enumerate(stream.test):
      open_ = there & stream.classes_of_task[t] if kind == "task" else there
      known = (there & stream.classes_of_task[t]).any()
      expected = own_accuracy(solution, features(test.x[rows], t), stream.labels[t][test.y[rows]], open_)
      assert found[t] == expected if known else np.isnan(found[t])
  assert ((found > 0.3) & (found < 1)).all(), "else nothing is told apart"
  assert np.isnan(probe.fn(None, as_predict(features), stream, -1)["accuracy"]).all()


def test_a_probe_has_no_deleted_rows(dataset):
  """Rows are deleted whose features would turn the answer round; a task that is deleted whole has no value."""
  poisoned = np.arange(len(dataset.train.y)) % 2 == 0
  turned = dataset._replace(train=dataset.train._replace(group=poisoned.astype(np.int32)))
  stream = streams.build(turned, "class", tasks=2)
  stream = stream._replace(events=(Learn(0), Learn(1), Forget(groups=(1,)), Forget(tasks=(0,))))
  x = dataset.train.x
  bad = {r.tobytes() for r in x[poisoned]}
  features = lambda x, task: np.stack([(-1 if r.tobytes() in bad else 1) * r.ravel() for r in np.asarray(x)])
  probe = evaluators.linear_probe()
  before, after, last = (probe.fn(None, as_predict(features), stream, e)["accuracy"] for e in (1, 2, 3))
  assert before.max() < 0.8
  np.testing.assert_array_equal(after, 1.0)
  assert np.isnan(last[0])
  assert last[1] == 1.0
  alike = probe.fn(None, as_predict(lambda x, task: np.ones((len(x), 2))), stream, 1)["accuracy"]
  assert alike.mean() < 0.5, "features that are all alike say nothing"
  nothing = probe.fn(None, as_predict(lambda x, task: np.full((len(x), 2), np.nan)), stream, 1)["accuracy"]
  assert np.isnan(nothing).all()


def test_what_evaluators_say_stands_in_the_result(judged, class_stream):
  """A row before the first event and one after each; a number under every task; the run's own score, recomputed."""
  said = judged.evaluations
  assert {n: sorted(m) for n, m in said.items()} == {
    "linear_probe": ["accuracy"], "count": ["steps", "task"], "own": ["accuracy"],
  }  # fmt: skip
  assert all(m.shape == (2, 3, 2) for of in said.values() for m in of.values())
  assert judged.steps == 12  # two classes of 21 rows a task
  np.testing.assert_array_equal(said["count"]["steps"], np.broadcast_to(np.asarray([0, 6, 12])[:, None], (2, 3, 2)))
  nan = np.nan
  np.testing.assert_array_equal(said["count"]["task"][0], [[nan, nan], [0, nan], [0, 1]])
  np.testing.assert_array_equal(said["own"]["accuracy"], judged.accuracy)
  assert judged.evaluations_better == {"linear_probe": {"accuracy": "higher"}, "count": {"steps": "lower"}, "own": {}}


def test_a_probe_of_a_run_is_of_its_features(judged, class_stream, small_model):
  """NumPy's ridge on the features of the trained parameters, for both members."""
  train, test = class_stream.dataset.train, class_stream.dataset.test
  for member in range(2):
    params = jax.tree.map(lambda a, m=member: a[m], judged.learner.params)
    features = lambda x, p=params: small_model.apply(p, {}, x, train=False, key=None)[0].features
    rows = np.concatenate(class_stream.train)
    solution = own_fit(features(train.x[rows]), train.y[rows], 4, 1e-3)
    expected = [own_accuracy(solution, features(test.x[r]), test.y[r], True) for r in class_stream.test]
    np.testing.assert_array_equal(judged.evaluations["linear_probe"]["accuracy"][member, -1], expected)


def test_evaluators_see_what_is_judged(class_stream, small_model):
  """Under an optimizer that trains other parameters than it is judged by, and a method that brings a model of its own:
  outputs, predictions and the learner's parameters go together."""

  def factory(model, spec):
    del spec

    def apply(params, state, x, **more):
      out, state = model.apply(params, state, x, **more)
      return out._replace(logits=3 * out.logits, features=5 * out.features), state

    return Method(model=model._replace(apply=apply))

  gaps = []

  def look(learner, predict, stream, event):
    del event
    x = stream.dataset.test.x
    out, _ = small_model.apply(learner.params, {}, x, train=False, key=None)
    judged, own = predict(x), predict.outputs(x)
    open_ = np.isfinite(judged)
    off = lambda a, b: np.abs(a - b).max() / np.abs(b).max()
    gaps.append([off(own.features, 5 * out.features), off(own.logits, 3 * out.logits),
                 off(judged[open_], own.logits[open_])])  # fmt: skip
    return {"classes": open_.any(0).sum(), "size": np.abs(own.features).max()}

  free = optax.contrib.schedule_free_sgd(learning_rate=0.5)
  result = cljax.run(class_stream, small_model, factory, optimizer=free, training=TRAIN,
                     evaluators=cljax.Evaluator("look", look))  # fmt: skip
  np.testing.assert_allclose(gaps, 0, atol=4e-6)
  assert result.evaluations["look"]["classes"][0, :, 0].tolist() == [4, 2, 4]
  assert (result.evaluations["look"]["size"] > 0.1).all()


def test_evaluators_change_nothing_that_is_learned(judged, class_stream, small_model):
  plain = cljax.run(class_stream, small_model, "er", {"capacity": 8}, training=TRAIN, seeds=[3, 5])
  assert plain.params_sha256 == judged.params_sha256
  np.testing.assert_array_equal(plain.accuracy, judged.accuracy)
  assert plain.evaluations == {}


CALLS: queue.SimpleQueue = queue.SimpleQueue()  # a global that says nothing of what it holds: no part of a digest


def called(empty=False) -> list[int]:
  held = [CALLS.get() for _ in range(CALLS.qsize())]
  for event in () if empty else held:
    CALLS.put(event)
  return held


def drawn(learner, predict, stream, event):
  """Another number at each call, which nobody could compute again."""
  del learner, predict, stream
  CALLS.put(event)
  return {"number": 1 / (3 + CALLS.qsize()), "each": np.asarray([np.nan, np.pi * CALLS.qsize()])}


DRAWS = cljax.Evaluator("draws", drawn)


def test_a_stopped_run_keeps_what_was_said(class_stream, small_model, judged, tmp_path):
  """Stopped inside the second task, and between two members after it: what an event left is not measured twice."""
  called(empty=True)
  more: dict = {"seeds": [3, 5], "training": TRAIN, "evaluators": ("linear_probe", DRAWS), "workdir": str(tmp_path)}
  more["options"] = cljax.Options(checkpoint_every=2, chunk_steps=2)
  run = lambda stop=None: cljax.run(class_stream, small_model, "er", {"capacity": 8}, **more, stop=stop)
  for most in (4, 5):
    with pytest.raises(cljax.Stopped):
      run(lambda most=most: CALLS.qsize() >= most)
  result = run()
  assert called() == [-1, -1, 0, 0, 1, 1, 1], "the last event's first answer was lost with the stop"
  assert result.params_sha256 == judged.params_sha256
  probe = lambda r: r.evaluations["linear_probe"]["accuracy"]
  np.testing.assert_array_equal(probe(result), probe(judged))
  said, calls = result.evaluations["draws"], np.asarray([[1, 3, 6], [2, 4, 7]])
  np.testing.assert_array_equal(said["number"], np.broadcast_to(1 / (3 + calls)[..., None], (2, 3, 2)))
  np.testing.assert_array_equal(said["each"][..., 1], np.pi * calls)
  assert np.isnan(said["each"][..., 0]).all()
  again = run()  # of a run that is done
  np.testing.assert_array_equal(again.evaluations["draws"]["number"], said["number"])
  assert CALLS.qsize() == 7


def test_a_workdir_of_other_evaluators_is_refused(class_stream, small_model, tmp_path):
  """By name, and by the code of one's own: its bytecode, what it closes over and what it calls."""
  run = lambda *chosen: cljax.run(class_stream, small_model, training=TRAIN, workdir=str(tmp_path), evaluators=chosen)
  run("linear_probe", scaled(2.0))
  run(scaled(2.0), "linear_probe")  # in another order they are the same
  for chosen in ((), ("linear_probe",), (scaled(2.0),)):
    with pytest.raises(UsageError, match=r"another configuration; differing keys: .*evaluators"):
      run(*chosen)
  for chosen in (("linear_probe", scaled(3.0)), (evaluators.linear_probe(ridge=0.5), scaled(2.0))):
    with pytest.raises(UsageError, match=r"keys: code\.evaluators\.\w+ \(the code of the evaluator"):
      run(*chosen)


def scaled(factor):
  return cljax.Evaluator("scaled", lambda learner, predict, stream, event: {"steps": factor * int(learner.step)})


def test_the_digest_of_host_code():
  """Equal for the same code made twice; another for each thing that changes what it computes."""

  def made(body, **names):
    space = {"__name__": "made", "np": np, **names}
    exec(body, space)
    return space["f"]

  base = "def g(x):\n  return x + 1\ndef f(a, b=2):\n  return g(a) * b * K\n"
  digest = lambda *a, **k: identity.code_digest(made(*a, **{"K": 1.5, **k}))
  assert digest(base) == digest(base)
  others = [base.replace("x + 1", "x + 2"), base.replace("b=2", "b=3"), base.replace("g(a)", "g(a) - g(b)")]
  found = [digest(base), digest(base, K=2.5), *map(digest, others)]
  assert len(set(found)) == 5
  # Whatever a name of its module stands for.
  for one, other in (({"a": 1}, {"a": 2}), ([1], [2]), (jnp.ones(()), jnp.zeros(())), (functools.partial(max, 1),
                     functools.partial(max, 2))):  # fmt: skip
    assert digest(base, K=one) == digest(base, K=one) != digest(base, K=other)
  shared = lambda n: base.replace("K", "C.n") + f"class C:\n  n = {n}\n"
  assert digest(shared(1)) == digest(shared(1)) != digest(shared(2))
  closed = lambda value: lambda x: x + value
  arrays = [np.arange(3), np.arange(3.0), np.arange(1, 4)]
  digests = [identity.code_digest(closed(a)) for a in arrays]
  assert len(set(digests)) == 3
  assert digests[0] == identity.code_digest(closed(np.arange(3)))
  inner = [identity.code_digest(closed(closed(v))) for v in (1, 2)]
  assert inner[0] != inner[1]
  partly = [identity.code_digest(functools.partial(count, event=e)) for e in (1, 2, 1)]
  assert partly[0] == partly[2] != partly[1]

  class Called:
    def __init__(self, n):
      self.n = n

    def __call__(self, x):
      return x * self.n

  assert identity.code_digest(Called(1)) == identity.code_digest(Called(1)) != identity.code_digest(Called(2))

  def loop(n):
    return loop(n - 1) if n else 0

  assert identity.code_digest(loop) == identity.code_digest(loop)


def of(answer):
  """An evaluator that answers so."""

  def fn(learner, predict, stream, event):
    del learner, predict, stream
    return answer(event) if callable(answer) else answer

  return cljax.Evaluator("mine", fn, {"a": "higher"} if answer == {"b": 1} else {})


def failing(event):
  raise KeyError("lost\nand more")


WRONG = [
  (lambda e: {"a": 1.0} if e < 0 else {"b": 1.0}, "'mine' returned the metrics b; expected as at first: a"),
  (failing, "'mine' raised KeyError before the first event: 'lost\\nand more'"),
  (lambda e: {"a": 1 / 0} if e == 0 else {"a": 1}, "'mine' raised ZeroDivisionError after event 0: division by zero"),
  ([1.0], "'mine' returned list; expected {metric: number or [2]}"),
  ({}, "'mine' returned an empty dict; expected {metric: number or [2]}"),
  ({3: 1.0}, "'mine' returned a metric 3; expected letters, digits and any of _@.+-"),
  ({"a b": 1.0}, "'mine' returned a metric 'a b'; expected letters, digits and any of _@.+-"),
  ({"b": 1}, "'mine' returned no 'a', of which it says what is better; it returned b"),
  ({"a": [1.0, 2.0, 3.0]}, "'mine': a has shape (3,); expected a number or [2], one a task"),
  ({"a": np.ones((2, 1))}, "'mine': a has shape (2, 1); expected a number or [2], one a task"),
  ({"a": "much"}, "'mine': a is 'much'; expected a number or [2] of them"),
  ({"a": None}, "'mine': a is None; expected a number or [2] of them"),
  ({"a": [1, [2, 3]]}, "'mine': a is [1, [2, 3]]; expected a number or [2] of them"),
]


@pytest.mark.parametrize(("answer", "said"), WRONG)
def test_what_may_not_be_returned_is_one_line(class_stream, small_model, answer, said):
  with pytest.raises(UsageError) as error:
    cljax.run(class_stream, small_model, training=TRAIN, evaluators=of(answer))
  assert str(error.value) == f"evaluators: {said}"


def test_numbers_of_any_kind_are_numbers():
  kinds = {"int": 3, "bool": True, "half": jnp.bfloat16(0.5), "array": jnp.arange(2), "nan": [np.nan, 1], "f": 1.5}
  found = evaluators.checked(of({}), kinds, 2)
  assert {k: v.tolist() for k, v in found.items() if k != "nan"} == {
    "int": [3, 3], "bool": [1, 1], "half": [0.5, 0.5], "array": [0, 1], "f": [1.5, 1.5],
  }  # fmt: skip
  assert np.isnan(found["nan"][0])
  assert all(v.dtype == np.float64 for v in found.values())


NAMES = "bits_per_byte, clnp_units, clusters, linear_probe, plasticity, recall, samples"
GIVEN = [
  ("linear_prob", f"unknown 'linear_prob'; allowed: {NAMES}; did you mean linear_probe?"),
  (("linear_probe", "linear_probe"), "'linear_probe' stands twice"),
  (("linear_probe", 3), f"got 3; expected a name ({NAMES}) or a cljax.Evaluator"),
  ({"a": 1}, "got dict; expected names or Evaluators, several as a tuple"),
  (cljax.Evaluator("a b", count), "got the name 'a b'; expected letters, digits and any of _@.+-"),
  (cljax.Evaluator("mine", 3),
   "'mine' has fn 3; expected a function (learner, predict, stream, event) -> {metric: number or [T]}"),
  (cljax.Evaluator("m", count, {"a": "less"}), "'m' has better={'a': 'less'}; expected {metric: 'higher' or 'lower'}"),
]  # fmt: skip


@pytest.mark.parametrize(("chosen", "said"), GIVEN)
def test_wrong_evaluators_are_one_line(chosen, said):
  with pytest.raises(UsageError) as error:
    evaluators.given(chosen)
  assert str(error.value) == f"evaluators: {said}"


def test_names_are_registered_once(monkeypatch):
  monkeypatch.setattr(evaluators.registry, "EVALUATORS", dict(evaluators.EVALUATORS))
  assert ", ".join(evaluators.names()) == NAMES
  assert evaluators.register(COUNT) is COUNT
  assert evaluators.names() == tuple(sorted([*NAMES.split(", "), "count"]))
  assert evaluators.given("count") == (COUNT,)
  with pytest.raises(UsageError, match="evaluators: 'count' is registered already"):
    evaluators.register(COUNT)
  with pytest.raises(UsageError, match="expected a name"):
    evaluators.register("count")


def test_a_probe_says_what_it_needs(class_stream, small_model, dataset):
  """Before the first step; of a run without features, and of one whose targets are no classes."""

  def bare(params, state, x, **more):
    out, state = small_model.apply(params, state, x, **more)
    return out._replace(features=None), state

  blind = small_model._replace(apply=bare)
  told: list = []
  with pytest.raises(UsageError) as error:
    cljax.run(class_stream, blind, training=TRAIN, evaluators="linear_probe", report=told.append)
  assert str(error.value) == (
    "evaluators: 'linear_probe': needs a model that returns features (Outputs.features is None)"
  )
  assert told == []
  real = dataset._replace(train=dataset.train._replace(y=dataset.train.y.astype(np.float32)))
  with pytest.raises(UsageError, match="needs class labels, which the data do not have"):
    evaluators.linear_probe().fn(None, None, class_stream._replace(dataset=real), 0)
  with pytest.raises(UsageError, match="linear_probe: ridge must be above 0; got 0"):
    evaluators.linear_probe(ridge=0.0)
  with pytest.raises(UsageError, match="linear_probe: block: got 0; allowed: whole numbers >= 1"):
    evaluators.linear_probe(block=0)


def test_members_that_diverged_are_not_asked(class_stream, small_model):
  members = [cljax.Member(0), cljax.Member(1, {"optimizer.learning_rate": 1e30})]
  options = cljax.Options(on_divergence="freeze")
  called(empty=True)
  more = {"training": TRAIN, "options": options, "evaluators": DRAWS}
  result = cljax.run(class_stream, small_model, population=members, **more)
  assert result.alive.tolist() == [True, False]
  assert called() == [-1, -1, 0, 1]
  assert np.isnan(result.evaluations["draws"]["number"][1, 1:]).all()
  assert np.isfinite(result.evaluations["draws"]["number"][0]).all()


def test_forgetting_goes_on_from_a_trained_run(dataset, small_model):
  """Each event has its row, the Forget event too; what was said before it is taken over, not asked again."""
  from cljax import engine

  learned = streams.build(dataset, "class", tasks=2)
  asked = learned._replace(events=(*learned.events, Forget(classes=(0, 1))))
  called(empty=True)
  chosen = ("linear_probe", DRAWS)
  more = {"training": TRAIN, "seeds": [3]}
  first = cljax.run(learned, small_model, **more, evaluators=chosen)
  built = engine.prepare(asked, small_model, forget="graddiff", **more, evaluators=chosen)
  result = built.run(start=engine.continued(built, first))
  assert called() == [-1, 0, 1, 2]
  probe, number = (result.evaluations[n][m] for n, m in (("linear_probe", "accuracy"), ("draws", "number")))
  np.testing.assert_array_equal(probe[:, :3], first.evaluations["linear_probe"]["accuracy"])
  np.testing.assert_array_equal(number[0, :, 0], 1 / np.arange(4, 8))
  assert np.isnan(probe[0, 3, 0]), "no row of its classes is left"
  assert probe[0, 3, 1] > 0.5
  with pytest.raises(UsageError, match="its evaluators are not those of this run"):
    engine.continued(engine.prepare(asked, small_model, forget="graddiff", **more), first)
