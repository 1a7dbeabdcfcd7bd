"""What the engine costs: a training step of each method over a hand-written scan, eager PyTorch and the machine."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import cljax
from cljax import engine, methods, models, streams
from cljax.core import tree
from cljax.data import Dataset
from cljax.engine import loop, schedule
from cljax.engine.loop import Stopped
from experiments.benchmarks import (
  Stats,
  Table,
  _limit,
  _scan,
  _torch,
  _torch_ensemble,
  clocked,
  population,
  ratio,
  rounds,
  shown,
)

METHODS = ("finetune", "ewc", "si", "er", "derpp", "agem", "gpm", "lwf")
FEW = ("finetune", "er", "ewc")
RATE = 1e-4  # noise is to stay finite
FIRST = 256  # rows of the first task, which fill the memories
# The kind of Fisher does not change a step; this one is the cheapest to compile.
HYPER: dict[str, dict[str, Any]] = {"ewc": {"fisher": "batched"}}
TARGET_SCAN, TARGET_RESNET = 1.10, 1.5  # over the scan: finetune and er; over eager PyTorch: the ResNet
SCAN = ("scan ms", "over scan", "over scan [quartiles]")
TARGET_ENSEMBLE = {10: 0.6, 32: 0.75}  # over the better ensemble of PyTorch, by batch size


class Case(NamedTuple):
  """A model at a batch size. A timed call takes ``steps`` steps through ``rows`` rows; PyTorch takes ``eager``."""

  model: str
  batch: int
  rows: int
  steps: int
  eager: int
  methods: tuple = METHODS
  seeds: tuple = (1,)


CASES = (
  Case("mlp", 10, 1280, 512, 128),
  Case("mlp", 32, 1280, 240, 80),
  Case("mlp", 128, 1280, 120, 40),
  Case("vit", 32, 256, 8, 4, FEW),
  Case("resnet", 32, 96, 3, 3, FEW),
)
ENSEMBLES = ("finetune", "er", "ewc", "derpp", "agem")
CROWDS = (
  Case("mlp", 10, 1280, 256, 64, ENSEMBLES, (1, 8, 32)),
  Case("mlp", 32, 1280, 120, 40, ENSEMBLES, (1, 8, 32)),
  Case("cnn", 10, 160, 16, 8, ENSEMBLES, (8,)),
  Case("cnn", 32, 192, 6, 4, ENSEMBLES, (8,)),
)


def network(kind: str, shape=(28, 28, 1), hidden=(256, 256)):
  if kind == "mlp":
    return models.mlp(shape, 10, hidden=hidden)
  if kind == "cnn":
    return models.cnn(shape, 10)
  return models.resnet18(shape, 10) if kind == "resnet" else models.vit(shape, 10)


def stream_of(case: Case, shape, first: int = FIRST):
  """Two tasks of five classes each: a short one, so that every method has what it keeps, and the one that is timed."""
  noise: Dataset = population.dataset(2 * max(case.rows, first) + 10, shape)
  stream = streams.build(noise, "class", tasks=2, validation=0.0)
  return stream._replace(train=(stream.train[0][:first], stream.train[1][: case.rows]))


class Timed(NamedTuple):
  """A prepared run that stands at the beginning of its second task."""

  prepared: engine.Prepared
  state: loop.State
  steps: int

  def fresh(self) -> loop.State:
    """A copy: a chunk consumes the learner that it is given."""
    copied = tree.copy((self.state.learner, self.state.alive))
    return dataclasses.replace(self.state, learner=copied[0], alive=copied[1])

  def train(self) -> tuple[loop.State, float]:
    """The state after one chunk of ``steps`` steps of the second task, and its seconds by the run's own clock."""
    state, clock = self.fresh(), self.prepared.setup.clock.seconds
    schedule._order.cache_clear()  # a run draws each permutation once
    jax.block_until_ready((state.learner.params, state.alive))
    before = clock["train"]
    try:
      self.prepared.run(start=state, stop=lambda: True)
    except Stopped:
      return state, clock["train"] - before
    raise AssertionError("a run that is asked to stop stops behind its chunk")

  def seconds(self) -> float:
    return self.train()[1]

  @property
  def learner(self):
    """The first member's, at the beginning of the second task."""
    return self.learners[0]

  @property
  def learners(self) -> list:
    return [jax.tree.map(lambda a, i=i: a[i], self.state.learner) for i in range(len(self.state.alive))]


def at_second_task(stream, model, name: str, case: Case, seeds: int = 1, rate: float = RATE, **hyper) -> Timed:
  """Prepares a run and takes it through its first task."""
  epochs = max(1, case.steps * case.batch // len(stream.train[1]))
  training = cljax.Recipe(batch_size=case.batch, epochs=epochs, first_task_epochs=1)
  options = cljax.Options(chunk_steps=case.steps, max_interval_s=1e9)
  prepared = engine.prepare(
    stream, model, name, {**HYPER.get(name, {}), **hyper}, seeds=seeds, training=training, options=options,
    optimizer_options={"learning_rate": rate},
  )  # fmt: skip
  state = loop.begin(prepared.setup)

  def save(state):
    if state.event:
      raise Stopped("between the tasks")

  try:
    loop.execute(prepared.setup, state, loop.Hooks(save, lambda message: None, lambda: False))
  except Stopped:
    return Timed(prepared, state, case.steps)
  raise AssertionError("the second task is still to come")


def rows_of(case: Case, stream, steps: int, seed: int = 0) -> np.ndarray:
  """``[K, B]``: the rows that the engine's seed trains on in its first steps of the second task."""
  plan = schedule.Schedule(schedule.pairs_of(stream, [1]), case.steps, 1, case.batch)
  return schedule.rows(plan, seed, 0, steps, steps, np.zeros(len(plan.pairs.index), bool))[0]


def options_of(name: str, **hyper) -> dict[str, Any]:
  """A method's options: its defaults, and those that the suite sets."""
  return {k: option.default for k, option in methods.METHODS[name].options.items()} | HYPER.get(name, {}) | hyper


def labels_of(stream) -> np.ndarray:
  """The label that the second task gives each row."""
  return stream.labels[1][stream.dataset.train.y]


def eager(name: str, case: Case, stream, learner, rate: float = RATE, **hyper) -> Callable:
  """``train(index)``: the method in PyTorch, going on from ``learner``."""
  old = np.flatnonzero(stream.classes_of_task[0])
  x, y = stream.dataset.train.x, labels_of(stream)
  return _torch.trainer(name, _torch.NETWORKS[case.model], learner, x, y, rate, options_of(name, **hyper), old)


def measure(case: Case, rates: _limit.Rates, repeats: int, shape, hidden, first: int = FIRST) -> list[dict[str, Any]]:
  """The rows of one model at one batch size."""
  stream, model = stream_of(case, shape, first), network(case.model, shape, hidden)
  runs = {name: at_second_task(stream, model, name, case) for name in case.methods}
  start = runs["finetune"].learner
  x, y = jnp.asarray(stream.dataset.train.x), jnp.asarray(labels_of(stream), jnp.int32)
  index = rows_of(case, stream, case.steps)
  # As many rows again from the first task, where er has them from its memory. Labels do not change what a step costs.
  replayed = np.resize(np.random.default_rng(0).permutation(stream.train[0]), index.shape).astype(np.int32)
  labels = y.at[jnp.asarray(stream.train[0])].set(0)
  plain = _scan.trainer(model, RATE)
  scan = lambda y, index: clocked(lambda: plain(start.params, start.model_state, x, y, index))
  timers: dict[str, Callable[[], float]] = {
    "scan": scan(y, jnp.asarray(index)),
    "scan, batch twice": scan(labels, jnp.asarray(np.concatenate([index, replayed], 1))),
  }
  for name, run in runs.items():
    timers[name] = run.seconds
    loop_of = eager(name, case, stream, run.learner)

    def some_steps(train=loop_of) -> None:
      train(index[: case.eager])

    timers["torch " + name] = clocked(some_steps)
  stats = rounds(timers, repeats)
  each = {
    name: Stats(s.samples / (case.eager if name.startswith("torch") else case.steps)) for name, s in stats.items()
  }
  size = tree.size(start.params)
  rows = []
  for name, run in runs.items():
    base = each["scan, batch twice" if name == "er" else "scan"]
    work = _limit.work(name, run.prepared, run.learner)
    over = ratio(each[name], each["torch " + name])
    target = ""
    if case.model == "resnet":
      target = f"at most {TARGET_RESNET} torch"
    elif name in ("finetune", "er"):
      target = f"at most {TARGET_SCAN:.2f} scan"
    rows.append({
      "model": f"{case.model} ({size:,})", "batch": case.batch, "seeds": 1, "method": name,
      "step ms": 1e3 * each[name].median, "scan ms": 1e3 * base.median,
      "over scan": ratio(each[name], base)[0], "over scan [quartiles]": shown(ratio(each[name], base)),
      "torch": "eager", "torch ms": 1e3 * each["torch " + name].median, "over torch": over[0],
      "over torch [quartiles]": shown(over), "vmapped ms": "", "compiled ms": "",
      **limits(work, each[name], rates), "target": target,
    })  # fmt: skip
  return rows


def limits(work: _limit.Work, spent: Stats, rates: _limit.Rates) -> dict[str, Any]:
  floor = work.seconds(rates)
  return {
    "Mflop": work.flops / 1e6,
    "MB": work.bytes / 1e6,
    "limit ms": 1e3 * floor,
    "over limit": spent.median / floor,
  }


def ensemble(name: str, case: Case, stream, learners, compiled: bool, rate: float = RATE, **hyper) -> Callable:
  """``train(index [S, K, B])``: the method in PyTorch for all members at once, going on from ``learners``."""
  x, y = stream.dataset.train.x, labels_of(stream)
  net = _torch.NETWORKS[case.model]
  return _torch_ensemble.trainer(name, net, learners, x, y, rate, options_of(name, **hyper), compiled)


def crowd(case: Case, rates: _limit.Rates, repeats: int, shape, hidden, first: int = FIRST) -> list[dict]:
  """The rows of populations beside PyTorch's ensembles: milliseconds of one seed's step."""
  stream, model, rows = stream_of(case, shape, first), network(case.model, shape, hidden), []
  for seeds in case.seeds:
    index = np.stack([rows_of(case, stream, case.eager, seed) for seed in range(seeds)])
    for name in case.methods:
      run = at_second_task(stream, model, name, case, seeds)
      timers: dict[str, Callable[[], float]] = {"cljax": run.seconds}
      for kind in ("vmapped", "compiled"):
        loop_of = ensemble(name, case, stream, run.learners, kind == "compiled")
        timers[kind] = clocked(functools.partial(loop_of, index))
      stats = rounds(timers, repeats)
      each = {k: Stats(s.samples / (seeds * (case.steps if k == "cljax" else case.eager))) for k, s in stats.items()}
      better = min(("vmapped", "compiled"), key=lambda k: each[k].median)
      over = ratio(each["cljax"], each[better])
      aim = TARGET_ENSEMBLE.get(case.batch)
      rows.append({
        "model": f"{case.model} ({tree.size(run.learner.params):,})", "batch": case.batch, "seeds": seeds,
        "method": name, "step ms": 1e3 * each["cljax"].median, **dict.fromkeys(SCAN, ""),
        "torch": better, "torch ms": 1e3 * each[better].median,
        "over torch": over[0], "over torch [quartiles]": shown(over),
        "vmapped ms": 1e3 * each["vmapped"].median, "compiled ms": 1e3 * each["compiled"].median,
        **limits(_limit.work(name, run.prepared, run.learner), each["cljax"], rates),
        "target": f"at most {aim:.2f} torch" if aim else "",
      })  # fmt: skip
  return rows


def plot(rows: list[dict[str, Any]], path: str) -> None:
  """Step time over the scan, over eager PyTorch and over the limit: a group of bars for each model and batch."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  alone = [row for row in rows if row["over scan"] != ""]
  figure, axes = pyplot.subplots(3, 1, figsize=(8, 8), sharex=True)
  labels = [f"{row['method']}\n{row['model'].split()[0]} {row['batch']}" for row in alone]
  for axis, key in zip(axes, ("over scan", "over torch", "over limit"), strict=True):
    axis.bar(range(len(alone)), [row[key] for row in alone])
    axis.axhline(1.0, color="grey", linewidth=1)
    axis.set(ylabel=f"step time {key}", yscale="log")
    axis.grid(alpha=0.3, axis="y")
  axes[-1].set_xticks(range(len(alone)), labels, rotation=90, fontsize=6)
  figure.tight_layout()
  figure.savefig(path, dpi=100)
  pyplot.close(figure)


def suite(
  report, repeats: int, cases=CASES, groups=CROWDS, shape=(28, 28, 1), hidden=(256, 256), first=FIRST,
  measured: _limit.Rates | None = None,
) -> Table:  # fmt: skip
  torch = _torch.require()
  rates = measured or _limit.rates()
  rows: list[dict[str, Any]] = []
  for case in cases:
    # The rounds of the larger models are long.
    turns = repeats if case.model == "mlp" else max(3, repeats // 2)
    report(f"{case.model}, batch {case.batch}: {', '.join(case.methods)}; {turns} rounds")
    rows += measure(case, rates, turns, shape, hidden, first)
  for group in groups:
    turns = repeats if group.model == "mlp" else max(3, repeats // 2)
    report(f"populations of {group.seeds} seeds of the {group.model}, batch {group.batch}; {turns} rounds")
    rows += crowd(group, rates, turns, shape, hidden, first)
  band = ", ".join(f"{r / 1e9:.0f} GB/s over {s / 2**20:.0f} MiB" for s, r in rates.bandwidth.items())
  notes = [
    "step ms: one training step (of one seed) in the second of two tasks, in one chunk, by the run's own clock: "
    "choosing rows on the host and fetching the losses are in it, boundaries and evaluation are not.",
    "scan: plain SGD on the same model and rows, written by hand with lax.scan and optax.sgd; for er on twice the "
    "batch, for the others on the same, so that the ratio is what the method costs.",
    f"torch: PyTorch {torch.__version__} on {torch.get_num_threads()} threads: the same method from the same state; "
    "eager, or as one ensemble of all seeds, torch.func.vmap over stacked parameters, and that under torch.compile "
    "(warm): over torch is over the better one.",
    f"Populations are split over {jax.device_count()} devices of JAX; milliseconds are of one seed's step.",
    f"limit: the larger of operations over {rates.flops / 1e9:.0f} GFLOP/s (a float32 matrix product) and of the "
    f"bytes that a step must read and write over the rate for so many ({band}); measured in this run.",
    f"Targets: finetune and er at most {TARGET_SCAN:.2f} times the scan; the ResNet at most {TARGET_RESNET} times "
    "eager PyTorch; populations over PyTorch's better ensemble as given.",
  ]
  return Table("Cost of the engine", rows, notes, lambda path: plot(rows, path))
