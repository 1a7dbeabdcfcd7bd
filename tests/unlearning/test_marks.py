"""Marks of a table: how often they are false, what they need, and what is said where they can tell nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import cljax
from cljax import engine, streams
from cljax.cli.unlearning import _table
from cljax.cli.unlearning._job import Compared
from cljax.evaluation import evidence


def tables(seeds: int, numbers: int, shift: float = 0.0, count: int = 600):
  """Rows of tables of normal numbers, beside a floor of as many seeds; the first number is shifted."""
  rng = np.random.default_rng(seeds)
  for _ in range(count):
    ours, floor = rng.normal(size=(2, numbers, seeds))
    ours[0] += shift
    yield dict(enumerate(ours)), dict(enumerate(floor))


@pytest.mark.parametrize("seeds", [3, 5])
def test_what_is_as_retraining_is_marked_in_one_table_of_twenty(seeds):
  """The rule of two standard errors had a mark in about half of the tables of 13 numbers."""
  marked = [bool(evidence.outside_noise_floor(*table)) for table in tables(seeds, 13)]
  assert np.mean(marked) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(marked))
  old = [any(abs(v.mean() - w.mean()) > 2 * np.sqrt((v.var(ddof=1) + w.var(ddof=1)) / seeds)
             for v, w in zip(a.values(), b.values(), strict=True)) for a, b in tables(seeds, 13)]  # fmt: skip
  assert np.mean(old) > 0.4


def test_what_differs_is_marked_and_alone():
  found = [evidence.outside_noise_floor(*table) for table in tables(5, 13, shift=5.0)]
  assert np.mean([0 in f for f in found]) > 0.8
  assert np.mean([bool(set(f) - {0}) for f in found]) < 0.08


def test_one_number_is_welchs_test():
  rng = np.random.default_rng(1)
  for _ in range(50):
    v, w = rng.normal(size=4) + 1, 3 * rng.normal(size=7)
    told = stats.ttest_ind(v, w, equal_var=False).pvalue < 0.05
    assert bool(evidence.outside_noise_floor({"a": v}, {"a": w})) == told


def test_few_seeds_and_numbers_that_are_not_there_have_no_marks():
  two, three = np.asarray([0.0, 0.01]), np.asarray([0.0, 0.01, 0.02])
  assert evidence.outside_noise_floor({"a": two + 9}, {"a": two}) == []
  assert evidence.outside_noise_floor({"a": three + 9}, {"a": three}) == ["a"]
  assert evidence.outside_noise_floor({"a": three + 9, "b": three * np.nan}, {"a": three, "b": three}) == ["a"]
  assert evidence.outside_noise_floor({"a": np.ones(3)}, {"a": np.zeros(3)}) == ["a"]
  assert evidence.outside_noise_floor({"a": np.ones(3)}, {"a": np.ones(3)}) == []


def compared(original, retrained):
  about = {"exactness": "", "epochs": 0.0, "needs": "", "alive": 3}
  context = {"rows_to_forget": 1, "population": 3, "oracles": 6, "epoch_seconds": 1.0, "seeds": [0, 1, 2]}
  values = {"original": {"forget_accuracy": original}, "retrained": {"forget_accuracy": retrained}}
  return Compared(values, dict.fromkeys(values, about), context, {"forget_accuracy": "FA %"}, "")


def test_a_table_that_can_tell_nothing_says_so():
  three = np.asarray([0.5, 0.6, 0.7])
  nothing = "can not tell forgetting from nothing"
  assert nothing in _table.render(compared(three, three + 0.01), "ids=1", stream=False)
  assert nothing not in _table.render(compared(three + 2, three), "ids=1", stream=False)
  assert "Marks need 3 seeds" in _table.render(compared(three[:1], three[:1]), "ids=1", stream=False)
  assert "*" not in _table.render(compared(three[:2] + 5, three[:2]), "ids=1", stream=False).splitlines()[4]


def test_a_request_for_one_row_has_numbers(dataset, small_model):
  """A dash for the attack that cannot be fitted, and the row's loss and margin, by hand."""
  stream = streams.build(dataset, "class", tasks=1)
  row = int(stream.train[0][0])
  request = cljax.Forget(ids=(int(dataset.train.id[row]),))
  made = engine.prepare(stream, small_model, seeds=2, training=cljax.Recipe(batch_size=8, epochs=1))
  learner = made.run().learner
  rows = evidence.sides(stream, request, most=20)
  answers = evidence.answers(made.setup, learner, rows)
  values = evidence.measure(answers, answers, answers, rows, small_model, relearning_epochs=2)
  assert np.isnan(values["loss_attack"]).all()
  z, y = answers.logits["forget"][:, 0].astype(float), int(dataset.train.y[row])
  wanted = np.log(np.exp(z).sum(1)) - z[:, y]
  np.testing.assert_allclose(values["forget_loss"], wanted, rtol=1e-4)
  others = np.delete(z, y, 1)
  np.testing.assert_allclose(values["forget_margin"], z[:, y] - np.log(np.exp(others).sum(1)), rtol=1e-4)
  assert _table._cell(values["loss_attack"], "MIA loss") == "-"
  assert evidence.outside_noise_floor(values, values) == []
