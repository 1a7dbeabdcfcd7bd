"""Metrics of single test rows on logs that are drawn, by loops over members and entries."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from cljax import UsageError, metrics
from cljax.io.row_log import Record, RowLog, pack, unpack

SIZES, CLASSES, SEEDS = (6, 5, 4), 4, 3
EVENTS = (("learn", 0), ("forget", -1), ("learn", 1), ("learn", 0))
LABEL = np.asarray([0, 0, 1, 1, 0, 1, 2, 3, 2, 3, 2, 0, 1, 2, 3])
GROUP = np.asarray([5, 7] * 7 + [5])
GONE = (3, 8)


def log(bits=True, predictions=True, missing=(), better="higher", finish="", groups=GROUP):
  """Three tasks, the last of which no event learns; two entries are gone."""
  rng, count = np.random.default_rng(0), sum(SIZES)
  present = ~np.isin(np.arange(count), GONE)
  records = []
  for r in range(len(EVENTS) + 1):
    guess = rng.integers(0, CLASSES, (SEEDS, count)).astype(np.uint8)
    guess = np.where(rng.random((SEEDS, count)) < 0.5, LABEL, guess).astype(np.uint8) * present
    right = (guess == LABEL) & present
    weight = rng.uniform(0.5, 2, (SEEDS, count)).astype(np.float32) * present
    terms = np.packbits(right, axis=-1) if bits else np.stack([weight * rng.uniform(size=count), weight], 1)
    arrays = {"main": terms.astype(np.uint8 if bits else np.float32)} | ({"predicted": guess} if predictions else {})
    records.append(None if r in missing else Record(count, arrays))
  gone = lambda a: np.where(present, a, -1)
  scores = {"main": {"bits": bits, "better": better, "finish": finish}}
  return RowLog((0, 1, 2), EVENTS, SIZES, CLASSES, scores, gone(LABEL), gone(groups), gone(np.arange(count)), present,
                tuple(records))  # fmt: skip


def seen(n) -> bool:
  return n < SIZES[0] + SIZES[1] and n not in GONE


ENTRIES = [n for n in range(sum(SIZES)) if seen(n)]


def test_what_is_seen():
  assert np.flatnonzero(metrics.seen_rows(log())).tolist() == ENTRIES
  assert not metrics.seen_rows(log()._replace(records=())).any()
  assert log().learned() == [0, 1]
  assert log().learned(2) == [0]


@pytest.mark.parametrize(("bits", "finish"), [(True, ""), (False, "sqrt"), (False, "exp"), (False, "own")])
def test_scores_over_rows_classes_and_groups(bits, finish):
  made = log(bits, finish=finish, better="higher" if bits else "lower")
  end = {"": float, "own": float, "sqrt": math.sqrt, "exp": math.exp}[finish]
  worst = min if bits else max
  said = metrics.of_rows(made)
  for m in range(SEEDS):
    above, below = made.numerator(m)[-1], made.denominator(m)[-1]

    def over(wanted, above=above, below=below):
      mine = [n for n in ENTRIES if wanted(n)]
      return end(sum(float(above[n]) for n in mine) / sum(float(below[n]) for n in mine))

    by_class = [over(lambda n, c=c: LABEL[n] == c) for c in range(CLASSES)]
    assert metrics.row_weighted(made)[m] == said["row_weighted"][m] == pytest.approx(over(lambda n: True))
    assert metrics.class_scores(made)[m] == pytest.approx(by_class)
    assert metrics.worst_class(made)[m] == pytest.approx(worst(by_class))
    groups = [over(lambda n, g=g: GROUP[n] == g) for g in (5, 7)]
    assert metrics.worst_group(made)[m] == pytest.approx(worst(groups))
    if bits:
      assert below[ENTRIES].tolist() == [1.0] * len(ENTRIES)
      assert above.tolist() == [float(made.predicted(m)[-1][n] == LABEL[n] and n not in GONE) for n in range(15)]
  assert np.isnan(metrics.class_scores(made._replace(classes=5))[0, 4])
  assert metrics.worst_class(made._replace(classes=5)) == pytest.approx(metrics.worst_class(made))


def test_examples_by_loops():
  made = log()
  since, total = {n: 1 if n < SIZES[0] else 3 for n in ENTRIES}, np.zeros(2)
  for m in range(SEEDS):
    right = made.right(m)
    shown = {n: [bool(right[r, n]) for r in range(since[n], 5)] for n in ENTRIES}
    lost = [any(own[:-1]) and not own[-1] for own in shown.values()]
    falls = [sum(a and not b for a, b in itertools.pairwise(own)) for own in shown.values()]
    assert metrics.examples_forgotten(made)[m] == pytest.approx(np.mean(lost))
    assert metrics.examples_shaken(made)[m] == pytest.approx(np.mean(falls))
    total += [np.sum(lost), np.sum(falls)]
  assert 0 < total[0] < total[1]


def test_predictions_by_loops():
  made = log()
  for m in range(SEEDS):
    wrong = [int(made.predicted(m)[-1][n]) for n in ENTRIES if LABEL[n] >= 2 and made.predicted(m)[-1][n] != LABEL[n]]
    assert metrics.error_recency(made)[m] == pytest.approx(np.mean([c < 2 for c in wrong]))
  hits = []
  for n in ENTRIES:
    votes = [int(made.predicted(m)[-1][n]) for m in range(SEEDS)]
    hits.append(max(range(CLASSES), key=lambda c, votes=votes: (votes.count(c), -c)) == LABEL[n])
  assert metrics.ensemble_accuracy(made) == pytest.approx([np.mean(hits)])
  assert metrics.ensemble_accuracy(made.pick([1])) is None


def test_what_a_log_does_not_allow_is_left_out():
  assert set(metrics.of_rows(log())) == set(metrics.ROW_METRICS)
  assert set(metrics.ROW_METRICS) - set(metrics.of_rows(log(predictions=False))) == {
    "error_recency", "ensemble_accuracy"
  }  # fmt: skip
  numbers = log(False, predictions=False, groups=np.zeros(15, int))._replace(classes=0)
  assert set(metrics.of_rows(numbers)) == {"row_weighted"}
  assert metrics.of_rows(log()._replace(records=())) == {}
  early = log()._replace(events=EVENTS[:1], records=log().records[:2])
  assert "error_recency" not in metrics.of_rows(early), "no class is old"
  with pytest.raises(UsageError, match="rows of 'main' are not right or wrong"):
    log(False).right(0)
  with pytest.raises(UsageError, match="holds no predictions"):
    log(predictions=False).predicted(0)


def test_a_metric_of_ones_own_applies_to_every_log(monkeypatch):
  monkeypatch.setitem(metrics.ROW_METRICS, "first", lambda log: [float(log.right(m)[-1, 0]) for m in range(SEEDS)])
  assert metrics.of_rows(log())["first"].tolist() == [float(log().right(m)[-1, 0]) for m in range(SEEDS)]


def test_an_evaluation_that_is_missing_says_nothing():
  made = log(missing=(2,))
  assert not made.there()[2].any()
  assert not made.right(0)[2].any()
  assert (made.predicted(0)[2] == -1).all()
  assert metrics.row_weighted(made) == pytest.approx(metrics.row_weighted(log()))


def test_a_file_is_read_as_it_was_written(tmp_path):
  arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.packbits([1, 0, 1]), "none": np.zeros((0, 4))}
  (tmp_path / "x").write_bytes(pack({"evaluation": 3}, arrays))
  header, read = unpack(tmp_path / "x")
  assert header["evaluation"] == 3
  assert {k: (v.dtype, v.tolist()) for k, v in read.items()} == {k: (v.dtype, v.tolist()) for k, v in arrays.items()}
