"""A request that a method can not answer ends the run with one line, whatever the number of members."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import BATCH

import cljax
from cljax import methods, models, streams
from launch import train

CONFIG = Path(__file__).parents[2] / "experiments/split_digits.py"
SAID = "clpu_derpp forgets tasks in 'temporary' only; the request names rows of a task that was learned for good"


def test_a_run_is_refused_what_its_method_can_not_forget(make_blobs):
  stream = streams.build(make_blobs(4, 16, 4), "task", tasks=2, forget=[(2, cljax.Forget(tasks=(0,)))])
  options, recipe = methods.METHODS["clpu_derpp"].test, cljax.Recipe(batch_size=BATCH)
  with pytest.raises(cljax.UsageError) as refused:
    cljax.run(stream, models.mlp((4, 4, 1), 4, hidden=(8,)), "clpu_derpp", options, training=recipe, seeds=2)
  assert str(refused.value) == f"forget: {SAID}"


def test_a_launcher_says_so_in_one_line(tmp_path, capsys):
  given = [
    f"--config={CONFIG}", "--config.data.name=digits", "--config.stream.kind=task", "--config.stream.tasks=2",
    "--config.stream.rows=60", "--config.stream.forget=1:class=0", "--config.method.name=clpu_derpp",
    "--config.method.temporary=(1,)", "--config.train.epochs=1", "--config.model.hidden=(8,)", "--compilation_cache=",
  ]  # fmt: skip
  assert train.main(["launch", *given, f"--workdir={tmp_path}"]) == 2
  error = capsys.readouterr().err
  assert SAID in error
  assert len(error.splitlines()) == 1
