"""Active learning, continued or from scratch: ``python -m experiments.active_learning`` writes ``--out``.

A pool of rows whose labels are asked for in rounds of ``--rows``: the first at random, later ones where the model is
least certain (``--acquisition`` entropy or margin) or at random. *continued*: the method ``cal`` (``--variant``) learns
each round as a task that is appended to its finished run, as ``launch.train --extend`` does. *from scratch*: a new
network is trained on all labelled rows in each round. Each arm asks for rows by its own model; epochs, batches and rate
are the same. Every round is noted when its rows are chosen and when it is learned: run it again, and it goes on.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from absl import app, flags

import cljax
from cljax import data, models, streams
from cljax.cli import _environment
from cljax.io import files, tables
from cljax.methods.replay.cal import VARIANTS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ACQUISITIONS = ("entropy", "margin", "random")
CONTINUED, SCRATCH = "continued", "from scratch"


class Plan(NamedTuple):
  """What both arms share; ``rows``: labels of a round."""

  data: str = "digits"
  variant: str = "sd"
  acquisition: str = "entropy"
  rounds: int = 8
  rows: int = 60
  epochs: int = 20
  batch_size: int = 20
  replay_batch: int = 20
  rate: float = 0.1
  hidden: int = 100


def wanted(logits, how: str, n: int, rng: np.random.Generator) -> np.ndarray:
  """``[n]`` places of the rows to ask for among ``logits [N, C]``: of the largest entropy, of the smallest gap between
  the two largest probabilities, or at random."""
  if how == "random":
    return rng.permutation(len(logits))[:n]
  z = np.asarray(logits, np.float64)
  p = np.exp(z - z.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  if how == "entropy":
    doubt = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), 1)
  else:
    two = np.sort(p, 1)[:, -2:]
    doubt = two[:, 0] - two[:, 1]
  return np.argsort(-doubt, kind="stable")[:n]


def stream_of(dataset, rounds: Sequence, plan: Plan) -> streams.Stream:
  """A task for each of ``rounds``, lists of rows; each is tested on all test rows, and room is kept for all rounds."""
  every = np.arange(len(dataset.test.y))
  labels = np.tile(np.arange(dataset.num_classes), (len(rounds), 1))
  return streams.from_tasks(
    dataset, [np.asarray(r) for r in rounds], [every] * len(rounds), labels=labels, name="active_learning",
    reserve_tasks=plan.rounds, reserve_rows=plan.rounds * plan.rows,
  )  # fmt: skip


def asked(dataset, rounds: Sequence, predict, plan: Plan, seed: int) -> list[int]:
  """The rows of the next round, by a model's ``predict``; of the first, at random."""
  rng = np.random.default_rng([seed, len(rounds)])
  rest = np.setdiff1d(np.arange(len(dataset.train.y)), np.concatenate([*rounds, []]).astype(int))
  if not rounds:
    return rng.permutation(rest)[: plan.rows].tolist()
  return rest[wanted(predict(dataset.train.x[rest]), plan.acquisition, plan.rows, rng)].tolist()


def arguments(dataset, arm: str, plan: Plan) -> dict:
  """Of ``cljax.run``, beside the stream. The history has room for every label."""
  memory = {"capacity": plan.rounds * plan.rows, "replay_batch": plan.replay_batch, "variant": plan.variant}
  return {
    "model": models.mlp(dataset.train.x.shape[1:], dataset.num_classes, hidden=(plan.hidden,)),
    "method": "cal" if arm == CONTINUED else "finetune",
    "hyper": memory if arm == CONTINUED else {},
    "optimizer_options": {"learning_rate": plan.rate},
    "training": cljax.Recipe(batch_size=plan.batch_size, epochs=plan.epochs),
  }


def course(dataset, arm: str, plan: Plan, seed: int, folder: pathlib.Path) -> dict:
  """``{"rounds": rows, "accuracy": percent, "steps": so far}`` of all rounds of one arm and seed, kept in ``folder``.
  Raises UsageError where that holds a course of another plan."""
  file = folder / "rounds.json"
  said: dict[str, Any] = {"plan": plan._asdict(), "arm": arm, "seed": seed}
  held = json.loads(file.read_text()) if file.exists() else {**said, "rounds": [], "accuracy": [], "steps": []}
  if any(held[k] != v for k, v in said.items()):
    raise cljax.UsageError(f"out: {folder} holds a course of another plan; give another folder, or that plan")
  folder.mkdir(parents=True, exist_ok=True)
  given = arguments(dataset, arm, plan)
  predict: Any = None
  while len(held["accuracy"]) < plan.rounds:
    done = len(held["accuracy"])
    if len(held["rounds"]) == done:  # the model's choice is noted before it is learned
      if done and predict is None:
        predict = learned(dataset, arm, held["rounds"], given, plan, seed, folder).predict
      held["rounds"].append(asked(dataset, held["rounds"], predict, plan, seed))
      files.write_text(file, json.dumps(held))
    run = learned(dataset, arm, held["rounds"], given, plan, seed, folder)
    before = held["steps"][-1] if done and arm == SCRATCH else 0
    held["accuracy"].append(100 * float(run.accuracy[0, -1, 0]))
    held["steps"].append(before + run.steps)
    files.write_text(file, json.dumps(held))
    predict = run.predict
  return held


def learned(dataset, arm: str, rounds: Sequence, given: dict, plan: Plan, seed: int, folder: pathlib.Path):
  """The run that has learned these rounds: the one in the folder, extended by what it lacks; or a new one on all."""
  if arm == SCRATCH:
    return cljax.run(stream_of(dataset, [np.concatenate(rounds)], plan), **given, seeds=[seed])
  more: dict[str, Any] = {"workdir": str(folder / "run"), "extend": len(rounds) > 1}
  return cljax.run(stream_of(dataset, rounds, plan), **given, seeds=[seed], **more)


def report(found: dict, plan: Plan, out: pathlib.Path) -> list[str]:
  """The lines of the table; writes them, and the picture."""
  seeds = len(next(iter(found.values())))
  head: list[str] = ["labels"]
  rows: list[list[str]] = [[str(plan.rows * (r + 1))] for r in range(plan.rounds)]
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
  for arm, courses in found.items():
    accuracy = np.asarray([c["accuracy"] for c in courses])
    steps, mean = courses[0]["steps"], accuracy.mean(0)
    spread = accuracy.std(0, ddof=1) if seeds > 1 else np.zeros(plan.rounds)
    head += [f"{arm}, %", "steps so far"]
    for r, row in enumerate(rows):
      row += [f"{mean[r]:.1f} ± {spread[r]:.1f}", f"{steps[r]:,}"]
    for axis, x in zip(axes, (plan.rows * np.arange(1, plan.rounds + 1), steps), strict=True):
      axis.errorbar(x, mean, spread, label=arm, marker="o", markersize=3, capsize=2)
  for axis, name in zip(axes, ("labelled rows", "optimizer steps so far"), strict=True):
    axis.set(xlabel=name)
    axis.grid(alpha=0.3)
  axes[0].set_ylabel("accuracy, %")
  axes[0].legend()
  files.write_text(out / "rounds.md", "\n".join(tables.markdown(head, rows)) + "\n")
  figure.savefig(out / "rounds.png", dpi=110)
  plt.close(figure)
  return tables.aligned([head, *rows], left=0)


def compared(dataset, plan: Plan, seeds: int, out: pathlib.Path) -> list[str]:
  """Both arms for all seeds; the lines of the table. Raises UsageError where the pool is too small."""
  if plan.rounds * plan.rows > len(dataset.train.y):
    raise cljax.UsageError(
      f"rows: got {plan.rows} in {plan.rounds} rounds; the pool has {len(dataset.train.y)} rows, expected at most that"
    )
  found = {
    arm: [course(dataset, arm, plan, s, out / arm.replace(" ", "_") / str(s)) for s in range(seeds)]
    for arm in (CONTINUED, SCRATCH)
  }
  return report(found, plan, out)


def main(argv) -> None:
  del argv
  _environment.quiet()  # absl's runner shows what orbax tells at each checkpoint
  f = flags.FLAGS
  own: dict[str, Any] = {"data_dir": f.data_dir} if f.data_dir else {}
  given: dict[str, Any] = {k: f[k].value for k in Plan._fields}
  plan = Plan(**given)
  try:
    lines = compared(data.load(f.data, **own), plan, f.seeds, pathlib.Path(f.out).expanduser())
  except cljax.UsageError as error:
    raise SystemExit(f"error: {error}") from None
  print("\n".join(lines))


if __name__ == "__main__":
  usual = Plan()
  flags.DEFINE_enum("data", usual.data, ("digits", "mnist"), "The pool: training rows of this data set.")
  flags.DEFINE_string("data_dir", "", "Where MNIST's files are.")
  flags.DEFINE_enum("variant", usual.variant, VARIANTS, "Of the method cal.")
  flags.DEFINE_enum("acquisition", usual.acquisition, ACQUISITIONS, "How rows are chosen.")
  flags.DEFINE_integer("rounds", usual.rounds, "How many.", lower_bound=1)
  flags.DEFINE_integer("rows", usual.rows, "Labels of a round.", lower_bound=1)
  flags.DEFINE_integer("epochs", usual.epochs, "Of a round.", lower_bound=1)
  flags.DEFINE_integer("batch_size", usual.batch_size, "New rows of a step.", lower_bound=1)
  flags.DEFINE_integer("replay_batch", usual.replay_batch, "Old rows of a step of cal; 0: as many.", lower_bound=0)
  flags.DEFINE_float("rate", usual.rate, "Of SGD.")
  flags.DEFINE_integer("hidden", usual.hidden, "Units of the network's one hidden layer.", lower_bound=1)
  flags.DEFINE_integer("seeds", 3, "Courses of each arm.", lower_bound=1)
  flags.DEFINE_string("out", "~/active_learning", "Folder of the runs, the table and the picture.")
  app.run(main)
