"""What cljax does on an accelerator, in one script: ``python -m experiments.accelerator`` (``--tiny`` to try it).

Parts (``--parts``): *population*, a seed's step in populations of 1 to 1,024 seeds, MLP, CNN, ResNet-18 and ViT, beside
the arithmetic that it takes and what a large matrix product reaches on the device; *precision*, the ResNet's step in
float32, TF32 and bfloat16; *torch*, the engine over eager PyTorch (``launch.benchmark --suite=engine``, where that
is); *cifar*, er and derpp on split CIFAR-10, ``--rows`` of it, seconds and accuracy; *resume*, a run that is stopped
twice and resumed, to the same bits. Each part stands by itself: one that fails says so and the others go on. Writes
``DEVICE.json`` and ``DEVICE.md``, named by the device, into ``--out`` after each part.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

import cljax
from cljax import data, engine, models, streams
from cljax.evaluation import cost
from experiments import benchmarks
from experiments.benchmarks import population

PARTS = ("population", "precision", "torch", "cifar", "resume")
MODELS = {
  "mlp": (lambda shape: models.mlp(shape, 10, hidden=(256, 256)), (28, 28, 1), 10, (1, 8, 64, 1024), 200),
  "cnn": (lambda shape: models.cnn(shape, 10), (28, 28, 1), 32, (1, 8, 64, 256), 50),
  "resnet18": (lambda shape: models.resnet18(shape, 10), (32, 32, 3), 32, (1, 4, 16, 64), 20),
  "vit": (lambda shape: models.vit(shape, 10), (32, 32, 3), 32, (1, 4, 16, 64), 20),
}


def product_flops(dtype, size: int) -> float:
  """Operations a second of one large matrix product: the roof that a step is held against."""
  a = jnp.ones((size, size), dtype)
  product = jax.jit(lambda a: a @ a)
  timer = benchmarks.clocked(lambda: product(a))
  timer()
  return 2 * size**3 / min(timer() for _ in range(5))


def prepared(name: str, seeds: int, **training) -> tuple[engine.Prepared, int]:
  """A run on noise, one task, and its steps."""
  make, shape, batch, _, steps = MODELS[name]
  if flags.FLAGS.tiny:
    shape, batch, steps = (8, 8, shape[-1]), 8, 2
  stream = streams.build(population.dataset(steps * batch, shape), "class", tasks=1, validation=0.0)
  recipe = cljax.Recipe(batch_size=batch, **training)
  given: dict[str, Any] = {"optimizer_options": {"learning_rate": 1e-4}, "options": cljax.Options(max_interval_s=1e9)}
  return engine.prepare(stream, make(shape), seeds=seeds, training=recipe, **given), steps


def populations() -> list[dict[str, Any]]:
  """Milliseconds of a seed's step by the size of the population, and the share of the roof."""
  roof = product_flops(jnp.float32, 256 if flags.FLAGS.tiny else 8192)
  rows = []
  for name, (_, _, _, sizes, _) in MODELS.items():
    for seeds in sizes[:2] if flags.FLAGS.tiny else sizes:
      run, steps = prepared(name, seeds)
      seconds = population.rounds({name: run}, flags.FLAGS.repeats)[name].median / steps
      flops = cost.cost(run).step_flops
      rows.append({
        "model": name, "seeds": seeds, "step ms": 1e3 * seconds, "seed-step ms": 1e3 * seconds / seeds,
        "GFLOP a step": flops / 1e9, "of the roof": flops * seeds / seconds / roof, "roof TFLOP/s": roof / 1e12,
      })  # fmt: skip
      print(rows[-1], flush=True)
  return rows


def precisions() -> list[dict[str, Any]]:
  """The ResNet's step by ``train.precision``, one seed and a population."""
  rows = []
  precisions = ["float32", *(["tf32"] if jax.default_backend() == "gpu" else []), "bfloat16"]
  for seeds in (1, 2) if flags.FLAGS.tiny else (1, 16):
    made = {p: prepared("resnet18", seeds, precision=p) for p in precisions}
    found = population.rounds({p: run for p, (run, _) in made.items()}, flags.FLAGS.repeats)
    for p, (_, steps) in made.items():
      mine = found[p].median / steps
      rows.append({"precision": p, "seeds": seeds, "seed-step ms": 1e3 * mine / seeds,
                   "over float32": found[p].median / found["float32"].median})  # fmt: skip
  return rows


def beside_torch() -> list[dict[str, Any]]:
  """The rows of the engine suite."""
  if flags.FLAGS.tiny:
    return [{"engine suite": "left out of a tiny run"}]
  return benchmarks.load("engine").suite(print, flags.FLAGS.repeats).rows


def cifar() -> list[dict[str, Any]]:
  """er and derpp, 500 rows of memory, one epoch, two seeds."""
  rows = []
  size = 300 if flags.FLAGS.tiny else flags.FLAGS.rows
  stream = streams.build(data.load("cifar10"), "class", tasks=5, rows=size)
  for name in ("er", "derpp"):
    start = time.perf_counter()
    result = cljax.run(
      stream, models.resnet18((32, 32, 3), 10, width=4 if flags.FLAGS.tiny else 20), name, {"capacity": 500},
      training=cljax.Recipe(batch_size=32, epochs=1, augment="crop_flip"), seeds=2,
    )  # fmt: skip
    final = 100 * result.accuracy[:, -1].mean(-1)
    rows.append({"method": name, "rows": size, "accuracy": float(final.mean()), "s": time.perf_counter() - start,
                 "training s": result.seconds["train"], "compiling s": result.seconds["compile"]})  # fmt: skip
    print(rows[-1], flush=True)
  return rows


def resumed() -> list[dict[str, Any]]:
  """A run that is stopped in its third and sixth chunk ends on the bits of one that is not."""
  stream = streams.build(data.load("digits"), "class", tasks=5)
  given: dict[str, Any] = {"seeds": 4, "training": cljax.Recipe(batch_size=32, epochs=2),
                           "options": cljax.Options(chunk_steps=8)}  # fmt: skip
  made = lambda: engine.prepare(stream, models.mlp((8, 8, 1), 10, hidden=(64,)), "er", {"capacity": 100}, **given)
  whole = made().run()
  with tempfile.TemporaryDirectory() as folder:
    for last in (3, 6):
      asked: list[int] = []
      stop = lambda asked=asked, last=last: asked.append(0) or len(asked) > last
      with contextlib.suppress(cljax.Stopped):
        made().run(folder, stop=stop)
    again = made().run(folder)
  same = again.params_sha256 == whole.params_sha256
  return [{"digests": "equal" if same else "DIFFER", "seeds": 4, "accuracy": float(whole.accuracy[:, -1].mean())}]


WORK: dict[str, Callable[[], list[dict[str, Any]]]] = {
  "population": populations, "precision": precisions, "torch": beside_torch, "cifar": cifar, "resume": resumed,
}  # fmt: skip


def write(found: dict[str, Any], out: pathlib.Path) -> None:
  device = jax.devices()[0]
  name = re.sub(r"\W+", "_", f"{device.platform}_{device.device_kind}").strip("_").lower() + "_tiny" * flags.FLAGS.tiny
  out.mkdir(parents=True, exist_ok=True)
  content = {"machine": benchmarks.machine(), "device": device.device_kind, "parts": found}
  (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
  told = ", ".join(f"{k} {v}" for k, v in content["machine"].items())
  body = "\n\n".join(
    f"## {part}\n\n" + (benchmarks.markdown(rows) if isinstance(rows, list) else f"Failed: `{rows}`")
    for part, rows in found.items()
  )
  (out / f"{name}.md").write_text(
    f"# {device.device_kind}\n\n`python -m experiments.accelerator{' --tiny' * flags.FLAGS.tiny}`\n\n{told}\n\n{body}\n"
  )


def main(argv) -> None:
  del argv
  found: dict[str, Any] = {}
  for part in flags.FLAGS.parts:
    print(f"{part}:", flush=True)
    try:
      found[part] = WORK[part]()
    except Exception as error:  # one part must not cost the others their time on a borrowed device
      traceback.print_exc()
      found[part] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    write(found, pathlib.Path(flags.FLAGS.out))


if __name__ == "__main__":
  flags.DEFINE_list("parts", list(PARTS), f"of {', '.join(PARTS)}")
  flags.DEFINE_bool("tiny", False, "small sizes, to try the script")
  flags.DEFINE_integer("rows", 10000, "training rows of CIFAR-10", lower_bound=100)
  flags.DEFINE_integer("repeats", 3, "rounds of each comparison", lower_bound=1)
  flags.DEFINE_string("out", "experiments/results/accelerator", "of JSON and Markdown")
  app.run(main)
