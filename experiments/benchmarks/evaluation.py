"""What evaluating after every step costs: 5 tasks of 512 rows each, over the forward passes alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import cljax
from cljax import data, models, streams
from cljax.engine import method_of
from cljax.engine.loop import Hooks, begin, scored
from cljax.engine.recipe import optimizer_of
from cljax.engine.setup import setup
from experiments.benchmarks import Table, paired, ratio, shown

TASKS, ROWS = 5, 512
STEPS = {"mlp": 40, "cnn": 5}  # of the run whose evaluations are timed; one of the CNN takes seconds on a CPU


def stream_of_noise(steps: int, seed: int = 0):
  """28x28 bytes of noise, ten classes in five tasks of 512 test rows each; what is in them costs nothing."""
  rng = np.random.default_rng(seed)

  def split(count):
    y = np.repeat(np.arange(10), count)
    return data.types.split(rng.integers(0, 256, (len(y), 28, 28, 1), np.uint8), y)

  train, test = split(32 * steps // 10), split(ROWS * TASKS // 10)
  names = tuple(map(str, range(10)))
  dataset = data.Dataset("noise", train, test, 10, names, ("all",), 1 / 255, f"noise{seed}")
  return streams.build(dataset, "class", tasks=TASKS, validation=0.0)


def prepared(stream, model, eval_every: int = 0):
  """The compiled pieces of a run of ``finetune`` with one seed, as :func:`cljax.run` makes them."""
  make_method, hyper = method_of("finetune", {}, "", {})
  make_optimizer, rates = optimizer_of("sgd", {"learning_rate": 0.01})
  training = cljax.Recipe(batch_size=32, epochs=1)
  options = cljax.Options(eval_every=eval_every, eval_limit=ROWS, eval_block=ROWS)
  built = setup(stream, model, make_method, make_optimizer, {**hyper, **rates}, [cljax.Member(0)], training, options)
  return built, begin(built)


def forward_alone(stream, model, params, model_state):
  """A jitted ``forward()`` of the same rows in the same blocks: scaling, the network, and nothing else."""
  index = np.stack([rows[:ROWS] for rows in stream.test])
  x, scale = jnp.asarray(stream.dataset.test.x[index]), stream.dataset.scale

  @jax.jit
  def forward(params, model_state, x):
    def block(x):
      x = x.astype(jnp.float32) * scale
      return model.apply(params, model_state, x, train=False, key=jax.random.key(0))[0].logits

    return jax.lax.map(block, x)

  return lambda: forward(params, model_state, x)


def suite(report, repeats: int) -> Table:
  rows: list[dict[str, Any]] = []
  hooks = Hooks(lambda state: None, lambda message: None, lambda: False)
  for kind, steps in STEPS.items():
    stream = stream_of_noise(steps)
    shape = stream.dataset.train.x.shape[1:]
    model = models.mlp(shape, 10, hidden=(256, 256)) if kind == "mlp" else models.cnn(shape, 10)
    built, state = prepared(stream, model)
    one = jax.tree.map(lambda a: a[0], (state.learner.params, state.learner.model_state))
    functions = {
      "forward passes": forward_alone(stream, model, *one),
      # As a run does once it has seen that they are brief.
      "evaluation": lambda b=built, s=state, brief=kind == "mlp": scored(
        b, s, hooks, s.learner, b.evaluation, b.partial, brief
      ),
    }
    report(f"{kind}: {len(functions)} programs, {repeats} rounds")
    stats = paired(functions, repeats)
    report(f"{kind}: one run of {steps} steps, evaluated after each")
    options = cljax.Options(eval_every=1, eval_limit=ROWS, eval_block=ROWS)
    recipe = cljax.Recipe(batch_size=32, epochs=1)
    rate = {"learning_rate": 0.01}
    run = cljax.run(stream, model, optimizer_options=rate, training=recipe, options=options)
    count = len(run.curves) + len(run.events) + 1  # inside tasks, after each event, before the first
    forward = stats["forward passes"].median
    for name in functions:
      row = {"model": kind, "what": name, "ms": 1e3 * stats[name].median}
      if name != "forward passes":
        row["over the forward passes [quartiles]"] = shown(ratio(stats[name], stats["forward passes"]))
      rows.append(row)
    each = run.seconds["eval"] / count
    rows.append({
      "model": kind, "what": f"in a run, mean of {count}", "ms": 1e3 * each,
      "over the forward passes [quartiles]": f"{each / forward:.2f}",
    })  # fmt: skip
  notes = [
    f"An evaluation is {TASKS} tasks of {ROWS} rows in blocks of {ROWS}, of one seed; it cuts out the rows, masks the "
    "classes, counts with and without the task's classes and brings the counts to the host.",
    "Forward passes: scaling and the network on the same blocks, in one jitted program; ratios are paired by round.",
    "In a run: what cljax.run booked as evaluation, its mean over the median of the forward passes.",
  ]
  return Table("Cost of evaluating after every step", rows, notes)
