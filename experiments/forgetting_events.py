"""Which training rows are forgotten while they are learned, and whether that is the rows' doing: ``python -m
experiments.forgetting_events`` writes ``experiments/results/forgetting_events/`` (README.md, events.json, a picture).

All digits as one task, each row presented ``--epochs`` times, by a CNN and by an MLP (``train.presentations``), and by
both again with other seeds. *agreement*: Spearman's rank correlation of the rows' mean counts, and how many of the
tenth that is forgotten most they share, between architectures, and between seeds of one, which is what could be had.
*left out*: a share of the rows is left out, those that were forgotten least, drawn at random, or forgotten most, by
counts of other seeds than those trained then; test accuracy of the MLP. Toneva et al., ICLR 2019; spec C7, and S10.4 of
additions. The paper's own numbers are not quoted.
"""

from __future__ import annotations

import json
import pathlib

import matplotlib
import numpy as np
from absl import app, flags
from scipy import stats

import cljax
from cljax import data, metrics, models, streams
from cljax.io import tables

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = pathlib.Path(__file__).parent / "results" / "forgetting_events"
SHARES = (0.1, 0.3, 0.5, 0.7)
NETWORKS = {"mlp": lambda: models.mlp((8, 8, 1), 10, hidden=(64,)), "cnn": lambda: models.cnn((8, 8, 1), 10)}
RATES = {"mlp": 0.1, "cnn": 0.1}


def one_task(rows=None):
  """The digits as one task; of its training rows those given alone."""
  whole = data.load("digits")
  if rows is not None:
    train, test = (np.asarray(s.x, np.float32) * (whole.scale or 1.0) for s in (whole.train, whole.test))
    sides = {"x_train": train[rows], "y_train": whole.train.y[rows], "x_test": test, "y_test": whole.test.y}
    whole = data.from_arrays("digits", sides)
  return streams.build(whole, "class", tasks=1, validation=0.0)


def trained(network: str, stream, seeds, epochs: int, presentations: bool = True):
  return cljax.run(
    stream, NETWORKS[network](), "finetune", optimizer_options={"learning_rate": RATES[network]},
    training=cljax.Recipe(batch_size=16, epochs=epochs), seeds=seeds,
    options=cljax.Options(presentations=presentations),
  )  # fmt: skip


def counts(network: str, seeds, epochs: int) -> np.ndarray:
  """``[S, N]`` forgetting scores of the training rows, in their stored order."""
  found = trained(network, one_task(), seeds, epochs).presentations
  score = metrics.forgetting_score(found.events)
  out = np.zeros_like(score)
  out[:, found.row] = score
  return out


def shared(a: np.ndarray, b: np.ndarray, share: float = 0.1) -> float:
  """The share of the rows forgotten most by ``a`` that are so by ``b``; by chance ``share``."""
  count = int(share * len(a))
  top = lambda v: set(np.argsort(-v, kind="stable")[:count].tolist())
  return len(top(a) & top(b)) / count


def main(argv) -> None:
  del argv
  f, half = flags.FLAGS, flags.FLAGS.seeds
  first, second = list(range(half)), list(range(100, 100 + half))
  found = {(n, side): counts(n, seeds, f.epochs) for n in NETWORKS for side, seeds in (("a", first), ("b", second))}
  pairs = {
    "mlp and cnn": (("mlp", "a"), ("cnn", "b")),
    "mlp, other seeds": (("mlp", "a"), ("mlp", "b")),
    "cnn, other seeds": (("cnn", "a"), ("cnn", "b")),
  }
  agreement = {}
  for name, (one, two) in pairs.items():
    a, b = found[one].mean(0), found[two].mean(0)
    agreement[name] = {"spearman": float(stats.spearmanr(a, b).statistic), "shared tenth": shared(a, b)}
  never = float((found["mlp", "a"] == 0).mean())
  order = np.argsort(found["mlp", "a"].mean(0), kind="stable")  # the least forgotten first; retrained by other seeds
  rng = np.random.default_rng(0)
  left: list[dict] = []
  for share in (0.0, *SHARES):
    gone = int(share * len(order))
    kept = {
      "least forgotten": order[gone:],
      "random": rng.permutation(order)[gone:],
      "most forgotten": order[: len(order) - gone],
    }
    for what, rows in kept.items():
      if share or what == "random":
        accuracy = 100 * trained("mlp", one_task(np.sort(rows)), second, f.epochs, False).accuracy[:, -1, 0]
        error = float(accuracy.std(ddof=1) / np.sqrt(len(accuracy)))
        left.append({"share": share, "left out": what, "accuracy": float(accuracy.mean()), "error": error})
  OUT.mkdir(parents=True, exist_ok=True)
  content = {"seeds": half, "epochs": f.epochs, "never forgotten": never, "agreement": agreement, "left out": left}
  (OUT / "events.json").write_text(json.dumps(content, indent=1) + "\n")
  draw(found, left, OUT / "events.png")
  about = (__doc__ or "").split("\n\n", 1)[1].strip()
  lines = [[name, f"{v['spearman']:.2f}", f"{100 * v['shared tenth']:.0f} %"] for name, v in agreement.items()]
  text = ["# Forgetting events", "", f"`python -m experiments.forgetting_events --seeds={half} --epochs={f.epochs}`"]
  text += ["", about, "", *tables.markdown(("counts of", "Spearman", "shared of the tenth forgotten most"), lines)]
  text += ["", f"Of the MLP's rows {100 * never:.0f} % were never forgotten in a run.", ""]
  cells = [[f"{100 * v['share']:.0f} %", v["left out"], f"{v['accuracy']:.1f} ± {v['error']:.1f}"] for v in left]
  text += tables.markdown(("left out", "which", "test accuracy, % (± standard error)"), cells)
  text += ["", "![counts of two architectures, and accuracy without rows](events.png)"]
  (OUT / "README.md").write_text("\n".join(text) + "\n")
  print("\n".join(text))


def draw(found, left, file) -> None:
  figure, (one, two) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
  a, b = found["mlp", "a"].mean(0), found["cnn", "b"].mean(0)
  rng = np.random.default_rng(0)
  one.plot(a + 0.1 * rng.normal(size=len(a)), b + 0.1 * rng.normal(size=len(b)), ".", markersize=3)
  one.set(xlabel="forgetting events, MLP", ylabel="forgetting events, CNN", title="mean counts of each row (jittered)")
  for what in ("least forgotten", "random", "most forgotten"):
    mine = [v for v in left if v["left out"] == what or not v["share"]]
    x, y, error = ([v[k] for v in mine] for k in ("share", "accuracy", "error"))
    two.errorbar([100 * v for v in x], y, error, marker="o", capsize=2, label=what)
  two.set(xlabel="rows left out, %", ylabel="test accuracy, %", title="trained without them")
  two.legend()
  figure.savefig(file, dpi=110)


if __name__ == "__main__":
  flags.DEFINE_integer("seeds", 5, "Members of each run.")
  flags.DEFINE_integer("epochs", 30, "Presentations of a row.")
  app.run(main)
