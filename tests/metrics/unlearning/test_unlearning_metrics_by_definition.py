"""What a comparison of unlearning metrics leaves open: rows without models, offsets, constant columns."""

import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.metrics import unlearning


def test_rows_that_no_model_was_in_do_not_count():
  """And divide nothing by nothing."""
  inside, outside = np.array([[3.0, np.nan], [-1.0, np.nan]]), np.array([[-0.2, -2.0], [-1.0, 3.0]])
  with np.errstate(all="raise"):
    each, whole = unlearning.attack_accuracy(inside, outside), unlearning.attack(inside, outside)
  np.testing.assert_allclose(each, [0.75, np.nan])
  assert whole.accuracy == 0.75
  assert whole.auc == 5 / 8  # 3 beats three of four and ties with one; -1 beats one and ties with one


def test_debiased_cka_of_features_far_from_the_origin():
  """A shift changes nothing in exact numbers; of products of features it would leave nothing in float64."""
  X, Y = np.random.default_rng(0).normal(size=(2, 12, 3))
  want = unlearning.feature_cka(X, Y, debiased=True)
  assert unlearning.feature_cka(X + 1e7, Y - 3e7, debiased=True) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("value", [0.1, -0.1])
def test_a_constant_column_stays_out_of_the_map(value):
  """Its mean is off by rounding, and where the map is used it has another value."""
  rng = np.random.default_rng(1)
  X, H, T = rng.normal(size=(37, 3)), rng.normal(size=(9, 3)), rng.normal(size=(37, 2))
  column = np.full(37, value)
  assert 0 < column.std() < 1e-15
  got = unlearning.map_features(np.c_[X, column], T, np.c_[H, np.full(9, 5 * value)])
  np.testing.assert_allclose(got, unlearning.map_features(X, T, H), rtol=1e-9)


Z, LABEL = np.zeros(3), np.zeros(1, int)


@pytest.mark.parametrize(
  ("call", "shape"),
  [
    (lambda: unlearning.accuracy(Z, LABEL), "[..., N, K]"),
    (lambda: unlearning.logit_margin(Z, LABEL), "[..., N, K]"),
    (lambda: unlearning.correctness(Z, LABEL), "[N, K]"),
    (lambda: unlearning.completeness(Z, Z), "[N, K]"),
    (lambda: unlearning.entropy(Z), "[N, K]"),
    (lambda: unlearning.zrf(Z, Z), "[N, K]"),
    (lambda: unlearning.feature_mapping_attack(np.eye(3), np.eye(3), lambda h: h[0], np.eye(3), LABEL), "[N, K]"),
  ],
  ids=["accuracy", "logit_margin", "correctness", "completeness", "entropy", "zrf", "feature_mapping_attack"],
)
def test_logits_of_another_shape_are_refused(call, shape):
  with pytest.raises(UsageError) as error:
    call()
  assert f"has shape (3,); expected {shape} with" in str(error.value)
