"""The stability gap of replay with and without a projection."""

from __future__ import annotations

import numpy as np

import cljax
from cljax import methods, metrics
from experiments.claims._runs import train


def replay_only(model, spec, balance="auto"):
  """The same loss, memory and draws as er_agem, without the projection."""
  return methods.make("er_agem", model, spec, balance=balance)._replace(transform=None, references={})


def replay_by_task(model, spec):
  """The same with er_gem's memory, which has a share for each task."""
  return replay_only(model, spec, "task")


def worst(stream, method, seeds):
  """[S] min-ACC in percent, and the run."""
  options = cljax.Options(eval_every=1, eval_limit=180, chunk_steps=1, on_divergence="freeze")
  run = train(stream, method, seeds, epochs=4, options=options)
  current = np.asarray([c["task"] for c in run.curves])
  curves = np.asarray([c["accuracy"] for c in run.curves])  # [N, S, T]
  return np.asarray([100 * metrics.minimum_accuracy(curves[:, s], current) for s in range(seeds)]), run
