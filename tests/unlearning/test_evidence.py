"""Evidence of forgetting on trained populations: fixed points of the metrics, the bank of oracles, going on from a
population."""

from __future__ import annotations

import numpy as np
import pytest
from bench import assert_same

import cljax
from cljax import engine, streams
from cljax.evaluation import evidence
from cljax.metrics import unlearning as metrics

REQUEST = cljax.Forget(classes=(2,))
TRAINING = {"training": cljax.Recipe(batch_size=8, epochs=2), "options": cljax.Options(chunk_steps=4)}


@pytest.fixture(scope="module")
def stream(make_blobs):
  return streams.build(make_blobs(rows=16), "class", tasks=1)


@pytest.fixture(scope="module")
def trained(stream, small_model):
  made = engine.prepare(stream, small_model, seeds=3, **TRAINING)
  return made, made.run()


@pytest.fixture(scope="module")
def rows(stream):
  return evidence.sides(stream, REQUEST, most=20)


@pytest.fixture(scope="module")
def answers(trained, rows):
  made, result = trained
  return evidence.answers(made.setup, result.learner, rows)


def test_rows_to_forget_are_no_test_rows_where_a_stream_tests_on_its_training_rows(dataset):
  stream = streams.build(dataset, "label_random", tasks=1)
  asked = tuple(int(i) for i in dataset.train.id[:5])
  rows = evidence.sides(stream, cljax.Forget(ids=asked))
  assert len(rows.task["forget"]) == 5
  assert set(stream.dataset.test.id[rows.id["test"]]) == set(dataset.train.id.tolist()) - set(asked)
  with pytest.raises(cljax.UsageError, match="expected"):
    evidence.sides(stream, cljax.Forget(tasks=(0,)))


def test_sides_are_the_rows_named(stream, rows):
  split, test = stream.dataset.train, stream.dataset.test
  np.testing.assert_array_equal(rows.x["forget"], split.x[stream.train[0]][split.y[stream.train[0]] == 2])
  assert set(rows.y["retain"]) == {0, 1, 3}
  assert len(rows.y["retain"]) == 20
  assert set(rows.y["test"]) == {0, 1, 3}
  assert set(rows.y["forgotten_test"]) == {2}
  assert len(rows.y["test"]) + len(rows.y["forgotten_test"]) == len(test.y)
  with pytest.raises(cljax.UsageError, match="others to keep"):
    evidence.sides(stream, cljax.Forget(tasks=(0,)))


def test_a_request_of_two_conditions_takes_no_class(stream):
  """Half of class 2 goes: the class's test rows stay among those to keep right."""
  both = cljax.Forget(classes=(2,), groups=(0,), match="all")
  rows = evidence.sides(stream, both, most=20)
  split = stream.dataset.train
  wanted = (split.y[stream.train[0]] == 2) & (split.group[stream.train[0]] == 0)
  assert 0 < len(rows.y["forget"]) == wanted.sum() < (split.y[stream.train[0]] == 2).sum()
  assert "forgotten_test" not in rows.y
  assert set(rows.y["test"]) == {0, 1, 2, 3}


def test_answers_are_the_models_own(trained, rows, answers):
  _, result = trained
  for member in range(3):
    np.testing.assert_allclose(
      answers.logits["test"][member], result.predict(rows.x["test"], member), rtol=1e-5, atol=1e-5
    )


def test_fixed_points(answers, rows, small_model):
  """A model measured against itself; and the original against itself."""
  values = evidence.measure(answers, answers, answers, rows, small_model, relearning_epochs=3)
  assert set(values) == {k for k in evidence.METRICS if not k.startswith(("klom", "u_lira"))}
  assert all(v.shape == (3,) and np.isfinite(v).all() for v in values.values())
  np.testing.assert_allclose(values["activation_distance"], 0, atol=1e-7)
  np.testing.assert_allclose(values["js_divergence"], 0, atol=1e-9)
  np.testing.assert_allclose(values["completeness"], 1)
  np.testing.assert_allclose(values["cka"], 1, atol=1e-6)
  np.testing.assert_allclose(values["feature_mapping"], values["forget_accuracy"], atol=0.1)
  spread = values["forget_accuracy"].std() + values["retain_accuracy"].std() + values["test_accuracy"].std()
  assert values["average_gap"].max() <= 3 * spread + 1e-6  # against the mean over members
  assert evidence.outside_noise_floor(values, values) == []
  worse = {**values, "forget_accuracy": values["forget_accuracy"] - 0.5 + 0.01 * np.arange(3)}
  assert evidence.outside_noise_floor(worse, values) == ["forget_accuracy"]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_which_numbers_few_rows_have(stream, trained, small_model, count):
  """Of one row none is left to hold out, and its features have no spread; the loss attack alone needs four."""
  made, result = trained
  asked = np.asarray(stream.dataset.train.id)[stream.train[0][:: len(stream.train[0]) // 4][:count]]
  rows = evidence.sides(stream, cljax.Forget(ids=tuple(asked.tolist())), most=20)
  assert len(rows.y["forget"]) == count
  found = evidence.answers(made.setup, result.learner, rows)
  values = evidence.measure(found, found, found, rows, small_model, relearning_epochs=3)
  without = {name for name, of in values.items() if np.isnan(of).any()}
  least = {"loss_attack": 4, "relearning_attack": 2, "cka": 2}
  assert without == {name for name, needed in least.items() if count < needed}
  assert (set(evidence.ROW_METRICS) <= set(values)) == (count < 4)
  curves = evidence.attack_curves(found, rows, small_model, relearning_epochs=3)
  assert curves.shape == (3, 21)
  assert np.isnan(curves).all() == (count < 2)
  if count > 1:  # before the first step: the accuracy on all but one of them
    _, held = metrics.split_forget(count)
    assert len(held) == count - 1
    right = found.logits["forget"].argmax(-1) == rows.y["forget"]
    np.testing.assert_allclose(curves[:, 0], right[:, held].mean(1), rtol=1e-6)


def test_oracles_never_see_the_rows(stream, small_model, rows):
  gone = streams.resolve_pairs(REQUEST, stream)
  without = evidence.without_rows(stream, gone)
  assert set(stream.dataset.train.y[np.concatenate(without.train)]) == {0, 1, 3}
  made = engine.prepare(without, small_model, seeds=[10, 11], **TRAINING)
  rows = streams.resolve(REQUEST, stream.dataset.train, stream.train, 4, stream.dataset.class_names)
  poisoned = stream.dataset.train._replace(x=np.where(rows[:, None, None, None], np.nan, stream.dataset.train.x))
  without = without._replace(dataset=stream.dataset._replace(train=poisoned))
  blind = engine.prepare(without, small_model, seeds=[10, 11], **TRAINING)
  assert made.run().params_sha256 == blind.run().params_sha256
  with pytest.raises(cljax.UsageError, match="nothing is left"):
    evidence.without_rows(stream, [np.ones_like(mine) for mine in gone])


def test_forgetting_goes_on_from_a_trained_population(stream, small_model, trained):
  """To the bits of a run that trains and forgets in one."""
  made, result = trained
  both = stream._replace(events=(*stream.events, REQUEST))
  edit = engine.prepare(both, small_model, forget="ssd", forget_hyper={"alpha": 1.5}, seeds=3, **TRAINING)
  short, whole = edit.run(start=engine.continued(edit, result)), edit.run()
  assert short.params_sha256 == whole.params_sha256
  assert short.forgotten == whole.forgotten
  np.testing.assert_array_equal(short.accuracy, whole.accuracy)
  assert short.steps == result.steps
  assert_same(result.learner.params, made.run().learner.params)
  other = engine.prepare(both, small_model, "er", {"capacity": 8}, forget="ssd", seeds=3, **TRAINING)
  with pytest.raises(cljax.UsageError, match="not those that this run begins with"):
    engine.continued(other, result)


def test_cost_is_said_in_one_line():
  line = evidence.cost([("originals", 5), ("oracles", 20)], 300)
  assert line == "evidence: 25 trainings of 300 steps each (5 originals, 20 oracles)"


def test_classes_that_were_never_trained_do_not_compete(make_blobs, small_model):
  """Two of four classes were learned: answers are among these two, as the run itself reports."""
  stream = streams.build(make_blobs(), "class", tasks=2, validation=0.0)
  stream = stream._replace(events=stream.events[:1])
  rows = evidence.sides(stream, cljax.Forget(classes=(0,)))
  result = engine.prepare(stream, small_model, **{**TRAINING, "seeds": 1})
  learner = result.run().learner
  learner = learner._replace(
    params={**learner.params, "head": {k: v.at[..., 3].add(1e3) for k, v in learner.params["head"].items()}}
  )
  answers = evidence.answers(result.setup, learner, rows)
  for side in ("forget", "retain", "test"):
    assert set(answers.logits[side].argmax(-1).ravel()) <= {0, 1}
    assert np.isfinite(answers.logits[side]).all()
