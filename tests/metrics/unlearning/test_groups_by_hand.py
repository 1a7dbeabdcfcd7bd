"""Accuracy by group, equalised odds and the forest attack, against loops, the binary definition and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.metrics import unlearning

RNG = np.random.default_rng(3)
N, K = 80, 4
Z = RNG.normal(size=(3, N, K))
Y = RNG.integers(0, K, N)
GROUP = RNG.integers(0, 3, N)


def test_accuracy_by_group_counts_rows():
  found = unlearning.group_accuracies(Z, Y, GROUP, 5)
  assert found.shape == (3, 5)
  for s in range(3):
    for g in range(3):
      mine = [int(np.argmax(Z[s, n]) == Y[n]) for n in range(N) if GROUP[n] == g]
      assert found[s, g] == pytest.approx(sum(mine) / len(mine))
  assert np.isnan(found[:, 3:]).all()
  np.testing.assert_array_equal(unlearning.group_accuracies(Z, Y, GROUP), found[:, :3])
  with pytest.raises(UsageError, match=r"group: holds 2; expected 0\.\.1"):
    unlearning.group_accuracies(Z, Y, GROUP, 2)
  with pytest.raises(UsageError, match=r"group: has shape \(3,\)"):
    unlearning.group_accuracies(Z, Y, GROUP[:3])


def test_equalized_odds_of_two_classes_and_two_groups_are_rates():
  z, y, group = Z[0, :, :2], Y % 2, GROUP % 2
  said = z.argmax(1)
  rate = lambda label, g: said[(y == label) & (group == g)].mean()  # false positives of label 0, true ones of 1
  expected = np.mean([abs(rate(label, 0) - rate(label, 1)) for label in (0, 1)])
  assert expected > 0.05
  assert unlearning.equalized_odds(z, y, group) == pytest.approx(expected)


def test_equalized_odds_of_several_by_loops():
  expected = []
  for label in range(K):
    worst = 0.0
    for a in range(3):
      for b in range(3):
        share = lambda g, k, label=label: np.mean(
          [Z[1, n].argmax() == k for n in range(N) if Y[n] == label and GROUP[n] == g]
        )
        worst = max(worst, sum(abs(share(a, k) - share(b, k)) for k in range(K)) / 2)
    expected.append(worst)
  assert unlearning.equalized_odds(Z[1], Y, GROUP) == pytest.approx(np.mean(expected))
  # A label of one group alone says nothing.
  one = np.where(Y == 0, 0, GROUP)
  assert unlearning.equalized_odds(Z[1], Y, one) == pytest.approx(np.mean(expected[1:]))
  assert np.isnan(unlearning.equalized_odds(Z[1], Y, 0 * GROUP))
  assert unlearning.equalized_odds(np.eye(K)[Y], Y, GROUP) == 0.0


def made(rng, n, sharp):
  y = rng.integers(0, K, n)
  return rng.normal(size=(n, K)) + sharp * np.eye(K)[y], y


def losses(z, y):
  return np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]


@pytest.fixture(scope="module")
def sets():
  """Retain and test rows of different sharpness; among the rows to forget some are as the former."""
  rng = np.random.default_rng(1)
  retain, test, forget = made(rng, 90, 3.0), made(rng, 60, 0.5), made(rng, 70, 2.0)
  twice = lambda pair: tuple(np.concatenate([a, a[:20]]) for a in pair)  # losses that occur twice
  return twice(retain), twice(test), forget


def test_a_tree_of_the_attack_is_scikit_learn_s(sets):
  """The same bootstrap sample, a grown tree on it: each row to forget has the same answer."""
  from sklearn.tree import DecisionTreeClassifier

  (retain, test, forget), rng = sets, np.random.default_rng(5)
  member, other = losses(*retain), losses(*test)
  n = len(other)
  loss = np.concatenate([member[rng.permutation(len(member))[:n]], other[rng.permutation(n)[:n]]])
  label = np.repeat([1, 0], n)
  votes = []
  for _ in range(9):
    drawn = rng.integers(0, 2 * n, 2 * n)
    tree = DecisionTreeClassifier().fit(loss[drawn][:, None], label[drawn])
    votes.append(tree.predict_proba(losses(*forget)[:, None])[:, 1])
  expected = np.mean(np.mean(votes, 0) > 0.5)
  assert 0.2 < expected < 0.9
  assert unlearning.forest_attack(*retain, *test, *forget, trees=9, seed=5) == pytest.approx(expected)


def test_the_forest_is_scikit_learn_s_but_for_its_draws(sets):
  from sklearn.ensemble import RandomForestClassifier

  """On sides of one length, so that the same rows are fitted."""
  retain, test, forget = sets
  retain, shares = tuple(a[: len(test[1])] for a in retain), []
  for seed in range(3):
    member, other = losses(*retain), losses(*test)
    forest = RandomForestClassifier(200, random_state=seed)
    forest.fit(np.r_[member, other][:, None], np.repeat([1, 0], len(other)))
    shares.append(forest.predict(losses(*forget)[:, None]).mean())
  found = [unlearning.forest_attack(*retain, *test, *forget, trees=200, seed=seed) for seed in range(3)]
  assert abs(np.mean(found) - np.mean(shares)) < 0.06


def test_the_attack_sees_what_is_there_and_nothing_else(sets):
  retain, test, _ = sets
  sure, lost = made(np.random.default_rng(2), 50, 30.0), made(np.random.default_rng(2), 50, -30.0)
  attack = lambda forget: unlearning.forest_attack(*sure, *lost, *forget)
  assert attack(sure) == 1.0
  assert attack(lost) == 0.0
  assert attack((np.full((4, K), -1e6) + 2e6 * np.eye(K)[0], np.ones(4, int))) == 0.0  # clipped
  noise = [made(np.random.default_rng(s), 400, 1.0) for s in range(3)]
  assert 0.35 < unlearning.forest_attack(*noise[0], *noise[1], *noise[2]) < 0.65
  with pytest.raises(UsageError, match="trees: is 0; expected 1 or more"):
    unlearning.forest_attack(*retain, *test, *sure, trees=0)
