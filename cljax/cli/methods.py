"""Prints the table of docs/methods.md, and below it what each is checked by: ``python -m launch.methods``; with names,
``python -m launch.methods derpp``, the card of each: formula, options, published settings and numbers.

Bytes are those kept between tasks beside parameters and optimizer, with default options on the model of
``experiments/split_digits.py`` (64-100-100-10, 17,510 parameters, 5 tasks); of a method that asks for what an MLP
lacks, on the zoo's model that has it. Nothing is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import jax

from cljax import data, methods, models, streams
from cljax.cli import _card, _shared
from cljax.core import tree
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.engine.step import build, state_between_tasks
from cljax.methods.table import checks, table


def state_bytes(names: Sequence[str] | None = None) -> dict[str, int]:
  """Bytes that methods of the registry (default: each) keep between tasks, by name."""
  stream = streams.build(data.load("digits"), "class", tasks=5)
  # Told the task at test, so that methods that need it can be built; nothing they keep depends on it.
  spec = spec_of(stream, 32)._replace(task_id_given=True)
  plain = models.mlp((8, 8, 1), 10, hidden=(100, 100))
  optimizer, training, augment = recipe.make_optimizer(), recipe.Recipe(), recipe.make_augment("none")
  sizes = {}
  for name in methods.METHODS if names is None else names:
    plan, kind = methods.plan({"method": (name, {})}), methods.METHODS[name].network
    model = plain if kind == "mlp" else models.build(kind, (8, 8, 1), 10)
    method = plan.build(model, spec, plan.hyper)
    parts = build(name, method, model, spec, optimizer, training, stream.view.apply, augment)
    learner = jax.eval_shape(parts.init, jax.random.key(0))
    sizes[name] = tree.nbytes(state_between_tasks(learner))
  return sizes


def _run(argv: Sequence[str], stop) -> int:
  del stop
  names = list(argv[1:])
  if {"--help", "-h"} & set(names):
    raise _shared.Help(__doc__ or "")
  for name in names:
    methods.lookup(name)
  if names:
    sizes = state_bytes(names)
    print("\n\n\n".join(_card.card(name, sizes[name]) for name in names))
  else:
    print(table(state_bytes()))
    print()
    print(checks())
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Prints both tables, or the cards of the methods that are named; returns the exit code."""
  return _shared.guarded(_run, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
