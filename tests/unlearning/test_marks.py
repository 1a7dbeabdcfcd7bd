"""Marks of a table: how often they are false, what they need, and what is said where they can tell nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import cljax
from cljax import engine, streams
from cljax.cli.unlearning import _stream, _table
from cljax.cli.unlearning._job import Compared
from cljax.evaluation import evidence
from cljax.metrics.unlearning.klom import klom, klom_chance, klom_resampled


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


def test_one_row_that_all_members_agree_on_by_accident_is_no_mark():
  """0 or 1 for each member, alike on both sides; two constants had been told apart with certainty."""
  rng = np.random.default_rng(0)
  coins = [[{n: (rng.random(3) < 0.5).astype(float) for n in range(5)} for _ in range(2)] for _ in range(400)]
  share = lambda rows: np.mean([bool(evidence.outside_noise_floor(*two, None, rows)) for two in coins])
  assert share(100) > 0.1
  assert share(1) < 0.05
  zeros, ones = {"a": np.zeros(5)}, {"a": np.ones(5)}
  assert evidence.outside_noise_floor(zeros, ones, None, 1) == ["a"], "2 of 252 regroupings separate them"
  assert evidence.outside_noise_floor({"a": np.zeros(3)}, {"a": np.ones(3)}, None, 1) == [], "2 of 20 do"


def test_regrouped_members_by_hand():
  """Each number is KLoM of the groups that were drawn."""
  rng = np.random.default_rng(2)
  ours, oracles = rng.normal(size=(6, 3)) + 1, 2 * rng.normal(size=(9, 3))
  found = klom_resampled(ours, oracles, resamples=70, bins=5, seed=4)
  whole, draw = np.concatenate([ours, oracles]), np.random.default_rng(4)
  for value, place in zip(found, np.argsort(draw.random((70, 15)), 1), strict=True):
    mine = place < 6
    assert value == pytest.approx(klom(whole[mine], whole[~mine], bins=5).mean, rel=1e-5)
  chance = klom_chance(ours, oracles, resamples=70, bins=5, seed=4)
  assert chance == (1 + (found >= klom(ours, oracles, bins=5).mean).sum()) / 71


def test_klom_of_retrained_models_is_marked_as_often_as_it_should():
  """Points of a member go together, as those of a network do."""
  rng = np.random.default_rng(3)
  models = lambda shift=0.0: rng.normal(size=(10, 6)) + rng.normal(size=(10, 1)) + shift
  same = [klom_chance(models(), models(), resamples=99, bins=8) for _ in range(200)]
  assert np.mean(np.asarray(same) <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
  assert 0.4 < np.mean(same) < 0.6
  apart = [klom_chance(models(), models(4.0), resamples=99, bins=8) for _ in range(20)]
  assert np.mean(np.asarray(apart) <= 0.05) > 0.8


def test_known_chances_are_corrected_with_the_others():
  floor = {"a": np.asarray([0.0, 0.01, 0.02])}
  both = lambda chance: evidence.outside_noise_floor({"a": floor["a"] + 0.02, "k": 3.0}, floor, {"k": chance})
  assert both(0.001) == ["k"]
  assert both(0.04) == []  # 0.04 is above 0.05 / 2
  assert evidence.outside_noise_floor({"k": 3.0}, {"k": 1.0}, {"k": 0.04}) == ["k"]


def compared(original, retrained):
  about = {"exactness": "", "epochs": 0.0, "needs": "", "alive": 3}
  context = {"rows_to_forget": 20, "population": 3, "oracles": 6, "epoch_seconds": 1.0, "seeds": [0, 1, 2]}
  values = {"original": {"forget_accuracy": original}, "retrained": {"forget_accuracy": retrained}}
  return Compared(values, dict.fromkeys(values, about), context, {"forget_accuracy": "FA %"}, "")


def test_a_table_that_can_tell_nothing_says_so():
  three = np.asarray([0.5, 0.6, 0.7])
  nothing = "can not tell forgetting from nothing"
  alike = compared(three, three + 0.01)  # the CKA of a model with itself is 1, whatever it forgot
  values = {n: {**v, "cka": np.ones(3) if n == "original" else 0.9 * np.ones(3)} for n, v in alike.values.items()}
  alike = alike._replace(values=values, headings={**alike.headings, "cka": "CKA"})
  assert "1.00 ± 0.00 *" in _table.render(alike, "class=1", stream=False)
  assert nothing in _table.render(alike, "class=1", stream=False)
  assert nothing in _table.render(compared(three, three + 0.01), "class=1", stream=False)
  assert nothing not in _table.render(compared(three + 2, three), "class=1", stream=False)
  assert "Marks need 3 seeds" in _table.render(compared(three[:1], three[:1]), "class=1", stream=False)
  assert "*" not in _table.render(compared(three[:2] + 5, three[:2]), "class=1", stream=False).splitlines()[4]


def test_a_mark_of_klom_counts():
  three = np.asarray([0.5, 0.6, 0.7])
  table = compared(three + 0.01, three)
  values = {n: {**v, "klom_forget": 5.0} for n, v in table.values.items()}
  table = table._replace(values=values, headings={**table.headings, "klom_forget": "KLoM"})

  def told(chance):
    about = {n: {**a, "chances": {"klom_forget": chance}} for n, a in table.about.items()}
    return _table.render(table._replace(about=about), "class=1", stream=False)

  assert "5.00 *" in told(0.001)
  assert "1 of 2" in told(0.001)
  assert "can not tell" not in told(0.001)
  assert "5.00 *" not in told(0.2)


def test_what_was_never_measured_is_a_dash_and_not_0():
  """Of a stream of requests none of which left a row to forget there is no mean."""
  none, some = np.full((2, 3), np.nan), np.asarray([[np.nan, 1.0, 2.0], [np.nan, 3.0, np.nan]])
  assert np.isnan(_stream._mean(none)).all()
  np.testing.assert_array_equal(_stream._mean(some), [np.nan, 2.0, 2.0])
  assert _table._cell(none[0], "FA %") == "-"
  assert _table._cell(_stream._mean(some), "x") == "2.00 ± 0.00"


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
