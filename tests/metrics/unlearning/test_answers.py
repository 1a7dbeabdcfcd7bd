"""What a model still knows of answers, against loops in plain Python, and the edges of each number."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.metrics import unlearning as metrics

RNG = np.random.default_rng(0)
N, L, V = 6, 7, 9
LOGITS = 3 * RNG.normal(size=(N, L, V))
Y = RNG.integers(0, V, (N, L))
Y[0, :3] = -1
Y[1] = -1  # a row without an answer
Y[2, 1:] = -1  # an answer of one token
SCORES = metrics.token_scores(LOGITS, Y)


def places(i):
  return [t for t in range(L) if Y[i, t] >= 0]


def log_p(i, t):
  z = LOGITS[i, t]
  return [float(v - math.log(sum(math.exp(w) for w in z))) for v in z]


def test_token_scores_by_loops():
  found = metrics.token_scores(LOGITS, Y)
  for i in range(N):
    for t in range(L):
      log = log_p(i, t)
      mean = sum(math.exp(v) * v for v in log)
      square = sum(math.exp(v) * v * v for v in log)
      np.testing.assert_allclose([found.mean[i, t], found.variance[i, t]], [mean, square - mean**2], rtol=1e-9)
      there = Y[i, t] >= 0
      assert found.there[i, t] == there
      assert found.correct[i, t] == (there and log.index(max(log)) == Y[i, t])
      assert found.log_p[i, t] == pytest.approx(log[Y[i, t]] if there else 0.0, rel=1e-12)


def test_ignored_tokens_index_nothing_and_shifts_change_nothing():
  other = LOGITS.copy()
  other[Y < 0] = 1e3 * RNG.normal(size=other[Y < 0].shape)
  moved = metrics.token_scores(other + 50 * RNG.normal(size=(N, L, 1)), Y)
  np.testing.assert_allclose(moved.log_p, SCORES.log_p, atol=1e-10)
  np.testing.assert_array_equal(moved.correct, SCORES.correct)


def test_probabilities_by_loops():
  found = metrics.answer_probability(SCORES.log_p, SCORES.there)
  mean = metrics.mean_log_probability(SCORES.log_p, SCORES.there)
  for i in range(N):
    own = [math.exp(log_p(i, t)[Y[i, t]]) for t in places(i)]
    if not own:
      assert np.isnan([found[i], mean[i]]).all()
      continue
    assert found[i] == pytest.approx(math.prod(own) ** (1 / len(own)), rel=1e-9)
    assert mean[i] == pytest.approx(sum(map(math.log, own)) / len(own), rel=1e-9)
  assert metrics.row_mean(found) == (pytest.approx(np.nanmean(found)), N - 1)
  assert metrics.row_mean([np.nan]).rows == 0
  assert math.isnan(metrics.row_mean([]).mean)


def test_choices_by_loops_and_by_chance():
  right, wrong = -RNG.random(5), -3 * RNG.random((5, 4))
  found = metrics.choice_probability(right, wrong)
  for i in range(5):
    p = math.exp(right[i])
    assert found[i] == pytest.approx(p / (p + sum(math.exp(w) for w in wrong[i])))
  alike = metrics.choice_probability(np.full(3, -900.0), np.full((3, 4), -900.0))
  np.testing.assert_allclose(alike, 0.2)  # where the release's 1e-10 makes 0 of it
  assert np.isnan(metrics.choice_probability([np.nan], [[-1.0]])).all()


def test_values_by_loops():
  value = SCORES.there & (RNG.random((N, L)) < 0.5)
  value[0] = False
  probability = metrics.value_probability(SCORES.log_p, value)
  accuracy = metrics.value_accuracy(SCORES.correct, value)
  for i in range(N):
    own = [t for t in range(L) if value[i, t]]
    if not own:
      assert np.isnan([probability[i], accuracy[i]]).all()
      continue
    assert probability[i] == pytest.approx(math.prod(math.exp(log_p(i, t)[Y[i, t]]) for t in own))
    assert accuracy[i] == float(all(SCORES.correct[i, t] for t in own))
  both = np.array([[1, 0, 1], [1, 1, 0]], bool)
  np.testing.assert_array_equal(metrics.value_accuracy(both, [[1, 0, 1], [1, 1, 1]]), [1, 0])


def test_truth_ratios_by_loops():
  right, wrong = -RNG.random(8), -4 * RNG.random((8, 3))
  geometric, arithmetic = (metrics.truth_ratio(right, wrong, mean) for mean in ("geometric", "arithmetic"))
  for i in range(8):
    p = [math.exp(w) for w in wrong[i]]
    assert geometric[i] == pytest.approx(math.prod(p) ** (1 / 3) / math.exp(right[i]))
    assert arithmetic[i] == pytest.approx(sum(p) / 3 / math.exp(right[i]))
    assert arithmetic[i] >= geometric[i] - 1e-12
  # The spec's example: loss 1 of the paraphrase, .5, 1.5 and 4 of the wrong ones.
  of = lambda mean: metrics.truth_ratio([-1.0], [[-0.5, -1.5, -4.0]], mean)[0]
  np.testing.assert_allclose([of("geometric"), of("arithmetic")], [0.368, 0.768], atol=5e-4)


@pytest.mark.parametrize("loss", [20, 25, 40, 60, 900])
def test_a_collapsed_model_has_a_ratio_of_one(loss):
  """The release has .95, .12, 4e-8 and 9e-17 of the first four, by what it adds to the denominator."""
  for mean in ("geometric", "arithmetic"):
    np.testing.assert_allclose(metrics.truth_ratio([-loss], [[-loss, -loss]], mean), 1)
  if loss < 100:
    release = math.exp(-loss) / (math.exp(-loss) + 1e-10)
    assert release == pytest.approx({20: 0.95, 25: 0.12, 40: 4.2e-8, 60: 8.8e-17}[loss], rel=0.05)


def test_scores_of_truth_ratios():
  r = np.array([0.0, 0.25, 1.0, 4.0, np.inf, np.nan])
  np.testing.assert_allclose(metrics.truth_ratio_score(r, forget=True), [0, 0.25, 1, 0.25, 0, np.nan])
  np.testing.assert_allclose(metrics.truth_ratio_score(r, forget=False), [1, 0.75, 0, 0, 0, np.nan])


def distance(a, b):
  """Of the empirical laws, at every point."""
  return max(abs(sum(v <= x for v in a) / len(a) - sum(v <= x for v in b) / len(b)) for x in (*a, *b))


def test_forget_quality_by_all_regroupings():
  """The exact p: the share of the ways to divide both samples whose distance is as large."""
  a, b = RNG.normal(size=5), RNG.normal(size=4) + 0.8
  found = metrics.forget_quality(a, b)
  whole = [*a, *b]
  own = distance(a, b)
  count = large = 0
  for chosen in itertools.combinations(range(9), 5):
    rest = [whole[i] for i in range(9) if i not in chosen]
    large += distance([whole[i] for i in chosen], rest) >= own - 1e-12
    count += 1
  assert found.statistic == pytest.approx(own)
  assert found.p == pytest.approx(large / count, rel=1e-9)
  assert (found.ours, found.reference) == (5, 4)


@pytest.mark.parametrize(("rows", "least"), [(40, 1.9e-23), (200, 1.9e-119), (400, 1.1e-239)])
def test_samples_that_do_not_overlap_share_one_p(rows, least):
  """The published numbers of collapsed models are this floor, ``2 / binomial(2n, n)``."""
  a = RNG.random(rows)
  for far in (2.0, 1e6):
    found = metrics.forget_quality(a, a + far)
    assert found.disjoint
    assert found.p == pytest.approx(2 / math.comb(2 * rows, rows), rel=1e-6)
    assert found.p == pytest.approx(least, rel=0.05)


def test_forget_quality_at_its_edges():
  a, b = RNG.random(30), RNG.random(30)
  assert metrics.forget_quality(a, a).p == 1
  assert metrics.forget_quality([0.1], [0.9]).p == 1
  assert metrics.forget_quality(a, b).p == metrics.forget_quality(1 / a, 1 / b).p, "whichever way round"
  assert metrics.forget_quality([*a, np.nan], b) == metrics.forget_quality(a, b)
  nothing = metrics.forget_quality([np.nan], a)
  assert math.isnan(nothing.p)
  assert (nothing.ours, nothing.reference, nothing.disjoint) == (0, 30, False)


def test_model_utility_by_hand():
  parts = [0.5, 0.25, 0.2, 1.0]
  assert metrics.model_utility(parts) == pytest.approx(4 / (2 + 4 + 5 + 1))
  assert metrics.model_utility([0.3] * 9) == pytest.approx(0.3)
  assert metrics.model_utility([0.9, 0.0]) == 0.0
  for bad in ([], [0.5, -0.1], [0.5, np.nan], [0.0, np.nan]):
    assert math.isnan(metrics.model_utility(bad))


BAD = [
  (lambda: metrics.token_scores(LOGITS[0], Y), "y: has shape"),
  (lambda: metrics.token_scores(LOGITS, Y.astype(float)), "expected integers"),
  (lambda: metrics.token_scores(LOGITS, Y + 1), "holds token 9; logits are of 9"),
  (lambda: metrics.token_scores(LOGITS * np.nan, Y), "the model diverged"),
  (lambda: metrics.answer_probability(SCORES.log_p, SCORES.there[:2]), "there: has shape"),
  (lambda: metrics.answer_probability(SCORES.log_p * np.nan, SCORES.there), "holds NaN"),
  (lambda: metrics.truth_ratio([1.0], [[1.0], [2.0]]), "wrong: has shape"),
  (lambda: metrics.truth_ratio([1.0], np.zeros((1, 0))), "K at least 1"),
  (lambda: metrics.truth_ratio([1.0], [[1.0]], "median"), "must be one of geometric, arithmetic"),
  (lambda: metrics.truth_ratio_score([-1.0], True), "ratio: holds -1"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[m for _, m in BAD])
def test_wrong_arguments_are_one_line(call, message):
  with pytest.raises(UsageError, match=message):
    call()
