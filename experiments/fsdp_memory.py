"""Bytes of a device under a mesh, by the compiler: ``python -m experiments.fsdp_memory [--width=768 --depth=12]``.

A transformer of ``objectives.sequence`` under Adam on eight host devices. The programs are lowered and compiled for
abstract arguments: nothing is allocated or run. Writes ``results/benchmarks/fsdp_memory.json`` and ``.md``.
"""

from __future__ import annotations

import os

DEVICES = 8
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}".strip()

import json  # noqa: E402
import pathlib  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

import cljax  # noqa: E402
from cljax import engine, models, streams  # noqa: E402
from cljax.core import tree  # noqa: E402
from cljax.data import Dataset, Split  # noqa: E402
from cljax.engine import mesh as meshes  # noqa: E402
from cljax.engine import precompile  # noqa: E402
from cljax.io import checkpoint  # noqa: E402
from experiments.benchmarks import markdown  # noqa: E402

OUT = pathlib.Path(__file__).parent / "results" / "benchmarks" / "fsdp_memory"
MESHES: tuple[dict[str, int], ...] = ({}, {"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 4})
VOCABULARY, LENGTH, ROWS = 8192, 128, 64
MIB = 2.0**20


def stream():
  """Two tasks of noise."""
  rng = np.random.default_rng(0)
  at = np.arange(ROWS, dtype=np.int32)
  x, y = (rng.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32) for _ in "xy")
  split = Split(x, y, at, at % 2)
  data = Dataset("noise", split, split, VOCABULARY, tuple(map(str, range(VOCABULARY))), ("0", "1"), None, "noise")
  tasks = [np.flatnonzero(split.group == t) for t in range(2)]
  return streams.from_tasks(data, tasks, tasks)


def placed(arguments, mesh):
  """Shapes with the places that a run's own arguments have."""
  if mesh is None:
    return arguments
  one = lambda a, where: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where)
  shapes = jax.eval_shape(lambda *a: a, *arguments)
  return jax.tree.map(one, shapes, meshes.shardings(shapes, mesh))


def measure(axes: dict[str, int], method: str, width: int, depth: int, batch: int) -> list[dict]:
  """One row for the chunk of steps, and one for the end of a task where the method has one."""
  model = models.transformer(LENGTH, VOCABULARY, width=width, depth=depth, heads=width // 64, mlp_ratio=4)
  more = {"mesh": axes} if axes else {"devices": jax.devices()[:1]}
  prepared = engine.prepare(
    stream(), model, method, {"fisher_batch_size": batch} if method == "ewc" else None, optimizer="adam",
    training=cljax.Recipe(batch_size=batch), objective="sequence", options=cljax.Options(chunk_steps=4), **more,
  )  # fmt: skip
  setup, rows = prepared.setup, []
  size = tree.size(jax.eval_shape(model.init, jax.random.key(0))[0])
  for program, arguments in precompile.calls(setup):
    name = next(n for n in setup.programs._fields if getattr(setup.programs, n) is program)
    if name not in ("chunk", "end_task"):
      continue
    compiled = program.precompile(*placed(arguments, setup.members.placed)).result()
    found = compiled.memory_analysis()
    rows.append({
      "mesh": " x ".join(f"{k} {v}" for k, v in axes.items()) or "one device", "method": method, "program": name,
      "parameters": f"{size:,}", "arguments MiB": found.argument_size_in_bytes / MIB,
      "results MiB": (found.output_size_in_bytes - found.alias_size_in_bytes) / MIB,
      "temporary MiB": found.temp_size_in_bytes / MIB,
    })  # fmt: skip
    print(rows[-1], flush=True)
  return rows


def main(argv) -> None:
  del argv
  given = flags.FLAGS
  rows = [
    row
    for axes in MESHES
    for method in given.methods
    for row in measure(axes, method, given.width, given.depth, given.batch)
  ]
  content = {"rows": rows, "width": given.width, "depth": given.depth, "batch": given.batch}
  OUT.with_suffix(".json").write_text(json.dumps({**content, "versions": checkpoint.versions()}, indent=1) + "\n")
  head = f"# Bytes of one of {DEVICES} host devices\n\n`python -m experiments.fsdp_memory --width={given.width} "
  head += f"--depth={given.depth} --batch={given.batch} --methods={','.join(given.methods)}`: sequences of {LENGTH}"
  OUT.with_suffix(".md").write_text(f"{head} tokens, Adam, by `compiled.memory_analysis()`.\n\n{markdown(rows)}\n")


if __name__ == "__main__":
  flags.DEFINE_integer("width", 768, "Width.", 64)
  flags.DEFINE_integer("depth", 12, "Blocks.", 1)
  flags.DEFINE_integer("batch", 8, "Sequences of a step.", 8)
  flags.DEFINE_list("methods", ["finetune", "ewc"], "Methods.")
  app.run(main)
