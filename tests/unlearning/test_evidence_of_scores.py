"""Evidence of forgetting where nothing has a class: by hand, against NumPy, on real targets; and what a run costs."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

import cljax
from cljax import data, engine, models, objectives, streams
from cljax.evaluation import cost, evidence, evidence_of_scores
from cljax.metrics import unlearning as metrics

REQUEST = cljax.Forget(ids=tuple(range(3, 15)))


@pytest.fixture(scope="module")
def trained():
  """Three members and three others on two groups of rows with two targets each."""
  draw = np.random.default_rng(0)
  x = draw.normal(size=(40, 3)).astype(np.float32)
  y = (x @ draw.normal(size=(3, 2)) + 0.1 * draw.normal(size=(40, 2))).astype(np.float32)
  group = np.arange(40) % 2
  part = lambda m, end: {f"x_{end}": x[m], f"y_{end}": y[m], f"group_{end}": group[m]}
  test = np.arange(40) >= 28
  dataset = data.from_arrays("two targets", {**part(~test, "train"), **part(test, "test")})
  stream = streams.build(dataset, "group", tasks=2, validation=0.0)
  model = models.mlp((3,), 2, hidden=(4,))
  arguments = {"objective": objectives.regression(), "training": cljax.Recipe(batch_size=4, epochs=2)}
  made = engine.prepare(stream, model, seeds=3, **arguments)
  other = engine.prepare(stream, model, seeds=[7, 8, 9], **arguments)
  return stream, model, made, made.run(), other.run()


@pytest.fixture(scope="module")
def said(trained):
  stream, _, made, result, other = trained
  rows = evidence.sides(stream, REQUEST, classes=False)
  return rows, *(evidence_of_scores.answers(made.setup, r.learner, rows) for r in (result, other))


def test_sides_hold_targets_as_they_are_stored(trained, said):
  stream, rows = trained[0], said[0]
  split = stream.dataset.train
  order = np.concatenate(stream.train)
  wanted = order[np.isin(split.id[order], REQUEST.ids)]
  np.testing.assert_array_equal(rows.id["forget"], wanted)
  np.testing.assert_array_equal(rows.y["forget"], split.y[wanted])
  np.testing.assert_array_equal(rows.x["test"], stream.dataset.test.x[np.concatenate(stream.test)])
  np.testing.assert_array_equal(rows.task["retain"], split.group[rows.id["retain"]])


def test_answers_are_the_models_own(trained, said):
  _, _, _, result, _ = trained
  rows, ours, _ = said
  for member in range(3):
    p = jax.tree.map(lambda a, m=member: np.asarray(a[m], np.float64), result.learner.params)
    hidden = np.maximum(rows.x["test"] @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"], 0)
    found = hidden @ p["head"]["kernel"] + p["head"]["bias"]
    error = np.square(found - rows.y["test"])
    np.testing.assert_allclose(ours.predictions["test"][member], found, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.features["test"][member], hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.scores["test"][member], error.mean(), rtol=1e-5)
    np.testing.assert_allclose(ours.losses["test"][member], error.sum(1) / 2, rtol=1e-4)  # under noise of variance 1


def test_each_metric_by_hand(trained, said):
  made = trained[2]
  rows, ours, other = said
  found = evidence_of_scores.measure(ours, other, ours, rows, made.setup, relearning_epochs=2)
  assert set(found) == {k for k in evidence_of_scores.headings("x") if not k.startswith(("klom", "u_lira"))}
  gaps = [abs(ours.scores[s] - other.scores[s].mean()) for s in evidence.SIDES]
  np.testing.assert_allclose(found["average_gap"], np.mean(gaps, 0))
  np.testing.assert_allclose(found["forget_score"], ours.scores["forget"])
  apart = np.sqrt(np.square(ours.predictions["forget"] - other.predictions["forget"]).mean(-1)).mean(-1)
  np.testing.assert_allclose(found["prediction_distance"], apart, rtol=1e-5)
  np.testing.assert_allclose(found["cka"], 1, atol=1e-6)
  drawn = np.random.default_rng(0)
  forget, test = ours.losses["forget"][1], ours.losses["test"][1]
  n = min(len(forget), len(test))
  assert n == 12
  feature = np.r_[forget[drawn.permutation(len(forget))[:n]], test[drawn.permutation(len(test))[:n]]][:, None]
  splits = StratifiedShuffleSplit(5, test_size=2, random_state=0)
  attack = cross_val_score(LogisticRegression(), feature, np.r_[np.ones(n), np.zeros(n)], cv=splits)
  np.testing.assert_allclose(found["loss_attack"][1], attack.mean())
  worse = ours._replace(scores={**ours.scores, "forget": other.scores["forget"].max() + np.ones(3)})
  assert evidence_of_scores.over_forgets(worse, other, rows, "lower")
  assert not evidence_of_scores.over_forgets(worse, other, rows, "higher")
  klom = evidence_of_scores.population(ours, other, rows)
  wanted = metrics.klom(-ours.losses["forget"], -other.losses["forget"], bins=8).mean
  np.testing.assert_allclose(klom["klom_forget"], wanted)
  assert evidence_of_scores.sound(ours).all()
  broken = np.array(ours.losses["test"])
  broken[1, 0] = np.nan
  assert evidence_of_scores.sound(ours._replace(losses={**ours.losses, "test": broken})).tolist() == [True, False, True]


def test_a_request_for_one_row_has_its_loss(trained):
  """A dash for the attack that cannot be fitted; the loss by hand, of models with it and without."""
  stream, _, made, result, other = trained
  rows = evidence.sides(stream, cljax.Forget(ids=(3,)), classes=False)
  ours, theirs = (evidence_of_scores.answers(made.setup, r.learner, rows) for r in (result, other))
  found = evidence_of_scores.measure(ours, theirs, ours, rows, made.setup, relearning_epochs=2)
  assert np.isnan(found["loss_attack"]).all()
  error = np.square(ours.predictions["forget"] - rows.y["forget"]).sum((1, 2)) / 2
  np.testing.assert_allclose(found["forget_loss"], error, rtol=1e-4)
  assert {"forget_score", "prediction_distance"} <= set(found)
  assert evidence.outside_noise_floor(found, found) == []


def test_relearning_is_gradient_descent_on_the_objective(trained, said):
  """The first loss of the curve is the mean loss of the rows to forget, so the original needs no epoch at all."""
  made = trained[2]
  rows, ours, _ = said
  curve = evidence_of_scores._relearner(made.setup, 0.05, 2)(
    (ours.params, ours.model_state), evidence_of_scores._whole(rows, "forget")
  )
  np.testing.assert_allclose(curve[:, 0], ours.losses["forget"].mean(1), rtol=1e-5)
  assert (curve[:, -1] < curve[:, 0]).all()
  assert metrics.relearn_time(curve[0], ours.losses["forget"][0].mean()) == 0


def test_costs_without_classes(trained):
  _, model, made, result, _ = trained
  spent = cost.cost(made)
  params, _ = jax.eval_shape(model.init, jax.random.key(0))
  assert spent.model_bytes.tolist() == [4 * sum(p.size for p in jax.tree.leaves(params))] * 2
  assert spent.data_bytes == 28 * 3 * 4
  assert 2 * 4 * (3 * 4 * 2 + 4 * 2 * 3) < spent.plain_flops < spent.step_flops
  with pytest.raises(cljax.UsageError, match="was scored by 'squared_error'; these criteria are of accuracies"):
    cost.more_than_forgetting(result, spent)
