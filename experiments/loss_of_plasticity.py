"""Loss of plasticity, shown: ``python -m experiments.loss_of_plasticity`` writes ``experiments/results/plasticity/``.

Permuted digits, ``--tasks`` of them, each seen once: 1,200 rows in batches of 16, an MLP 64-64-64-10 of ReLU units, SGD
at ``--rate``, three seeds. *online*: the share of a task's rows that were right when they came, before their step. Of
the layers' outputs at the next task's inputs: dead units (0 at every row), effective rank; and the mean size of the
weights. Arms: plain training; l2; shrink and perturb at each step (weight decay with noise beside it, the published
strong remedy); continual backprop; redo; and a fresh network for each task, as the control. Dohare et al., 2024; spec
S8 of additions. The loss is the mean of the best tenth of the first half less that of the last tenth.
"""

from __future__ import annotations

import json
import pathlib

import matplotlib
import numpy as np
from absl import app, flags

import cljax
from cljax import data, models, streams
from cljax.io import tables

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = pathlib.Path(__file__).parent / "results" / "plasticity"
ARMS: dict[str, tuple[str, dict]] = {
  "plain": ("finetune", {}),
  "l2": ("l2", {"strength": 5e-4}),
  "shrink and perturb": ("shrink_perturb", {"when": "step", "shrink": 0.9999, "noise": 1e-3}),
  "continual backprop": ("continual_backprop", {}),
  "redo": ("redo", {}),
}
LAYERS = (1, 2)


def online(run) -> np.ndarray:
  """[S, T] percent of a task's rows that were right at their first presentation."""
  events, task = run.presentations.events, run.presentations.task
  right = np.asarray(events.first_learned) == 0
  return np.stack([100 * right[:, task == t].mean(1) for t in range(task.max() + 1)], 1)


def measured(method: str, options: dict, tasks: int, rate: float, seeds: int) -> dict[str, np.ndarray]:
  """``{measure: [S, T]}``."""
  stream = streams.build(data.load("digits"), "permuted", tasks=tasks, validation=0.0, rows=1200)
  run = cljax.run(
    stream, models.mlp((8, 8, 1), 10, hidden=(64, 64)), method, options, optimizer_options={"learning_rate": rate},
    training=cljax.Recipe(batch_size=16, epochs=1), seeds=seeds, evaluators="plasticity",
    options=cljax.Options(presentations=True, on_divergence="freeze"),
  )  # fmt: skip
  found = {k: np.asarray(v)[:, :-1, 0] for k, v in run.evaluations["plasticity"].items()}
  mean = lambda name, scale=1.0: scale * np.mean([found[f"{name}_{i}"] for i in LAYERS], 0)
  return {
    "online accuracy, %": online(run),
    "dead units, %": mean("dead", 100.0),
    "effective rank": mean("effective_rank"),
    "weight magnitude": found["weight_magnitude"],
  }


def fresh(tasks: int, rate: float, seeds: int) -> np.ndarray:
  """[S, T]: a new network a task, of the first tasks alone; what they average is the line."""
  few = min(tasks, 10)
  every = []
  for t in range(few):
    stream = streams.build(data.load("digits"), "permuted", tasks=1, validation=0.0, rows=1200, seed=100 + t)
    run = cljax.run(
      stream, models.mlp((8, 8, 1), 10, hidden=(64, 64)), "finetune", optimizer_options={"learning_rate": rate},
      training=cljax.Recipe(batch_size=16, epochs=1), seeds=seeds, options=cljax.Options(presentations=True),
    )  # fmt: skip
    every.append(online(run)[:, 0])
  return np.broadcast_to(np.mean(every, 0)[:, None], (seeds, tasks))


def smooth(values: np.ndarray, width: int = 10) -> np.ndarray:
  """The mean over the seeds and the last ``width`` tasks."""
  mean = values.mean(0)
  sums = np.cumsum(np.insert(mean, 0, 0.0))
  ends = np.arange(1, len(mean) + 1)
  begins = np.maximum(ends - width, 0)
  return (sums[ends] - sums[begins]) / (ends - begins)


def tenths(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """[S] means of the best tenth (a run of tasks) of the first half, and of the last tenth."""
  size = max(1, values.shape[1] // 10)
  parts = [values[:, at : at + size].mean(1) for at in range(0, values.shape[1] // 2 - size + 1, size)]
  return np.max(parts, 0), values[:, -size:].mean(1)


def draw(found: dict, file) -> None:
  names = list(next(iter(found.values())))
  figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
  for name, axis in zip(names, axes.ravel(), strict=True):
    for arm, values in found.items():
      if name in values:
        style = {"color": "black", "linestyle": "--"} if arm == "fresh network" else {}
        axis.plot(smooth(values[name]), label=arm, **style)
    axis.set(xlabel="task", title=name)
  axes[0, 0].legend(fontsize=8)
  figure.savefig(file, dpi=110)


def main(argv) -> None:
  del argv
  f = flags.FLAGS
  found = {arm: measured(*given, f.tasks, f.rate, f.seeds) for arm, given in ARMS.items()}
  found["fresh network"] = {"online accuracy, %": fresh(f.tasks, f.rate, f.seeds)}
  rows: list[list[str]] = []
  content: dict = {}
  for arm, values in found.items():
    best, last = tenths(values["online accuracy, %"])
    lost = best - last
    error = lost.std(ddof=1) / np.sqrt(len(lost))
    ends = {k: float(v[:, -max(1, f.tasks // 10) :].mean()) for k, v in values.items()}
    content[arm] = {"best tenth": float(best.mean()), "lost": float(lost.mean()), "error": float(error), **ends}
    shown = [f"{ends[k]:.2f}" if k in ends else "-" for k in list(found["plain"])[1:]]
    rows.append([arm, f"{best.mean():.1f}", f"{last.mean():.1f}", f"{lost.mean():.1f} ± {error:.1f}", *shown])
  OUT.mkdir(parents=True, exist_ok=True)
  content = {"tasks": f.tasks, "rate": f.rate, "seeds": f.seeds, "arms": content}
  (OUT / "plasticity.json").write_text(json.dumps(content, indent=1) + "\n")
  draw(found, OUT / "plasticity.png")
  head = (
    "arm",
    "best tenth, %",
    "last tenth, %",
    "lost, points",
    *(f"{k}, last tenth" for k in list(found["plain"])[1:]),
  )
  command = f"`python -m experiments.loss_of_plasticity --tasks={f.tasks} --rate={f.rate:g} --seeds={f.seeds}`"
  about = (__doc__ or "").split("\n\n", 1)[1].strip()
  text = ["# Loss of plasticity", "", command, "", about, "", *tables.markdown(head, rows)]
  text += ["", "Lines of the picture are means over seeds and the last ten tasks.", "", "![by task](plasticity.png)"]
  (OUT / "README.md").write_text("\n".join(text) + "\n")
  print("\n".join(text))


if __name__ == "__main__":
  flags.DEFINE_integer("tasks", 300, "How many.")
  flags.DEFINE_float("rate", 0.1, "Of SGD.")
  flags.DEFINE_integer("seeds", 3, "Members of each run.")
  app.run(main)
