"""Returning tasks, requests, class masks, pairs of methods and resuming, crossed: a seeded sample."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import records
from bench import BATCH

import cljax
from cljax import methods, streams

LEARN = ("er", "derpp", "ewc", "agem", "gpm", "cuber", "tag", "lwf", "ncm", "ogd", "si", "center_loss", "lines")
FORGET = ("ssd", "retrain", "graddiff", "unsir")
ORDERS, ACTIVE = ((0, 1, 0), (1, 0, 1)), ("all", "seen", "task")
REQUESTS = ("3:class=1", "2:task=0", "3:task=1", "3:ids=1000-1010")


def sample(count: int):
  """Combinations in which each learner, and then each of the rest, comes about as often."""
  rng = random.Random(14)
  rest = list(itertools.product(FORGET, ORDERS, ACTIVE, REQUESTS))
  rng.shuffle(rest)
  pairs = [tuple(rng.sample(LEARN, 2)) for _ in range(count)]
  return [(pair, *rest[i]) for i, pair in enumerate(pairs)]


@pytest.mark.parametrize(("pair", "forget", "order", "active", "asked"), sample(6))
def test_a_run_goes_through_and_resumes(pair, forget, order, active, asked, make_blobs, small_model, tmp_path):
  stream = streams.build(make_blobs(), "class", tasks=2, order=order, active=active, forget=asked)

  def made(model, spec):
    parts = {n: methods.make(n, model, spec, **records.arguments(n)) for n in (*pair, forget)}
    return cljax.compose(**parts)

  def run(*args, **more):
    given = {"training": cljax.Recipe(batch_size=BATCH, epochs=2), "options": cljax.Options(chunk_steps=4)}
    return cljax.run(stream, small_model, made, **given, **more)

  whole = run()
  assert whole.alive.all()
  assert np.isfinite(whole.accuracy).all()
  # Rows are handed over once, however often their task came.
  learned = {e.task for e in stream.events[: [e["kind"] for e in whole.events].index("forget")] if hasattr(e, "task")}
  rows = np.unique(np.concatenate([stream.train[t] for t in learned]))
  named = streams.resolve(
    next(e for e in stream.events if not hasattr(e, "task")), stream.dataset.train, stream.train, 4,
    names=stream.dataset.class_names,
  )  # fmt: skip
  assert whole.forgotten[0]["rows"] == named[rows].sum()
  told: list[dict] = []
  stop = lambda: any(m.get("total", 0) >= 14 for m in told)
  with pytest.raises(cljax.Stopped):
    run(workdir=str(tmp_path), report=told.append, stop=stop)
  again = run(workdir=str(tmp_path))
  assert again.params_sha256 == whole.params_sha256
  np.testing.assert_array_equal(again.accuracy, whole.accuracy)
