"""One process of ``tests/engine/test_distributed.py``: ``main()`` with arguments PORT PROCESSES PROCESS FOLDER."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np


def replay_and_penalty(model, spec):
  """Experience replay and EWC in one program: a memory, rows of it in the batch, and a Fisher after each task."""
  import cljax
  from cljax import methods

  def build(name, **hyper):
    entry = methods.lookup(name)
    return entry.factory(model, spec, **hyper)._replace(access=entry.access)

  return cljax.compose(ewc=build("ewc", strength=10.0), er=build("er", capacity=12))


METHODS: dict[str, Any] = {"finetune": "finetune", "er_ewc": replay_and_penalty}


class StopAfter:
  """Asks to stop once the first event is over: the second stops after its first chunk."""

  def __init__(self):
    self.seen = False

  def report(self, message):
    self.seen = self.seen or message["kind"] == "event"

  def __call__(self):
    return self.seen


def prepared(method: str, mesh=None):
  """Runs on blobs, two tasks; the same whoever prepares them."""
  from conftest import blobs

  import cljax
  from cljax import engine, models, streams

  stream = streams.build(blobs(), "class", tasks=2, validation=0.125)
  model = models.mlp((4, 4, 1), 4, hidden=(8,))
  return engine.prepare(
    stream, model, METHODS[method], optimizer="momentum", training=cljax.Recipe(batch_size=8, epochs=2),
    options=cljax.Options(chunk_steps=5), mesh=mesh,
  )  # fmt: skip


def params(result) -> dict[str, np.ndarray]:
  """The parameters of a result by path."""
  import jax

  from cljax.core import tree

  leaves = [np.asarray(a) for a in jax.tree.leaves(result.learner.params)]
  return dict(zip(tree.paths(result.learner.params), leaves, strict=True))


def main() -> None:
  port, count, process, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4])
  import jax

  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_disable_most_optimizations", True)
  jax.distributed.initialize(f"localhost:{port}", count, process)
  import cljax

  built = {"er_ewc": prepared("er_ewc", {"data": count}), "finetune": prepared("finetune", {"fsdp": count})}
  results = {"er_ewc": built["er_ewc"].run(), "finetune": built["finetune"].run(str(folder / "one_then_two"))}
  stop = StopAfter()
  stopped = False
  try:
    # Process 0 reports, so it alone asks; both must stop.
    built["er_ewc"].run(str(folder / "two_then_one"), stop.report, stop)
  except cljax.Stopped:
    stopped = True
  for name, made in built.items():
    (step,) = (found.result() for found in made.setup.programs.chunk._compiled.values())
    learner, _, _ = step.output_shardings
    specs = [str(s.spec) for s in jax.tree.leaves(learner.params)]
    about: dict[str, Any] = {"stopped": stopped, "reduces": "all-reduce" in step.as_text(), "specs": specs}
    about |= {"accuracy": results[name].accuracy, **params(results[name])}
    np.savez(folder / f"{name}-{process}.npz", allow_pickle=False, **about)
