"""The experiments of objectives, cut short: their rows, what they leave out, the report at their end."""

from __future__ import annotations

import json

import numpy as np

from experiments.objectives import contrastive, regression


def test_regression(tmp_path):
  first, second = (regression.write_rows(tmp_path / n) for n in ("a", "b"))
  assert first.read_bytes() == second.read_bytes()
  rows = np.load(first)
  assert sum(map(len, (rows["y_train"], rows["y_test"]))) == 442
  mass, group = (np.concatenate([rows[f"{k}_train"], rows[f"{k}_test"]]) for k in ("x", "group"))
  mass = mass[:, regression.BODY_MASS]
  assert (np.diff(group[np.argsort(mass, kind="stable")]) >= 0).all(), "from the lightest to the heaviest"
  assert np.bincount(group).min() > 442 / regression.GROUPS - 10
  np.testing.assert_allclose([mass.mean(), mass.std()], [0, 1], atol=1e-6)
  short = ["--config.train.epochs=1", "--config.eval.every=0", "--compilation_cache="]
  assert regression.run(str(tmp_path), "1", [*short, "--grid=method.name=['finetune']"]) == 0
  (found,) = (json.loads(p.read_text()) for p in (tmp_path / "sweep").glob("runs/*/result.json"))
  assert np.shape(found["scores"]["squared_error"]) == (1, regression.GROUPS + 1, regression.GROUPS)
  assert (tmp_path / "sweep" / "report.html").exists()
  able, lines = regression.allowed()
  assert {*able, *(line.split(":")[0] for line in lines)} == {*regression.METHODS}
  assert {"finetune", "er", "joint"} <= {*able}


def test_contrastive(tmp_path, capsys):
  """Each row of the report has the linear probe's accuracy, of all tasks at the end."""
  short = ["--config.train.epochs=1", "--config.stream.rows=200", "--compilation_cache="]
  assert contrastive.run(str(tmp_path), "1", [*short, "--grid=method.name=['finetune']"]) == 0
  (found,) = (json.loads(p.read_text()) for p in (tmp_path / "sweep").glob("runs/*/result.json"))
  probe = np.asarray(found["evaluations"]["linear_probe"]["accuracy"], float)
  assert (probe.shape, found["main"]) == ((1, 6, 5), "contrastive")
  met = np.tri(6, 5, -1, dtype=bool)
  np.testing.assert_array_equal(np.isnan(probe[0]), ~met)
  told = capsys.readouterr()
  assert f"{100 * probe[0, -1].mean():.1f}" in told.out
  assert "linear probe accuracy, %" in (tmp_path / "sweep" / "report.html").read_text()
  able, lines = contrastive.allowed()
  assert lines == ["ewc: left out, needs each", "lwf: left out, needs each, divergence"]
  assert all(line in told.err for line in lines)
  assert {"finetune", "er", "si", "cumulative"} <= {*able}
