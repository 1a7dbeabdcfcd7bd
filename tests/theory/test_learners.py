"""The ideal continual learner and the scaling law of forgetting, as the figures measure them."""

import numpy as np
import pytest

from experiments import theory


def test_ideal_learner_projects_on_what_no_task_has_seen():
  got = theory.ideal(features=24, rows=5, tasks=6, draws=150)
  np.testing.assert_allclose(got["theory"]["ideal"], [19 / 24, 14 / 24, 9 / 24, 4 / 24, 0, 0])
  assert got["rank"].tolist() == [5, 10, 15, 20, 24, 24]
  for name, wanted in got["theory"].items():
    mean, error = got["distance"][name]["mean"], got["distance"][name]["error"]
    assert (np.abs(mean - wanted) < 4 * error + 1e-6).all(), name
  loss = got["first_task_loss"]
  assert loss["ideal"]["mean"].max() < 1e-8  # it never forgets
  wanted = got["theory_loss"]["plain"]
  assert (np.abs(loss["plain"]["mean"] - wanted)[1:] < 4 * loss["plain"]["error"][1:]).all()
  assert wanted[1] == pytest.approx(5 * 19 / (23 * 26) * 19 / 24)


def test_scaling_law_is_recovered_from_noisy_points():
  got = theory.synthetic_law(repeats=16)
  for name in ("alpha", "beta"):
    found = got["found"][name]
    assert abs(found["mean"] - got["truth"][name]) < 4 * found["error"], name
    assert found["deviation"] < 0.2 * got["truth"][name], name
