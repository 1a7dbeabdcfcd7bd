"""Forgetting a class of digits at several strengths: what the retained rows keep once the class is forgotten."""

from __future__ import annotations

import functools

import numpy as np

import cljax
from cljax import data, streams
from experiments.claims._runs import mlp

LEVEL = 0.1  # forgotten: accuracy on the class's training rows at most this, chance among ten classes


@functools.cache
def stream():
  """All digits as one task, then a request to forget the threes."""
  return streams.build(data.load("digits"), "class", tasks=1, validation=0.0, forget=[(1, cljax.Forget(classes=(3,)))])


WEIGHTS = tuple(2.0 ** (k / 2) for k in range(-12, 3))  # of the ascent on the forget loss, at rate 0.05


def kept(method: str, seeds: int, *arms, **fixed) -> list[np.ndarray]:
  """For each arm (a dict of options) [S]: the best retain accuracy in percent among WEIGHTS that forget the class.

  NaN where none does. Every setting starts from the same network of its seed: 10 epochs of SGD 0.05, batch 32.
  """
  values = [{**arm, "forget_weight": w} for arm in arms for w in WEIGHTS]
  members = [cljax.Member(s, {f"forget.{k}": v for k, v in each.items()}) for each in values for s in range(seeds)]
  result = cljax.run(
    stream(),
    mlp(stream()),
    forget=method,
    forget_hyper={**values[0], **fixed},
    optimizer_options={"learning_rate": 0.05},
    training=cljax.Recipe(batch_size=32, epochs=10),
    options=cljax.Options(on_divergence="freeze"),
    population=members,
  )
  shape = len(arms), len(WEIGHTS), seeds
  gone, retain = (np.reshape(result.forgotten[0][k], shape) for k in ("forget", "retain"))
  best = np.where(gone <= LEVEL, retain, -1).max(1)
  return list(np.where(best >= 0, 100 * best, np.nan))
