"""One split in three scenarios (van de Ven & Tolias 2019), and what happens at every step (De Lange et al. 2023).

``python -m experiments.three_scenarios --dataset=digits --seeds=5``: the same tasks and network as task-, domain- and
class-incremental learning; after every step er, derpp, ewc and cumulative training (on all tasks seen so far: the joint
training in which a stability gap can show; ``joint`` has all tasks from the start) are evaluated on every task. Writes
``DATASET.json``, ``DATASET.png`` and ``DATASET_curves.png``, and prints the table and how each expected ordering came
out, by the interval of the paired differences over seeds.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from experiments.claims import interval

SCENARIOS = ("task", "domain", "class")
REGULARIZERS, REPLAY = ("ewc", "si", "lwf"), ("er", "derpp")
METHODS = ("finetune", *REGULARIZERS, *REPLAY, "cumulative", "joint")
WATCHED = ("er", "derpp", "ewc", "cumulative", "joint")  # evaluated after every step
WINDOW = 10  # steps of the windowed forgetting


class Setting(NamedTuple):
  """What differs between the datasets; the hyper-parameters of the methods are the registry's."""

  data: dict
  hidden: tuple
  optimizer: str
  learning_rate: float
  epochs: int
  capacity: int  # rows of the replay memories
  eval_limit: int  # test rows of each task in the evaluations after every step (0: all)


SETTINGS = {
  "digits": Setting({}, (100, 100), "sgd", 0.1, 10, 100, 0),
  "glyphs": Setting({"classes": 20}, (200, 200), "adam", 0.003, 5, 200, 50),
}


def runs(dataset: str, scenario: str, seeds: int) -> dict[str, Any]:
  """``{method: RunResult}`` of one scenario."""
  import cljax
  from cljax import data, models, streams

  s = SETTINGS[dataset]
  stream = streams.build(data.load(dataset, **s.data), scenario, tasks=5, validation=0.0)
  model = models.mlp(stream.dataset.train.x.shape[1:], stream.num_classes, hidden=s.hidden)
  out = {}
  for method in METHODS:
    out[method] = cljax.run(
      stream, model, method, {"capacity": s.capacity} if method in REPLAY else {},
      optimizer=s.optimizer, optimizer_options={"learning_rate": s.learning_rate},
      training=cljax.Recipe(batch_size=32, epochs=s.epochs), seeds=seeds,
      options=cljax.Options(
        eval_every=int(method in WATCHED), eval_limit=s.eval_limit if method in WATCHED else 0, on_divergence="freeze"
      ),
    )  # fmt: skip
    print(f"{dataset}, {scenario}: {method} {percent(accuracy(out[method]))}", flush=True)
  return out


def accuracy(result) -> np.ndarray:
  """[S] final average accuracy in percent; NaN where the run diverged."""
  from cljax import metrics

  return np.where(result.alive, 100 * metrics.average_accuracy(result.learning_rows), np.nan)


def percent(values) -> str:
  values = np.asarray(values, np.float64)
  return f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def watched(result) -> dict[str, Any]:
  """The metrics of continual evaluation by seed, and the mean curve of the first task by progress."""
  from cljax import metrics

  curve = 100 * np.asarray([c["accuracy"] for c in result.curves])  # [N, S, T]
  current = np.asarray([c["task"] for c in result.curves])
  step = np.asarray([c["step"] for c in result.curves])
  length = np.asarray([step[current == t].max() for t in current])
  each = [curve[:, i] for i in range(curve.shape[1])]
  return {
    "min_acc": [metrics.minimum_accuracy(c, current) for c in each],
    "wc_acc": [metrics.worst_case_accuracy(c, current) for c in each],
    "windowed_forgetting": [metrics.windowed_forgetting(c, current, WINDOW) for c in each],
    "gap": [_gap(c, current) for c in each],
    "progress": np.round(current + step / length, 3),
    "first_task": np.round(curve[:, :, 0].mean(1), 1),
    "first_task_error": np.round(curve[:, :, 0].std(1, ddof=1) / np.sqrt(curve.shape[1]), 1),
  }


def _gap(curve, current) -> float:
  """The part of each fall that is recovered from within the task: the lower of the accuracies before and at the end of
  the task, minus the lowest in between; mean over tasks and old tasks. What does not come back is forgetting."""
  gaps = []
  for t in range(1, current.max() + 1):
    for i in range(t):
      inside, before = curve[current == t, i], curve[current == t - 1, i][-1]
      gaps.append(max(0.0, min(before, inside[-1]) - inside.min()))
  return float(np.mean(gaps))


def orderings(acc: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
  """Each expected ordering: its smallest paired difference in points, with the 95% interval and verdict.

  ``acc[scenario][method]`` is ``[S]``. "Near the floor" and "high" are no differences: they are told as numbers.
  """
  best = lambda s, methods: np.max([acc[s][m] for m in methods], 0)
  worst = lambda s, methods: np.min([acc[s][m] for m in methods], 0)
  trained = (*REGULARIZERS, *REPLAY)
  claims = {
    "class: worst replay above best regularizer": worst("class", REPLAY) - best("class", REGULARIZERS),
    "class: joint above best replay": acc["class"]["joint"] - best("class", REPLAY),
    "domain: worst replay above best regularizer": worst("domain", REPLAY) - best("domain", REGULARIZERS),
    **{f"{m}: task above domain": acc["task"][m] - acc["domain"][m] for m in ("finetune", *trained)},
    **{f"{m}: domain above class": acc["domain"][m] - acc["class"][m] for m in ("finetune", *trained)},
  }
  told = {k: {**interval(v)._asdict(), "values": np.round(v, 2).tolist()} for k, v in claims.items()}
  told["class: best regularizer over finetune, in points"] = {
    "values": np.round(best("class", REGULARIZERS) - acc["class"]["finetune"], 2).tolist()
  }
  told["task: lowest method, in percent"] = {"values": np.round(worst("task", METHODS), 2).tolist()}
  return told


def table(acc) -> str:
  lines = [f"{'':<12}" + "".join(f"{s + '-incremental':>22}" for s in SCENARIOS)]
  lines += [f"{m:<12}" + "".join(f"{percent(acc[s][m]):>22}" for s in SCENARIOS) for m in METHODS]
  return "\n".join(lines)


def _pyplot():
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                          "grid.alpha": 0.25, "legend.frameon": False})  # fmt: skip
  return pyplot


COLOURS = dict(zip(METHODS, ("#888888", "#d55e00", "#e69f00", "#cc79a7", "#0072b2", "#56b4e9", "#009e73", "black"),
                   strict=True))  # fmt: skip


def draw_accuracy(acc, dataset: str, path: str) -> None:
  pyplot = _pyplot()
  figure, axes = pyplot.subplots(figsize=(7, 3.6), constrained_layout=True)
  for i, m in enumerate(METHODS):
    at = np.arange(3) + (i - (len(METHODS) - 1) / 2) * 0.09
    values = np.stack([acc[s][m] for s in SCENARIOS])
    axes.errorbar(at, values.mean(1), values.std(1, ddof=1) / np.sqrt(values.shape[1]), fmt="o", markersize=5,
                  color=COLOURS[m], label=m)  # fmt: skip
  axes.set_xticks(range(3), [f"{s}-incremental" for s in SCENARIOS])
  axes.set(ylabel="final average accuracy (%)", ylim=(0, 102))
  axes.set_title(f"split {dataset}, {len(values[0])} seeds, mean and standard error")
  axes.legend(ncols=1, loc="center left", bbox_to_anchor=(1, 0.5))
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def draw_curves(curves, dataset: str, path: str) -> None:
  """Accuracy on the first task after every step: over the whole stream, and around the last switch."""
  pyplot = _pyplot()
  figure, axes = pyplot.subplots(2, 3, figsize=(12, 6), constrained_layout=True, sharey=True)
  for (panel, zoom), scenario in zip(axes.T, SCENARIOS, strict=True):
    for method in WATCHED:
      found = curves[scenario][method]
      x, y, error = (np.asarray(found[k]) for k in ("progress", "first_task", "first_task_error"))
      since = np.arange(1, len(x) + 1) - (x <= 4).sum()  # steps since the last switch
      for axis, at, shown in ((panel, x, x >= 0), (zoom, since, (since > -10) & (since <= 60))):
        axis.plot(at[shown], y[shown], color=COLOURS[method], linewidth=1, label=method)
        axis.fill_between(at[shown], (y - error)[shown], (y + error)[shown], color=COLOURS[method], alpha=0.2, lw=0)
    for t in range(1, 5):
      panel.axvline(t, color="black", linewidth=0.6, linestyle=":")
    zoom.axvline(0, color="black", linewidth=0.6, linestyle=":")
    panel.set(xlabel="task being learned, by progress", title=f"{scenario}-incremental", xlim=(0, 5), ylim=(-2, 102))
    panel.set_xticks(np.arange(5) + 0.5, [str(t + 1) for t in range(5)])
    panel.grid(False, axis="x")
    zoom.set(xlabel="steps since the last task began", xlim=(-10, 60))
  axes[0, 0].set_ylabel("accuracy on the first task (%)")
  axes[1, 0].set_ylabel("accuracy on the first task (%)")
  axes[0, 0].legend(loc="lower left")
  figure.suptitle(f"split {dataset}, evaluated after every step")
  figure.savefig(path, dpi=90)
  pyplot.close(figure)
  from PIL import Image

  Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)  # a third of the bytes


def main(argv) -> None:
  del argv
  import jax

  dataset, out = flags.FLAGS.dataset, pathlib.Path(flags.FLAGS.out)
  out.mkdir(parents=True, exist_ok=True)
  found = {s: runs(dataset, s, flags.FLAGS.seeds) for s in SCENARIOS}
  acc = {s: {m: accuracy(r) for m, r in found[s].items()} for s in SCENARIOS}
  curves = {s: {m: watched(found[s][m]) for m in WATCHED} for s in SCENARIOS}
  told = orderings(acc)
  record = {
    "dataset": dataset,
    "params_sha256_er_class": found["class"]["er"].params_sha256,
    "setting": SETTINGS[dataset]._asdict() | {"batch_size": 32, "tasks": 5, "window": WINDOW},
    "seeds": list(range(flags.FLAGS.seeds)),
    "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
    "device": f"{os.cpu_count()}-core {jax.default_backend().upper()}",
    "accuracy": {s: {m: np.round(v, 3).tolist() for m, v in row.items()} for s, row in acc.items()},
    "orderings": told,
    "curves": curves,
  }
  text = json.dumps(record, indent=1, default=lambda v: v.tolist())
  text = _flat(text)
  (out / f"{dataset}.json").write_text(text + "\n")
  draw_accuracy(acc, dataset, str(out / f"{dataset}.png"))
  draw_curves(curves, dataset, str(out / f"{dataset}_curves.png"))
  print(table(acc))
  for name, claim in told.items():
    if "verdict" in claim:
      print(f"{name}: {claim['mean']:.1f} [{claim['low']:.1f}, {claim['high']:.1f}] points, {claim['verdict']}")
    else:
      print(f"{name}: {', '.join(f'{v:.1f}' for v in claim['values'])}")
  for s in SCENARIOS:
    for m in WATCHED:
      c = curves[s][m]
      print(f"{s} {m}: min-ACC {percent(c['min_acc'])}, recovered within tasks {percent(c['gap'])}, "
            f"WF {percent(c['windowed_forgetting'])}")  # fmt: skip


def _flat(text: str) -> str:
  """Lists of numbers on one line."""
  import re

  return re.sub(r"\[[-\d\s.,eE+NaN]*\]", lambda m: re.sub(r"\s+", " ", m.group()), text)


if __name__ == "__main__":
  flags.DEFINE_enum("dataset", "digits", ["digits", "glyphs"], "dataset")
  flags.DEFINE_integer("seeds", 5, "seeds, from 0", lower_bound=2)
  flags.DEFINE_string("out", "experiments/results/three_scenarios", "directory of the results")
  app.run(main)
