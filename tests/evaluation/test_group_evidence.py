"""What a request that falls on a group is measured by, against NumPy on the models' answers; through the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cljax
from cljax import engine, streams
from cljax.cli import unlearn
from cljax.evaluation import evidence, group_evidence
from cljax.metrics import unlearning as metrics

REQUEST = cljax.Forget(groups=(1,), classes=(0, 1), match="all")
TRAINING = {"training": cljax.Recipe(batch_size=8, epochs=1), "options": cljax.Options(chunk_steps=4)}


@pytest.fixture(scope="module")
def stream(make_blobs):
  return streams.build(make_blobs(rows=16, test_rows=12), "class", tasks=1)


@pytest.fixture(scope="module")
def rows(stream):
  return evidence.sides(stream, REQUEST)


def test_the_numbers_are_those_of_the_rows_named(stream, rows, small_model):
  made = engine.prepare(stream, small_model, seeds=4, **TRAINING)
  answers = evidence.answers(made.setup, made.run().learner, rows)
  ours, reference = evidence.first(answers, 2), evidence.first(answers, 2, 2)
  found, test = group_evidence.measure(ours, reference, rows, REQUEST, stream), stream.dataset.test
  assert set(found) == set(group_evidence.HEADINGS)
  forget_group = (test.group == 1) & np.isin(test.y, [0, 1])
  assert len(rows.y["test"]) == len(test.y)

  def six(given, i):
    right = {s: given.logits[s][i].argmax(1) == rows.y[s] for s in ("forget", "retain", "test")}
    z = given.logits["test"][i]
    members = [a for s in ("retain", "test", "forget") for a in (given.logits[s][i], rows.y[s])]
    return np.asarray([
      right["test"][forget_group].mean(), metrics.equalized_odds(z, test.y, test.group),
      metrics.forest_attack(*members), right["retain"].mean(), 1 - right["forget"].mean(), right["test"].mean(),
    ])  # fmt: skip

  mean = np.mean([six(reference, i) for i in range(2)], 0)
  for i in range(2):
    own = six(ours, i)
    given = [found[n][i] for n in ("group_accuracy", "equalized_odds", "forest_attack", "group_gap")]
    np.testing.assert_allclose(given, [*own[:3], np.abs(own - mean).mean()])


def test_the_forget_group_is_of_the_classes_too_where_all_have_to_fit(stream):
  test, every = stream.dataset.test, np.arange(len(stream.dataset.test.y))
  either = cljax.Forget(groups=(1,), classes=(0, 1))
  np.testing.assert_array_equal(group_evidence.in_group(either, stream, every), test.group == 1)
  named = group_evidence.in_group(REQUEST._replace(classes=("class0", 1)), stream, every)
  np.testing.assert_array_equal(named, (test.group == 1) & (test.y < 2))
  assert group_evidence.asked(either, stream)
  assert not group_evidence.asked(cljax.Forget(classes=(0,)), stream)


def test_the_command_measures_groups_where_a_request_names_one(tmp_path, capsys):
  asked = ["unlearn", "--config=experiments/unlearn_groups.py", "--config.train.epochs=1", "--compilation_cache="]
  asked += ["--config.data.samples_per_class=24", "--config.data.test_samples_per_class=16", "--seeds=2", "--oracles=2"]
  asked += ["--config.model.hidden=(8,)", "--methods=group_reweight,miu", f"--workdir={tmp_path}"]
  assert unlearn.main([*asked, "--request=group=1&class=0-7"]) == 0
  told = capsys.readouterr().out
  assert all(heading in told for heading in group_evidence.HEADINGS.values())
  result = json.loads((tmp_path / "unlearn.json").read_text())
  for row in ("original", "retrained", "group_reweight", "miu"):
    assert all(len(result["values"][row][name]) == 2 for name in group_evidence.HEADINGS), row
