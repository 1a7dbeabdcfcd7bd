"""The evaluator of what is known by heart: against a loop over single rows that asks the run's own predictions."""

from __future__ import annotations

import collections

import numpy as np
import pytest

import cljax
from cljax import data, evaluators, models, streams
from cljax.core.types import Forget, Learn, UsageError

LENGTH, VOCABULARY = 6, 4


@pytest.fixture(scope="module")
def stream():
  rng = np.random.default_rng(0)
  text = rng.integers(0, VOCABULARY, (40, LENGTH + 1)).astype(np.int32)
  target = text[:, 1:].copy()
  target[::5, -2:] = -1  # shorter rows
  rows = data.from_arrays("text", {"x": text[:, :-1], "y": target, "group": np.arange(40) % 2})
  made = streams.build(rows, "group", tasks=2)
  return made._replace(events=(Learn(0), Forget(ids=tuple(int(i) for i in made.train[0][:3])), Learn(1)))


@pytest.fixture(scope="module")
def judged(stream):
  model = models.transformer(LENGTH, VOCABULARY, width=16, depth=1, heads=2)
  given = (evaluators.recall(rows=4), evaluators.recall(rows=3, given=0.3, n=1)._replace(name="other"))
  return cljax.run(stream, model, forget="retrain", objective="sequence", evaluators=given, seeds=[1, 2],
                   optimizer="adam", optimizer_options={"learning_rate": 0.01},
                   training=cljax.Recipe(batch_size=4, epochs=40))  # fmt: skip


def grams(tokens, n):
  return collections.Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def by_hand(judged, x, y, member, given, n):
  """One row, token after token."""
  y = [int(t) for t in y if t >= 0]
  known = int(np.ceil(given * len(y)))
  text = [int(t) for t in x[:known]]
  said = []
  while len(said) < len(y) - known + 1:
    shown = np.zeros((1, LENGTH), np.int32)
    shown[0, : len(text)] = text
    token = int(np.asarray(judged.predict(shown, member))[0, len(text) - 1].argmax())
    said.append(token)
    text.append(token)
  rest = y[known - 1 :]
  want = grams(rest, n)
  return sum((want & grams(said, n)).values()) / sum(want.values())


@pytest.mark.parametrize(("name", "rows", "given", "n"), [("recall", 4, 0.5, 2), ("other", 3, 0.3, 1)])
def test_rows_are_continued_as_by_hand(stream, judged, name, rows, given, n):
  found = judged.evaluations[name]
  levels = []
  for member in (0, 1):
    for task in (0, 1):
      there = np.asarray(stream.train[task])[3 if task == 0 else 0 :]  # what was deleted is not asked for
      for side, split, at in (("recall", stream.dataset.train, there), ("unseen", stream.dataset.test,
                                                                       np.asarray(stream.test[task]))):  # fmt: skip
        chosen = at[np.linspace(0, len(at) - 1, min(rows, len(at))).astype(int)]
        want = np.mean([by_hand(judged, split.x[r], split.y[r], member, given, n) for r in chosen])
        np.testing.assert_allclose(found[side][member, -1, task], want)
        levels.append(want)
  assert len(set(levels)) > 3


def test_rows_not_learned_yet_have_none(judged):
  found = judged.evaluations["recall"]["recall"]
  assert np.isnan(found[:, 0]).all()
  assert np.isnan(found[:, 1:3, 1]).all()
  assert np.isfinite(found[:, 1:3, 0]).all()


def test_rows_learned_by_heart(judged):
  """Of random text only what was learned can be continued."""
  found = judged.evaluations["recall"]
  assert found["recall"][:, -1, 1].mean() > found["unseen"][:, -1, 1].mean() + 0.2


def test_it_says_what_it_needs(class_stream, small_model):
  with pytest.raises(UsageError, match="'recall': needs rows of tokens"):
    cljax.run(class_stream, small_model, evaluators="recall")
  for wrong, said in (({"rows": 0}, "recall: rows"), ({"n": 0}, "recall: n"), ({"given": 1.0}, "above 0 and below 1"),
                      ({"given": 0.0}, "recall: given")):  # fmt: skip
    with pytest.raises(UsageError, match=said):
      evaluators.recall(**wrong)
