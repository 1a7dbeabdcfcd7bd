"""A stream without labels from the command line, from training to the table of what was found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_config import text

from cljax.cli import train

GIVEN = [
  "--config.stream.tasks=2", "--config.stream.rows=0", "--config.stream.classes_per_task=4,3",
  "--config.stream.labelled=1", "--config.stream.returning=0.1", "--config.model.hidden=32",
  "--config.method.name=happy", "--config.method.width=16", "--config.method.least_area=0.8",
  "--config.method.flip=false", "--config.optimizer.learning_rate=0.1", "--config.train.epochs=10",
  "--config.train.batch_size=32", "--config.evaluators=clusters", "--compilation_cache=",
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp("labels") / "config.py"
  path.write_text(text())
  return path


def test_new_classes_are_found_in_digits(file, tmp_path):
  """Far better than by chance, while the old ones are kept; each part under its name."""
  assert train.main(["launch", f"--config={file}", *GIVEN, "--seeds=1", f"--workdir={tmp_path}"]) == 0
  found = json.loads((tmp_path / "result.json").read_text())
  assert found["config"]["stream"]["labelled"] == 1
  said = {name: np.asarray(v, float)[0, :, 0] for name, v in found["evaluations"]["clusters"].items()}
  assert set(said) == {"all", "old", "new", "seen", "unseen"}
  assert np.isnan(said["new"][:2]).all()
  assert said["all"][1] > 0.9
  assert said["all"][2] > 0.6
  assert said["new"][2] > 0.4
  assert found["evaluation_metrics"]["clusters"]["all"]["final"]["mean"] == pytest.approx(said["all"][2])


@pytest.mark.parametrize(
  ("more", "said"),
  [
    (["--config.method.name=er"], "the training rows of task 1 have no labels, which 'er' learns from"),
    (["--config.stream.kind=task"], "stream.labelled: got '1'; kind 'task' does not read it; read by: class"),
    (["--config.stream.forget=1:class=3"], "class= names rows by labels, which stream.labelled withholds"),
  ],
)  # fmt: skip
def test_refusals_are_one_line(file, tmp_path, capsys, more, said):
  kept = [g for g in GIVEN if not ("er" in str(more) and g.startswith("--config.method."))]
  assert train.main(["launch", f"--config={file}", *kept, *more, f"--workdir={tmp_path}"]) == 2
  lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
  assert said in lines[-1]
  assert len(lines) == 1
