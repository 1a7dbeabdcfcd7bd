"""What the claims about averages and schedules share: replay beside a method, curves, a learning rate for each arm."""

from __future__ import annotations

import numpy as np

import cljax
from cljax import methods, metrics
from experiments.claims._runs import mlp, percent


def with_replay(name: str, **hyper):
  """A factory: the registered method with its options, composed with ``er`` at its defaults."""

  def factory(model, spec):
    return cljax.compose(**{name: methods.make(name, model, spec, **hyper), "er": methods.make("er", model, spec)})

  factory.__qualname__ = f"{name}_er"
  return factory


def worst_case(result) -> np.ndarray:
  """[S] worst-case accuracy in percent, from the evaluations inside tasks."""
  current = [c["task"] for c in result.curves]
  curves = np.asarray([c["accuracy"] for c in result.curves]).swapaxes(0, 1)
  return 100 * np.asarray([metrics.worst_case_accuracy(curve, current) for curve in curves])


def at_best_rate(stream, method, seeds: int, rates, epochs: int, batch_size: int, **hyper):
  """``(percent [S], rate)`` at the learning rate of ``rates`` that is best on three further seeds, in one program."""
  trial = range(seeds, seeds + 3)
  members = [cljax.Member(s, {"optimizer.learning_rate": r}) for r in rates for s in [*range(seeds), *trial]]
  result = cljax.run(
    stream,
    mlp(stream),
    method,
    hyper,
    optimizer_options={"learning_rate": rates[0]},
    training=cljax.Recipe(batch_size=batch_size, epochs=epochs),
    options=cljax.Options(on_divergence="freeze"),
    population=members,
  )
  values = percent(result).reshape(len(rates), seeds + 3)
  scores = np.nan_to_num(values[:, seeds:].mean(1), nan=-1.0)
  return values[scores.argmax(), :seeds], rates[int(scores.argmax())]
