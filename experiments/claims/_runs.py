"""What claims share: streams of digits and of MNIST, one small network, one training recipe."""

from __future__ import annotations

import functools

import numpy as np

import cljax
from cljax import data, metrics, models, streams


@functools.cache
def digits(kind: str, tasks: int = 5, **options):
  """A stream over the 8x8 digits; nothing is held out, since no claim selects on validation rows."""
  return streams.build(data.load("digits"), kind, tasks=tasks, validation=0.0, **options)


@functools.cache
def mnist(kind: str, tasks: int = 5, **options):
  """A stream over MNIST for claims whose paper used it; ``python -m cljax.data.prepare mnist`` puts it in its place."""
  return streams.build(data.load("mnist"), kind, tasks=tasks, validation=0.0, **options)


def mlp(stream, hidden=(100, 100)):
  return models.mlp(stream.dataset.train.x.shape[1:], stream.num_classes, hidden=hidden)


def train(
  stream,
  method,
  seeds,
  *,
  epochs=5,
  batch_size=32,
  learning_rate=0.05,
  optimizer="sgd",
  model=None,
  options=None,
  evaluators=(),
  **hyper,
):
  """``seeds`` runs of a method (a registry name, or a factory) by the claims' recipe; diverged members are frozen."""
  return cljax.run(
    stream,
    model or mlp(stream),
    method,
    hyper,
    optimizer=optimizer,
    optimizer_options={"learning_rate": learning_rate},
    training=cljax.Recipe(batch_size=batch_size, epochs=epochs),
    options=options or cljax.Options(on_divergence="freeze"),
    seeds=seeds,
    evaluators=evaluators,
  )


def _alive(result, values):
  return np.where(np.asarray(result.alive), np.asarray(values, np.float64), np.nan)


def percent(result) -> np.ndarray:
  """[S] final average accuracy in percent; NaN where the run diverged."""
  return _alive(result, 100 * np.asarray(metrics.average_accuracy(result.learning_rows)))


def forgetting(result) -> np.ndarray:
  """[S] average forgetting in points."""
  return _alive(result, 100 * np.asarray(metrics.forgetting(result.learning_rows)))


def learned(result) -> np.ndarray:
  """[S] accuracy on each task right after it was learned, averaged, in percent."""
  rows = result.learning_rows
  return _alive(result, 100 * np.diagonal(rows, axis1=1, axis2=2).mean(-1))


def final(result, task: int) -> np.ndarray:
  """[S] accuracy on one task at the end of the stream, in percent."""
  return _alive(result, 100 * result.accuracy[:, -1, task])
