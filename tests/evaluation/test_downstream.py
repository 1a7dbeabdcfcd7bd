"""k-NN on classes that no task learned, and similarity to retrained features, against NumPy and through the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cljax
from cljax import engine, models, streams
from cljax.cli import unlearn
from cljax.evaluation import downstream, evidence

REQUEST = cljax.Forget(classes=(1,))
TRAINING = {"training": cljax.Recipe(batch_size=8, epochs=1), "options": cljax.Options(chunk_steps=4)}


@pytest.fixture(scope="module")
def stream(make_blobs):
  """Four of six classes are learned."""
  return streams.build(make_blobs(classes=6, rows=16), "class", tasks=1, classes_per_task=4)


@pytest.fixture(scope="module")
def rows(stream):
  return downstream.with_downstream(evidence.sides(stream, REQUEST, most=20), stream)


def test_downstream_rows_are_of_the_classes_that_no_task_shows(stream, rows, make_blobs):
  split = stream.dataset.train
  np.testing.assert_array_equal(rows.x["downstream"], split.x[split.y >= 4])
  np.testing.assert_array_equal(rows.y["downstream"], split.y[split.y >= 4])
  other = make_blobs(classes=3, rows=40)
  few = downstream.with_downstream(evidence.sides(stream, REQUEST), stream, other, most=50)
  assert len(few.y["downstream"]) == 50
  assert set(few.y["downstream"]) == {0, 1, 2}
  fit, answer = downstream.split(50)
  assert (len(fit), len(answer)) == (40, 10)
  np.testing.assert_array_equal(np.sort(np.concatenate([fit, answer])), np.arange(50))


def by_hand(features, y):
  """Five nearest by angle, one row after another."""
  order = np.random.default_rng(2).permutation(len(y))
  fit, answer = order[: int(0.8 * len(y))], order[int(0.8 * len(y)) :]
  right = 0
  for q in answer:
    cosines = [features[q] @ features[i] / np.linalg.norm(features[q]) / np.linalg.norm(features[i]) for i in fit]
    votes = y[fit][np.argsort(-np.asarray(cosines), kind="stable")[:5]]
    right += np.bincount(votes).argmax() == y[q]
  return right / len(answer)


def cka_by_hand(a, b):
  center = np.eye(len(a)) - 1 / len(a)
  k, l = (center @ (v @ v.T) @ center for v in (np.float64(a), np.float64(b)))
  return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


def test_the_numbers_are_those_of_the_features(stream, rows):
  model = models.mlp(stream.dataset.train.x.shape[1:], 6, hidden=(8,))
  made = engine.prepare(stream, model, seeds=4, **TRAINING)
  answers = evidence.answers(made.setup, made.run().learner, rows)
  ours, reference = evidence.first(answers, 2), evidence.first(answers, 2, 2)
  found = downstream.measure(ours, reference, rows)
  assert set(found) == set(downstream.HEADINGS)
  for i in range(2):
    mine, theirs = (np.float64(a.features["downstream"][i]) for a in (ours, reference))
    assert found["downstream_knn"][i] == pytest.approx(by_hand(mine, rows.y["downstream"]))
    assert found["downstream_cka"][i] == pytest.approx(cka_by_hand(mine, theirs), rel=1e-6)
    gone = [a.features["forget"][i] for a in (ours, reference)]
    assert found["retrained_cka"][i] == pytest.approx(cka_by_hand(*gone), rel=1e-6)
  same = downstream.measure(ours, ours, rows)
  np.testing.assert_allclose([same["downstream_cka"], same["retrained_cka"]], 1.0)
  erased = ours._replace(features={s: 0 * f for s, f in ours.features.items()})
  assert np.isnan(downstream.measure(erased, reference, rows)["downstream_knn"]).all()


def test_what_can_not_be_probed_is_one_line(stream, make_blobs):
  whole = streams.build(stream.dataset, "class", tasks=1)
  sides = evidence.sides(whole, REQUEST)
  with pytest.raises(cljax.UsageError, match=r"downstream: 0 classes of .* are shown by no task; expected 2 or more"):
    downstream.with_downstream(sides, whole)
  other = make_blobs(classes=3, rows=40)
  scaled = other._replace(scale=0.5)
  with pytest.raises(cljax.UsageError, match=r"downstream: inputs of .*0\.5"):
    downstream.with_downstream(sides, whole, scaled)


def test_the_command_has_the_columns_beside_the_oracles(tmp_path, capsys):
  asked = ["unlearn", "--config=experiments/unlearn_downstream.py", "--config.train.epochs=1", "--compilation_cache="]
  asked += ["--config.model.hidden=(16,)", "--methods=random_labels", "--request=class=3", "--seeds=2", "--oracles=4"]
  assert unlearn.main([*asked, "--downstream=rest", f"--workdir={tmp_path}/a"]) == 0
  told = capsys.readouterr().out
  assert "k-NN downstream %" in told
  assert "of 4 classes that no task learned" in told
  result = json.loads((tmp_path / "a" / "unlearn.json").read_text())
  for row in ("original", "retrained", "random_labels"):
    assert 0.3 < np.mean(result["values"][row]["downstream_knn"]) <= 1
    assert 0 < np.mean(result["values"][row]["retrained_cka"]) <= 1
  assert unlearn.main([*asked, "--downstream=glyphs", f"--workdir={tmp_path}/b"]) == 2
  assert "downstream: inputs of 'glyphs' are" in capsys.readouterr().err
  assert unlearn.main([*asked[:-3], "--request=1:class=3", "--downstream=rest", f"--workdir={tmp_path}/c"]) == 2
  assert "downstream: got rest for a stream of requests" in capsys.readouterr().err
