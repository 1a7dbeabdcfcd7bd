"""A step of finetune and er over a hand-written scan, interleaved: ``python -m experiments.step_cost [--repeats=15]``.

What the suite ``engine`` of ``launch.benchmark`` measures, without PyTorch: for a look at a change. The scan of er
takes twice the rows, where er has them from its memory. Writes ``results/benchmarks/step_cost.json`` and exits with
code 1 where a median lies above 1.10 scans.
"""

from __future__ import annotations

import json
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
from absl import app, flags

from cljax.io import checkpoint
from experiments.benchmarks import clocked, engine, ratio, rounds, shown

OUT = pathlib.Path(__file__).parent / "results" / "benchmarks" / "step_cost.json"
CASES = tuple(c._replace(methods=("finetune", "er")) for c in engine.CASES if c.model == "mlp")


def measure(case: engine.Case, repeats: int) -> list[dict]:
  """One row for each method."""
  stream, model = engine.stream_of(case, (28, 28, 1)), engine.network(case.model)
  runs = {name: engine.at_second_task(stream, model, name, case) for name in case.methods}
  start, index = runs["finetune"].learner, engine.rows_of(case, stream, case.steps)
  x, y = jnp.asarray(stream.dataset.train.x), jnp.asarray(engine.labels_of(stream), jnp.int32)
  y = y.at[jnp.asarray(stream.train[0])].set(0)
  replayed = np.resize(np.random.default_rng(0).permutation(stream.train[0]), index.shape).astype(np.int32)
  plain = engine._scan.trainer(model, engine.RATE)
  scan = lambda rows: clocked(lambda: plain(start.params, start.model_state, x, y, jnp.asarray(rows)))
  scans = {"finetune": scan(index), "er": scan(np.concatenate([index, replayed], 1))}
  timers = {**{f"scan of {n}": t for n, t in scans.items()}, **{n: run.seconds for n, run in runs.items()}}
  spent = rounds(timers, repeats)
  return [
    {
      "batch": case.batch, "method": n, "step ms": 1e3 * spent[n].median / case.steps,
      "over scan": ratio(spent[n], spent[f"scan of {n}"])[0],
      "quartiles": shown(ratio(spent[n], spent[f"scan of {n}"])),
    }
    for n in case.methods
  ]  # fmt: skip


def main(argv) -> None:
  del argv
  rows = [row for case in CASES for row in measure(case, flags.FLAGS.repeats)]
  for row in rows:
    print(f"batch {row['batch']:>3}  {row['method']:<8}  {row['step ms']:.4f} ms  {row['quartiles']} scans")
  OUT.write_text(json.dumps({"rows": rows, "versions": checkpoint.versions()}, indent=1) + "\n")
  sys.exit(any(row["over scan"] > engine.TARGET_SCAN for row in rows))


if __name__ == "__main__":
  flags.DEFINE_integer("repeats", 15, "Rounds of the paired comparison.", 3)
  app.run(main)
