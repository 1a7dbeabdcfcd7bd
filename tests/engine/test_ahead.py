"""Programs that other threads compile before a run needs them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import cljax
from cljax import engine


def test_a_run_takes_what_was_compiled_ahead_to_the_same_bits(class_stream, small_model):
  given = {"hyper": {"strength": 0.1}, "seeds": 3, "training": cljax.Recipe(batch_size=32)}
  plain, made = (engine.prepare(class_stream, small_model, "si", **given) for _ in range(2))
  jobs: list = []
  with ThreadPoolExecutor(2) as pool:
    made.precompile(lambda function: jobs.append(pool.submit(function)))
  assert [job.exception() for job in jobs] == [None] * 4
  expected, found = plain.run(), made.run()
  assert found.params_sha256 == expected.params_sha256
  assert found.compilations == expected.compilations
  assert {n: found.compilations[n] for n in ("init", "evaluate", "chunk", "end_task")} == dict.fromkeys(
    ("init", "evaluate", "chunk", "end_task"), 1
  )
  assert found.seconds["compile"] == 0 < expected.seconds["compile"]


def test_what_compiling_raises_is_raised_and_another_call_tries_anew(class_stream, small_model):
  made = engine.prepare(class_stream, small_model, "finetune", training=cljax.Recipe(batch_size=32)).setup
  program = made.programs.evaluate
  for _ in range(2):
    assert program.precompile(made.hyper, (), (), ()).exception() is not None
    assert program.compilations == 0
  with pytest.raises(ValueError, match="unpack"):
    program(made.hyper, (), (), ())
