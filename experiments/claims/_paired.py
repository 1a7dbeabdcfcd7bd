"""Claims of one form: a method forgets less than plain training; and methods at the best of several strengths."""

from __future__ import annotations

import numpy as np

import cljax
from experiments.claims import Measured
from experiments.claims._runs import forgetting, mlp, percent, train


def forgets_less(stream, name: str, seeds, **options) -> Measured:
  """Average forgetting of finetune minus that of the method, in points; both accuracies as figures."""
  plain, mine = train(stream, "finetune", seeds), train(stream, name, seeds, **options)
  return Measured(
    {f"forgetting of finetune - {name}": forgetting(plain) - forgetting(mine)},
    {"finetune accuracy": percent(plain), f"{name} accuracy": percent(mine)},
  )


def grid(stream, method, seeds: int, values, *, epochs=5, learning_rate=0.05, optimizer="sgd", model=None, hyper=None):
  """Accuracy and forgetting ``[V, S]`` of a method under each of ``values`` (dicts of options), in one program."""
  members = [cljax.Member(s, {f"method.{k}": v for k, v in each.items()}) for each in values for s in range(seeds)]
  result = cljax.run(
    stream,
    model or mlp(stream),
    method,
    {**values[0], **(hyper or {})},
    optimizer=optimizer,
    optimizer_options={"learning_rate": learning_rate},
    training=cljax.Recipe(batch_size=32, epochs=epochs),
    options=cljax.Options(on_divergence="freeze"),
    population=members,
  )
  shape = (len(values), seeds)
  return percent(result).reshape(shape), forgetting(result).reshape(shape)


def best(accuracy, other):
  """The rows of ``accuracy`` and ``other`` ``[V, S]`` with the best mean accuracy, where a diverged run counts as 0."""
  row = int(np.nan_to_num(accuracy).mean(1).argmax())
  return row, accuracy[row], other[row]
