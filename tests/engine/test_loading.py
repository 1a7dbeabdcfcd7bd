"""``cljax.load``: what a workdir gives back."""

import jax
import numpy as np
import pytest

import cljax
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.evaluation import results


def test_a_run_of_the_library_comes_back(class_stream, small_model, tmp_path):
  arguments = {
    "stream": class_stream, "model": small_model, "method": "ewc", "hyper": {"strength": 2.0},
    "training": cljax.Recipe(batch_size=8),
  }  # fmt: skip
  grid = [cljax.Member(s, {"method.strength": v}) for s, v in ((0, 1.0), (1, 3.0))]
  result = cljax.run(**arguments, population=grid, workdir=str(tmp_path))
  loaded = cljax.load(tmp_path, **arguments)
  x = class_stream.dataset.test.x[:5]
  for member in (0, 1):
    params = jax.tree.map(lambda a, m=member: a[m], loaded.params)
    assert tree.digest(params) == result.params_sha256[member]
    np.testing.assert_array_equal(loaded.predict(x, member=member), result.predict(x, member=member))
  earlier = cljax.load(tmp_path, number=1, **arguments)
  assert earlier.position["event"] == 1
  with pytest.raises(UsageError, match="was not started by a launcher"):
    cljax.load(tmp_path)
  with pytest.raises(UsageError, match="does not hold checkpoint 9; it has \\[1, 2\\]"):
    cljax.load(tmp_path, number=9)
  with pytest.raises(UsageError, match="does not hold any checkpoint"):
    cljax.load(tmp_path / "nowhere")


def test_a_run_of_a_launcher_comes_back_from_its_workdir_alone(tmp_path):
  from cljax.cli import train

  config = ["--config=experiments/split_digits.py", "--config.train.epochs=1", "--config.method.name=ncm"]
  assert train.main(["train", *config, "--seeds=1", f"--workdir={tmp_path}"]) == 0
  loaded = cljax.load(tmp_path)
  result = results.read(tmp_path / "result.json")
  assert tree.digest(jax.tree.map(lambda a: a[0], loaded.params)) == result["params_sha256"][0]
  from cljax import data

  test = data.load("digits").test
  hit = np.asarray(loaded.predict(test.x)).argmax(-1) == test.y
  final = np.mean([hit[np.isin(test.y, [2 * t, 2 * t + 1])].mean() for t in range(5)])
  np.testing.assert_allclose(final, result["metrics"]["acc"]["mean"], atol=1e-9)
