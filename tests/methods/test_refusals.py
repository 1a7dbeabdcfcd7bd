"""A request that a method can not answer ends the run with one line, whatever the number of members."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import quick
import records
from bench import BATCH

import cljax
from cljax import methods, models, streams
from cljax.cli import train
from cljax.engine.setup import spec_of

CONFIG = Path(__file__).parents[2] / "experiments/split_digits.py"
SAID = "clpu_derpp forgets tasks in 'temporary' only; the request names rows of a task that was learned for good"


def test_a_run_is_refused_what_its_method_can_not_forget(make_blobs):
  stream = streams.build(make_blobs(4, 16, 4), "task", tasks=2, forget=[(2, cljax.Forget(tasks=(0,)))])
  options, recipe = records.arguments("clpu_derpp"), cljax.Recipe(batch_size=BATCH)
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


SIZES = [
  (name, key)
  for name, entry in sorted(methods.METHODS.items())
  for key in ("replay_batch", "reference_batch")
  if {key, "capacity"} <= set(entry.options)
]


@pytest.mark.parametrize(("name", "key"), SIZES)
def test_no_more_rows_are_drawn_than_a_memory_holds(name, key):
  """From Python as from the command line; so many as it holds are allowed, and a default is not asked for."""
  default = methods.METHODS[name].options[key].default
  above = 9 if default != 9 else 10
  for value in (above, 8, default):
    given = {"capacity": 8, key: value}
    if value != above:
      assert methods.check_options(name, given)[key] == value
      continue
    with pytest.raises(cljax.UsageError, match=f"method.{key}: got {above}, above method.capacity, which is 8"):
      methods.check_options(name, given)


def test_no_more_references_than_a_task_s_share(task_stream, small_model):
  spec = spec_of(task_stream, BATCH)
  with pytest.raises(cljax.UsageError, match="reference_batch: got 11; the memory holds 10 rows of each task"):
    methods.make("er_gem", small_model, spec, capacity=20, reference_batch=11)


def test_a_request_is_refused_with_two_host_devices():
  """The refusal comes from inside a program that every device runs: one line, and the process ends."""
  code = """
import sys; sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import jax, cljax, records
from cljax import methods, models, streams
from conftest import blobs
assert jax.device_count() == 2
stream = streams.build(blobs(4, 16, 4), "task", tasks=2, forget="2:task=0")
try:
  cljax.run(
    stream, models.mlp((4, 4, 1), 4, hidden=(8,)), "clpu_derpp", records.arguments("clpu_derpp"),
    training=cljax.Recipe(batch_size={batch}, epochs=1), seeds=2,
  )
except cljax.UsageError as e:
  print("refused:", e)
""".format(root=str(Path(__file__).parents[2]), batch=BATCH)
  more = {"XLA_FLAGS": quick.with_devices(2), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", code], env={**os.environ, **more}, capture_output=True, text=True, timeout=300, check=False
  )
  assert done.stdout.splitlines() == [f"refused: forget: {SAID}"], done.stderr[-2000:]
