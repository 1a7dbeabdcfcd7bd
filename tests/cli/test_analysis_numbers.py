"""The numbers that launch.analyze prints by their names in cljax.metrics, each against NumPy alone, on one run."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import cljax
from cljax import data, streams
from cljax.cli import analyze, train
from cljax.cli.reporting import _analysis_numbers
from cljax.engine import restore

LAST, SEEDS = 5, 2


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
  """``(numbers, text, result.json, parameters by (event, seed))``."""
  path = tmp_path_factory.mktemp("numbers") / "run"
  given = ("--seeds=2", "--config.eval.every=2", "--config.train.presentations=true", f"--workdir={path}")
  assert train.main(command(*given)) == 0
  assert analyze.main(["launch", str(path), "--compilation_cache="]) == 0
  kept = [cljax.load(path, number=n + 1).params for n in range(LAST)]
  plain = lambda p, s: {f"{m}.{k}": np.asarray(w[s], np.float64) for m, of in p.items() for k, w in of.items()}
  params = [[plain(p, s) for s in range(SEEDS)] for p in kept]
  folder = path / "analysis"
  told = json.loads((folder / "analysis.json").read_text())
  numbers = {**told["numbers"], "presentations": told["presentations"], "folder": path}
  return numbers, (folder / "analysis.txt").read_text(), json.loads((path / "result.json").read_text()), params


def digits():
  held = data.load("digits")
  return {name: (part.x.reshape(len(part.y), -1) * held.scale, np.asarray(part.y))
          for name, part in (("train", held.train), ("test", held.test))}  # fmt: skip


def probe(task) -> np.ndarray:
  """The test rows of a task that are looked at: 51 of each, evenly spread."""
  mine = np.flatnonzero(digits()["test"][1] // 2 == task)
  return mine[np.linspace(0, len(mine) - 1, min(51, len(mine))).astype(int)]


def forward(p, x):
  before = x @ p["hidden_0.kernel"] + p["hidden_0.bias"]
  hidden = np.maximum(before, 0)
  return before, hidden, hidden @ p["head.kernel"] + p["head.bias"]


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def losses(p, x, y):
  return -log_softmax(forward(p, x)[2])[np.arange(len(y)), y]


def gradient(p, x, y) -> dict:
  """Back-propagation by hand of the mean cross-entropy."""
  before, hidden, logits = forward(p, x)
  error = (np.exp(log_softmax(logits)) - np.eye(10)[y]) / len(y)
  inner = (error @ p["head.kernel"].T) * (before > 0)
  return {"hidden_0.kernel": x.T @ inner, "hidden_0.bias": inner.sum(0),
          "head.kernel": hidden.T @ error, "head.bias": error.sum(0)}  # fmt: skip


def flat(tree) -> np.ndarray:
  return np.concatenate([tree[k].ravel() for k in sorted(tree)])


def test_the_matrix_by_loops(run):
  numbers, text, result, _ = run
  R = np.asarray(result["accuracy_matrix"])[:, 1:]
  pairs = [(i, j) for i in range(LAST) for j in range(LAST)]
  mean = lambda of, which: np.asarray([np.mean([of(r, i, j) for i, j in pairs if which(i, j)]) for r in R])
  at = lambda r, i, j: r[i, j]
  back = mean(lambda r, i, j: r[i, j] - r[j, j], lambda i, j: i > j)
  want = {
    "triangle_accuracy": mean(at, lambda i, j: i >= j), "mean_backward_transfer": back,
    "remembering": 1 - np.abs(np.minimum(back, 0)), "positive_backward_transfer": np.maximum(back, 0),
    "zero_shot_transfer": mean(at, lambda i, j: i < j),
    "transfer_before_learning": np.asarray([np.mean([r[:i, i].mean() for i in range(1, LAST)]) for r in R]),
    "average_over_all": R.mean((1, 2)),
  }  # fmt: skip
  ratio = []
  for r in R:
    lost = sum(max(0, r[i, 0] - r[-1, 0]) for i in range(LAST - 1))
    gained = sum(max(0, r[-1, 1:].mean() - r[i, 1:].mean()) for i in range(LAST - 1))
    ratio.append(lost / gained)
  want["fuar"] = np.asarray(ratio)
  for name, values in want.items():
    assert numbers[name] == pytest.approx(values.mean(), abs=1e-12), name
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
    assert float(line.split()[1]) == pytest.approx(values.mean(), rel=1e-3, abs=1e-9)
    assert line.endswith(_analysis_numbers.WHAT[name])


def test_the_curves_by_loops(run):
  numbers, _, result, _ = run
  curve = np.asarray([np.mean(c["accuracy"], 0) for c in result["curves"]])
  current = np.asarray([c["task"] for c in result["curves"]])
  window, fall, rise, areas = _analysis_numbers.WINDOW, [], [], []
  least = min(min((current == t).sum() for t in range(LAST)), _analysis_numbers.FIRST)
  assert least > 1
  for task in range(LAST):
    own = curve[current >= task, task]
    pairs = [(p, q) for p in range(len(own)) for q in range(p + 1, min(p + window, len(own)))]
    fall.append(max([0.0, *(own[p] - own[q] for p, q in pairs)]))
    rise.append(max([0.0, *(own[q] - own[p] for p, q in pairs)]))
    areas.append(curve[current == task, task][:least].mean())
  assert numbers["windowed_forgetting"] == pytest.approx(np.mean(fall))
  assert numbers["windowed_plasticity"] == pytest.approx(np.mean(rise))
  assert numbers["learning_curve_area"] == pytest.approx(np.mean(areas))


def test_outputs_and_features_between_moments(run):
  numbers, _, _, params = run
  x = digits()["test"][0]
  every = np.concatenate([probe(t) for t in range(LAST)])
  drift = [((forward(params[-1][s], x[every])[1] - forward(params[0][s], x[every])[1]) ** 2).sum(1).mean()
           for s in range(SEEDS)]  # fmt: skip
  assert numbers["feature_drift"] == pytest.approx(np.mean(drift), rel=1e-4)
  bits = lambda p: np.concatenate([np.asarray(w, np.float32).view(np.uint32).ravel() for w in jax.tree.leaves(p)])
  even = lambda u: (u + 0x7FFF + ((u >> 16) & 1)) >> 16  # to the nearest bfloat16, ties to even
  moved = [np.mean(even(bits(params[0][s])) != even(bits(params[-1][s]))) for s in range(len(params[0]))]
  assert numbers["moved_share"] == pytest.approx(np.mean(moved), abs=1e-12)
  shift = []
  for s in range(SEEDS):
    for task in range(1, LAST):
      # Among the classes that compete once the task is learned.
      base, new = (log_softmax(forward(params[m][s], x[probe(task)])[2][:, : 2 * task + 2]) for m in (task - 1, task))
      shift.append((np.exp(base) * (base - new)).sum(1).mean())
  assert numbers["forward_kl"] == pytest.approx(np.mean(shift), rel=1e-4)


def test_gradients_against_back_propagation_by_hand(run):
  numbers, _, _, params = run
  x, y = digits()["test"]
  cosine, conflict = [], []
  for s in range(SEEDS):
    for task in range(1, LAST):
      old = np.concatenate([probe(t) for t in range(task)])
      a, b = (flat(gradient(params[task - 1][s], x[rows], y[rows])) for rows in (old, probe(task)))
      cosine.append(a @ b / np.sqrt((a @ a) * (b @ b)))
      conflict.append(np.mean(a * b < 0))
  assert numbers["gradient_cosine"] == pytest.approx(np.mean(cosine), abs=1e-4)
  assert numbers["gradient_conflict"] == pytest.approx(np.mean(conflict), abs=1e-3)


def test_sharpness_against_all_eigenvalues(run):
  numbers, _, _, params = run
  x, y = (a[probe(0)] for a in digits()["test"])
  for name, moment in (("then", 0), ("now", LAST - 1)):
    top, trace, spread = [], [], []
    for s in range(SEEDS):
      p = params[moment][s]
      keys, start = sorted(p), flat(p)
      cut = np.cumsum([p[k].size for k in keys])[:-1]
      tree = lambda v, p=p, keys=keys, cut=cut: {
        k: part.reshape(p[k].shape) for k, part in zip(keys, np.split(v, cut), strict=True)
      }
      step = 1e-6 * np.eye(len(start))
      H = np.stack([(flat(gradient(tree(start + e), x, y)) - flat(gradient(tree(start - e), x, y))) / 2e-6
                    for e in step])  # fmt: skip
      H = (H + H.T) / 2
      top.append(np.linalg.eigvalsh(H)[-1])
      trace.append(np.trace(H) / len(H))
      spread.append(np.sqrt(2 * (np.sum(H**2) - np.sum(np.diag(H) ** 2)) / 16) / len(H))  # of 16 sign vectors
    assert numbers[f"sharpness_{name}"] == pytest.approx(np.mean(top), rel=0.02)
    assert numbers[f"sharpness_{name}"] < np.mean(top) * (1 + 1e-4), "a Rayleigh quotient"
    assert abs(numbers[f"curvature_{name}"] - np.mean(trace)) < 4 * np.sqrt(np.sum(np.square(spread))) / SEEDS


def test_recognition_of_training_rows(run):
  numbers, _, _, params = run
  stream = streams.build(data.load("digits"), "class", tasks=5, task_fractions=(0.3,) * 5)
  seen, unseen = np.asarray(stream.train[0]), np.flatnonzero(digits()["test"][1] // 2 == 0)
  count = min(len(seen), len(unseen))
  assert count > 20
  for name, moment in (("then", 0), ("now", LAST - 1)):
    share = []
    for s in range(SEEDS):
      pair = [losses(params[moment][s], x[rows[:count]], y[rows[:count]])
              for (x, y), rows in ((digits()["train"], seen), (digits()["test"], unseen))]  # fmt: skip
      share.append(np.mean(pair[0] < pair[1]))
    assert numbers[f"recognition_{name}"] == pytest.approx(np.mean(share), abs=1e-9)


def test_training_presentations_are_named_apart(run):
  """Two epochs: each row was presented twice, so it can be forgotten once; test rows are another line."""
  numbers, text, result, _ = run
  p, stream = numbers["presentations"], streams.build(data.load("digits"), "class", tasks=5, task_fractions=(0.3,) * 5)
  held = restore.history(numbers["folder"])
  events, task, row = held.presentations(held.numbers[-1])
  rows = [r for t in stream.train for r in np.asarray(t)]
  assert row.tolist() == rows
  assert (events.presentations == 2).all()
  forgot, first = (np.asarray(a) for a in (events.forgetting, events.first_learned))
  assert set(np.unique(forgot)) == {0, 1}
  want = {
    "presentations": 2.0, "forgetting_events": forgot.mean(), "forgotten": (forgot > 0).mean(),
    "unforgettable": ((forgot == 0) & (first >= 0)).mean(), "never_right": (first < 0).mean(),
  }  # fmt: skip
  for name, value in want.items():
    assert p[name] == pytest.approx(value), name
    assert p[name] == pytest.approx(np.mean(result["presentations"][name])), name
  score = np.where(first < 0, 2, forgot).sum(0)
  assert [h["score"] for h in p["hardest"]] == sorted(score, reverse=True)[:5]
  for h in p["hardest"]:
    (at,) = np.flatnonzero((task == h["task"]) & (data.load("digits").train.id[row] == h["id"]))
    assert score[at] == h["score"]
  assert f"{100 * p['forgotten']:.1f} % were forgotten at least once" in text
  assert "came 2 times. Judged in its batch before the update" in text
  assert "transitions of test rows, which are no forgetting events of training" in text


def test_what_a_run_does_not_allow_is_absent():
  """Tasks that come back have no square matrix; the first of them is kept knowledge no more."""
  R = np.asarray([[[0.9, 0.1], [0.6, 0.3], [0.7, 0.8]], [[0.8, 0.0], [0.8, 0.5], [0.4, 0.6]]])
  assert _analysis_numbers.of_scores(R, [0, 1, 0], 1, True) == {}
  again = _analysis_numbers.of_scores(R, [0, 1, 1], 1, True)
  want = [np.maximum(r[:2, 0] - r[2, 0], 0).sum() / np.maximum(r[2, 1] - r[:2, 1], 0).sum() for r in R]
  assert again == {"fuar": pytest.approx(np.mean(want))}
  assert _analysis_numbers.of_scores(R[..., ::-1], [1, 0, 0], 1, True) == again, "the first that was met"
  whole = _analysis_numbers.of_scores(R[:, :2], [1, 0], 1, True)
  assert whole["triangle_accuracy"] == pytest.approx(np.mean([(r[0, 1] + r[1, 1] + r[1, 0]) / 3 for r in R]))
  assert set(_analysis_numbers.of_scores(R[:, :2], [1, 0], -1, False)) <= {"fuar"}
