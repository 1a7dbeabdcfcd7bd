"""Membership attacks: their features in high precision, and sets that they must, or cannot, tell apart."""

from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.core.types import UsageError
from cljax.metrics import unlearning

getcontext().prec = 60


def exactly(z, y):
  """Entropy, cross-entropy, modified entropy and margin of one row with 60 digits."""
  e = [Decimal(float(v)).exp() for v in z]
  p = [v / sum(e) for v in e]
  rest = [sum(p[:i] + p[i + 1 :]) for i in range(len(p))]
  modified = -rest[y] * p[y].ln() - sum(p[i] * rest[i].ln() for i in range(len(p)) if i != y)
  return tuple(map(float, (-sum(v * v.ln() for v in p), -p[y].ln(), modified, (p[y] / rest[y]).ln())))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(0.01, 60))
def test_features(k, seed, scale):
  rng = np.random.default_rng(seed)
  z, y = rng.normal(size=(3, k)) * scale, rng.integers(0, k, 3)
  want = np.array([exactly(a, b) for a, b in zip(z, y, strict=True)]).T
  got = unlearning.entropy(z), unlearning.cross_entropy(z, y), unlearning.modified_entropy(z, y)
  got += (unlearning.logit_margin(z, y),)
  np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-13)
  assert (got[2] >= 0).all()
  np.testing.assert_allclose(unlearning.confidence(z, y), np.exp(-want[1]), rtol=1e-9)
  np.testing.assert_array_equal(unlearning.correctness(z, y), z.argmax(1) == y)


def test_features_at_the_edges():
  sure = np.array([[800.0, 0, 0], [0, 800, 0], [0, -np.inf, -np.inf], [5, 5, 5]])
  y = np.array([0, 0, 0, 1])
  np.testing.assert_allclose(unlearning.entropy(sure), [0, 0, 0, np.log(3)], atol=1e-12)
  # Wrong and sure: p_1 ln(1 - p_1) is finite, where 1 - p_1 rounds to 0; its -ln p_0 comes with weight 1.
  np.testing.assert_allclose(
    unlearning.modified_entropy(sure, y),
    [0, 800 + 800 - np.log(2), 0, 4 / 3 * np.log(3) - 2 / 3 * np.log(2)],
    rtol=1e-9,
  )
  # p_y and every other p_i must be of their own row: two rows together give what they give apart.
  rng = np.random.default_rng(0)
  z, y = rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
  apart = np.concatenate([unlearning.modified_entropy(z[i : i + 1], y[i : i + 1]) for i in range(5)])
  np.testing.assert_allclose(unlearning.modified_entropy(z, y), apart)


def answers(n, sharpness, seed, k=4, right=1.0):
  """Logits of a model that is right with the given chance and as sharp as given, and the labels."""
  rng = np.random.default_rng(seed)
  y = rng.integers(0, k, n)
  said = np.where(rng.random(n) < right, y, (y + 1) % k)
  return rng.normal(size=(n, k)) + sharpness * np.eye(k)[said], y


@pytest.fixture(scope="module")
def sets():
  """Retain rows known by heart, test rows not, and forget rows of either kind."""
  return {"retain": answers(300, 12, 1), "test": answers(120, 1, 2, right=0.3)} | {
    "kept": answers(100, 12, 3),
    "forgotten": answers(100, 1, 4, right=0.3),
  }


def test_entropy_attack(sets):
  attack = lambda forget: unlearning.entropy_attack(sets["retain"][0], sets["test"][0], sets[forget][0])
  assert attack("kept") > 0.95
  assert attack("forgotten") < 0.15
  # Members that look like the others cannot be told apart: the answer is near one half whatever the shares.
  same = unlearning.entropy_attack(answers(900, 1, 5)[0], answers(100, 1, 6)[0], answers(1000, 1, 7)[0])
  assert 0.2 < same < 0.8
  constant = unlearning.entropy_attack(np.zeros((9, 3)), np.zeros((5, 3)), np.zeros((4, 3)))
  assert constant in (0, 1)


def test_loss_attack(sets):
  assert unlearning.loss_attack(*sets["kept"], *sets["test"]) > 0.85
  blind = [unlearning.loss_attack(*answers(200, 2, 2 * s), *answers(200, 2, 2 * s + 1), seed=s) for s in range(6)]
  assert abs(np.mean(blind) - 0.5) < 0.06
  # Diverged losses count as 100 nats. Two of those still blind the fit (the definition's weakness), not the AUC.
  z, y = sets["kept"]
  diverged, hundred = z.copy(), z.copy()
  diverged[0, y[0]], diverged[1, y[1]] = -1e9, -np.inf
  hundred[0, y[0]], hundred[1, y[1]] = -200, -300
  assert unlearning.loss_attack(diverged, y, *sets["test"]) == unlearning.loss_attack(hundred, y, *sets["test"]) < 0.7
  assert unlearning.auc(-unlearning.cross_entropy(diverged, y), -unlearning.cross_entropy(*sets["test"])) > 0.9


def test_loss_attack_sees_only_the_forgotten_classes():
  """Losses that follow the class alone tell nothing once the classes are matched."""
  rng = np.random.default_rng(0)
  y, other = np.repeat([0, 1], [60, 20]), np.repeat([0, 1, 2], [30, 60, 200])
  logits = lambda y: np.eye(3)[y] * np.array([1.0, 6.0, 30.0])[y][:, None] + 1e-3 * rng.normal(size=(len(y), 3))
  assert abs(unlearning.loss_attack(logits(y), y, logits(other), other) - 0.5) < 0.15
  with pytest.raises(UsageError, match="test_y"):
    unlearning.loss_attack(logits(y), y, logits(other[:3]), other[:3])


def test_svc_attacks(sets):
  attack = lambda forget, **k: unlearning.svc_attacks(*sets["retain"], *sets["test"], *sets[forget], **k)
  kept, forgotten = attack("kept"), attack("forgotten")
  assert all(share < 0.1 for share in kept)
  assert all(share > 0.6 for share in forgotten)
  right = unlearning.correctness(*sets["forgotten"])
  assert forgotten.correctness == pytest.approx(1 - right.mean())  # it can only say: right, so a member
  assert all(share > 0.6 for share in attack("forgotten", most=40))
  # Nine members for each non-member, all alike: what is more frequent must not win.
  same = unlearning.svc_attacks(*answers(900, 1, 5), *answers(100, 1, 6), *answers(500, 1, 7))
  assert 0.2 < same.confidence < 0.8
  assert 0.2 < same.entropy < 0.8


def test_uniform_answers_fool_these_attacks(sets):
  """Why the target is the retrained model's value: a model without any answer looks perfectly forgotten."""
  uniform, y = np.zeros((50, 4)), sets["forgotten"][1][:50]
  assert unlearning.entropy_attack(sets["retain"][0], sets["test"][0], uniform) == 0
  assert unlearning.svc_attacks(*sets["retain"], *sets["test"], uniform, y).confidence > 0.9
