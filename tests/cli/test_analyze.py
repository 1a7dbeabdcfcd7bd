"""The analysis of a real run, its numbers against NumPy: parameters and rows in, nothing of the code under test."""

from __future__ import annotations

import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

import cljax
from cljax import data, metrics, models, streams
from cljax.cli import analyze, train
from cljax.cli.reporting import _analysis, looking
from cljax.engine import restore
from cljax.engine.step import OptState
from cljax.io import row_log

LAST = 5


@pytest.fixture(scope="module")
def workdir(command, tmp_path_factory):
  """A finished run of two seeds, evaluated inside tasks; each event has a checkpoint."""
  path = tmp_path_factory.mktemp("analyze") / "run"
  assert train.main(command("--seeds=2", "--config.eval.every=2", f"--workdir={path}")) == 0
  return path


@pytest.fixture(scope="module")
def analysed(workdir):
  """``(text, numbers, result.json, parameters by (event, seed))``."""
  assert analyze.main(["launch", str(workdir), "--compilation_cache="]) == 0
  folder = workdir / "analysis"
  numbers = json.loads((folder / "analysis.json").read_text())
  kept = [cljax.load(workdir, number=n + 1).params for n in range(LAST)]
  params = [[{k: {n: np.asarray(w[s]) for n, w in v.items()} for k, v in p.items()} for s in range(2)] for p in kept]
  return (folder / "analysis.txt").read_text(), numbers, json.loads((workdir / "result.json").read_text()), params


def forward(p):
  """``(hidden, logits)`` of the small network on all test digits."""
  digits = data.load("digits")
  x = digits.test.x.reshape(len(digits.test.y), -1) * np.float32(digits.scale)
  hidden = np.maximum(x @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"], 0)
  return hidden, hidden @ p["head"]["kernel"] + p["head"]["bias"]


def labels():
  return data.load("digits").test.y


def answered(p, last: int):
  """What a network answers among the classes of the tasks 0..last, two each: those trained when ``last`` was."""
  return forward(p)[1][:, : 2 * last + 2].argmax(-1)


def hit(p, task, last) -> float:
  mine = labels() // 2 == task
  return np.mean(answered(p, last)[mine] == labels()[mine])


def percent(value) -> str:
  return f"{100 * value:.1f} %"


def test_single_rows_are_those_of_the_last_networks(analysed, workdir, tmp_path, capsys):
  """From the log alone too, without checkpoints; of a run that has none, one line says so."""
  text, numbers, _, params = analysed
  last = [answered(params[-1][s], LAST - 1) == labels() for s in range(2)]
  said = numbers["test_rows"]["metrics"]
  assert said["row_weighted"] == pytest.approx([hits.mean() for hits in last])
  by_class = [[hits[labels() == c].mean() for c in range(10)] for hits in last]
  np.testing.assert_allclose(said["class_scores"], by_class)
  assert said["worst_class"] == pytest.approx(np.min(by_class, 1))
  assert f"  {len(labels())} rows of the tasks learned, of {len(labels())} in the log." in text
  # The page's metric of one's own counts the row before the first event too, whose networks no checkpoint has.
  log = row_log.read(workdir)
  right = [[log.right(s)[0] for s in range(2)]]
  for n, p in enumerate(params):
    met = labels() // 2 <= n  # rows of tasks to come are judged among all classes
    hits = [np.where(met, answered(p[s], n), forward(p[s])[1].argmax(-1)) == labels() for s in range(2)]
    right.append([h[log.row] for h in hits])
  shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "analysis"))
  page = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
  (tmp_path / "own.py").write_text(re.findall(r"```python\n(.*?)```", page, re.S)[0])
  given = ["launch", str(tmp_path / "run"), "--log_only"]
  kept = dict(metrics.ROW_METRICS)
  try:
    assert analyze.main([*given, f"--metrics={tmp_path / 'own.py'}"]) == 0
  finally:
    metrics.ROW_METRICS.pop("never_right")
  assert kept == metrics.ROW_METRICS
  alone = json.loads((tmp_path / "run" / "analysis" / "test_rows.json").read_text())
  never = [~np.any([p[s] for p in right], 0) for s in range(2)]
  assert alone["metrics"].pop("never_right") == pytest.approx([n.mean() for n in never])
  assert alone["metrics"] == said
  shutil.rmtree(tmp_path / "run" / "eval_log")
  capsys.readouterr()
  assert analyze.main(given) == 0
  assert capsys.readouterr().out.splitlines()[1:] == [
    "  This run keeps no raw log of its evaluations (eval.log), so nothing is said of single test rows."
  ]
  assert analyze.main([*given, f"--metrics={tmp_path / 'none.py'}"]) == 2
  (tmp_path / "own.py").write_text("")
  assert analyze.main([*given, f"--metrics={tmp_path / 'own.py'}"]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 2
  assert lines[1].endswith("adds nothing to cljax.metrics.ROW_METRICS")


def test_accuracies_and_gaps_are_those_of_the_run(analysed):
  text, numbers, result, _ = analysed
  R = np.mean(result["accuracy_matrix"], 0)
  np.testing.assert_allclose(numbers["accuracy"], R)
  np.testing.assert_allclose([t["then"] for t in numbers["tasks"]], np.diagonal(R[1:]))
  np.testing.assert_allclose([t["now"] for t in numbers["tasks"]], R[-1])
  assert f"the accuracy is now {percent(R[-1].mean())}" in text
  then, now = np.diagonal(R[1:])[:-1].mean(), R[-1, :-1].mean()
  assert f"stood at {percent(then)} when they were last learned and stand at {percent(now)} now" in text
  depth = []
  for event in range(1, LAST):
    inside = [np.mean(c["accuracy"], 0)[:event] for c in result["curves"] if c["event"] == event]
    low = np.min(inside, 0)
    depth.append(np.mean(R[event, :event] - low))
  np.testing.assert_allclose([g["depth"] for g in numbers["gaps"]], depth)
  assert f"old tasks fall by {100 * np.mean(depth):.1f} points" in text


def test_classes_and_confusions_are_counted_right(analysed):
  text, numbers, _, params = analysed
  for moment in (0, LAST - 1):
    met = labels() // 2 <= moment
    want = np.zeros((2, 10, 10))
    for s in range(2):
      np.add.at(want[s], (labels()[met], answered(params[moment][s], moment)[met]), 1)
    np.testing.assert_allclose(numbers["confusion"][moment], want.mean(0))
  final = want.mean(0)
  wrong = final[:8] - np.diag(np.diagonal(final))[:8]
  assert f"Of the errors on earlier classes, {percent(wrong[:, 8:].sum() / wrong.sum())} name" in text
  best = np.zeros(10)
  for moment in range(LAST - 1):
    for c in range(2 * moment + 2):
      rows = labels() == c
      share = np.mean([np.mean(answered(params[moment][s], moment)[rows] == c) for s in range(2)])
      best[c] = max(best[c], share)
  now = np.diagonal(final) / final.sum(1)
  lost = (best - now)[:8]
  np.testing.assert_allclose(numbers["classes"]["forgetting"][:8], lost, atol=1e-12)
  assert numbers["classes"]["forgetting"][8:] == [None, None], "the last classes had no moment before"
  worst = int(np.argmax(lost))
  assert f"class {worst} ({percent(best[worst])} -> {percent(now[worst])})" in text


def test_layers_moved_and_put_back(analysed):
  text, numbers, _, params = analysed
  assert numbers["modules"] == ["hidden_0", "head"]
  for i, name in enumerate(numbers["modules"]):
    for event in range(LAST - 1):
      a, b = params[event], params[event + 1]
      change = [np.concatenate([np.abs(b[s][name][w] - a[s][name][w]).ravel() for w in ("bias", "kernel")]).mean()
                for s in range(2)]  # fmt: skip
      np.testing.assert_allclose(numbers["moved"][event][i], np.mean(change), rtol=1e-5)
  resets = numbers["resets"]
  tasks = resets["tasks"]
  assert tasks == [t["task"] for t in numbers["tasks"] if t["now"] < t["then"]]
  assert len(tasks) >= 2
  table = np.zeros((4, len(tasks)))
  for k, task in enumerate(tasks):
    for s in range(2):
      old, last = params[task][s], params[-1][s]
      swapped = ({**last, "head": old["head"]}, {**old, "head": last["head"]})
      moments = (task, LAST - 1, LAST - 1, task)
      table[:, k] += [hit(p, task, at) / 2 for p, at in zip((old, last, *swapped), moments, strict=True)]
  np.testing.assert_allclose(resets["then"], table[0])
  np.testing.assert_allclose(resets["now"], table[1])
  np.testing.assert_allclose(np.asarray(resets["restored"])[:, 1], table[2])
  np.testing.assert_allclose(np.asarray(resets["damaged"])[:, 1], table[3])
  np.testing.assert_allclose(resets["together"], table[0])
  then, now = table[:2].mean(1)
  assert f"was {percent(then)} and is {percent(now)}. With all modules put back into the last network it is" in text
  restored, damaged = np.mean(resets["restored"], 0), np.mean(resets["damaged"], 0)
  best, worst = resets["modules"][int(np.argmax(restored))], resets["modules"][int(np.argmin(damaged))]
  assert f"{percent(then)}, with one alone at most {percent(restored.max())} ({best})" in text
  assert f"from {percent(then)} to as little as {percent(damaged.min())} ({worst})" in text


def test_drift_is_one_minus_cka_of_the_probe(analysed):
  _, numbers, _, params = analysed
  # The probe: the same number of rows of each task, evenly spaced among all of its test rows.
  rows = np.concatenate([
    mine[np.linspace(0, len(mine) - 1, min(51, len(mine))).astype(int)]
    for mine in (np.flatnonzero(labels() // 2 == t) for t in range(5))
  ])  # fmt: skip
  assert numbers["layers"] == ["hidden 0", "logits"]
  assert numbers["probe"] == len(rows)
  centre = np.eye(len(rows)) - 1 / len(rows)

  def similarity(a, b):  # by Gram matrices, where the code takes features
    K, L = (centre @ (f.astype(np.float64) @ f.T) @ centre for f in (a, b))
    return np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))

  for moment in (1, LAST - 1):
    for layer in (0, 1):
      drift = [1 - similarity(*(forward(params[m][s])[layer][rows] for m in (0, moment))) for s in range(2)]
      np.testing.assert_allclose(numbers["drift"][moment][layer], np.mean(drift), atol=1e-5)


def test_pictures_are_drawn(analysed, workdir):
  for name in ("accuracy", "classes", "confusion", "layers", "drift"):
    assert (workdir / "analysis" / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_an_interrupted_and_damaged_run_is_said_to_be_so(analysed, workdir, tmp_path, capsys):
  copy = tmp_path / "run"
  shutil.copytree(workdir, copy)
  (copy / "result.json").unlink()
  shutil.rmtree(copy / "checkpoints" / "5")
  shutil.rmtree(copy / "checkpoints" / "2" / "meta")
  assert analyze.main(["launch", f"--workdir={copy}", "--compilation_cache="]) == 0
  text = capsys.readouterr().out
  assert "interrupted: 4 of 5 events are done" in text
  assert "passed over: checkpoint 2" in text
  numbers = json.loads((copy / "analysis" / "analysis.json").read_text())
  assert numbers["moments"] == [0, 2, 3]
  np.testing.assert_allclose(numbers["accuracy"], analysed[1]["accuracy"][:5])
  np.testing.assert_allclose(numbers["drift"][-1], analysed[1]["drift"][3], atol=0.05)


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ([], "workdir: not given"),
    (["nowhere"], "workdir: no folder nowhere"),
    (["."], "workdir: . holds no checkpoints"),
    ([".", "--rows=0"], "--rows"),
  ],
)
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, capsys, given, said):
  monkeypatch.chdir(tmp_path)
  assert analyze.main(["launch", *given]) == 2
  error = capsys.readouterr().err
  assert said in error.replace("flag --rows", "--rows")
  assert len(error.splitlines()) == 1


def test_the_worst_moments_and_what_happened_to_single_rows(analysed):
  text, numbers, result, params = analysed
  curve = np.asarray([np.mean(c["accuracy"], 0) for c in result["curves"]])
  current = np.asarray([c["task"] for c in result["curves"]])
  low = np.mean([curve[current > i, i].min() for i in range(LAST - 1)])
  assert f"old tasks stood at {percent(low)} (min-ACC)" in text
  assert f"{percent(curve[-1, -1] / LAST + (1 - 1 / LAST) * low)} (WC-ACC)" in text
  kept, lost = [], []
  for s in range(2):
    right = np.asarray([forward(p[s])[1].argmax(-1) == labels() for p in params])
    since = [right[y // 2 :, i] for i, y in enumerate(labels())]
    drops = np.asarray([(~r[1:] & r[:-1]).any() for r in since])
    kept.append(np.mean([r.any() and not d for r, d in zip(since, drops, strict=True)]))
    lost.append(drops.mean())
  np.testing.assert_allclose([numbers["rows_kept"][0], numbers["rows_lost"][0]], [np.mean(kept), np.mean(lost)])
  assert f"{percent(np.mean(kept))} were learned and never lost" in text


def test_the_state_that_is_not_trained_is_a_module_of_its_own():
  one, other = (cljax.Learner(0, 0, {"head": {"w": np.full(2, v)}}, {"mean": v}, (), ()) for v in (1.0, 2.0))
  assert _analysis.swap(one, other, _analysis.STATE) == one._replace(model_state={"mean": 2.0})
  swapped = _analysis.swap(one, other, "head")
  assert swapped.model_state == {"mean": 1.0}
  assert swapped.params["head"]["w"].tolist() == [2.0, 2.0]


def untrained(stream):
  """``(look, values, learner)`` of a network that was never trained, on two tasks."""
  model = models.mlp((4, 4, 1), 4, hidden=(8,))
  _, parts, values, trains_on, _ = restore._rebuild({"members": [[0, {}]]}, stream=stream, model=model)
  history = restore.History([], {}, stream, model, values, parts, lambda number: None, trains_on)
  params, _ = model.init(jax.random.key(0))
  learner = cljax.Learner(0, jax.random.key(0), params, {}, OptState((), (), (), ()), ())
  one = {k: v[0] for k, v in values.items()}
  look = looking.look_at(history, parts(one).objective, 1000, [0, 1])
  return look, one, learner


def test_rows_are_looked_at_as_their_task_shows_and_labels_them(dataset):
  """Two tasks that permute the pixels, with a network that was never trained."""
  stream = streams.build(dataset, "permuted", tasks=2, seed=1)
  look, one, learner = untrained(stream)
  params = learner.params
  for task in (0, 1):
    x = dataset.test.x.reshape(-1, 16)[:, stream.view.tables[0][task]]
    hidden = np.maximum(x @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"], 0)
    logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    labels, found = looking.predicted(look, one, learner, task, 2)
    np.testing.assert_array_equal(found, np.asarray(logits).argmax(-1))
    np.testing.assert_array_equal(labels, dataset.test.y)
  layers = look.layers(one, learner, looking.stored_batch(look, *look.probe))
  np.testing.assert_allclose(
    layers["hidden 0"][look.probe[1] == 1], hidden[look.probe[0][look.probe[1] == 1]], atol=1e-5
  )


@pytest.mark.parametrize("request_", [{"ids": True}, {"tasks": (0,)}])
def test_test_rows_that_were_deleted_are_looked_at_no_more(dataset, request_):
  """``label_random`` tests on what it trains on: at no moment, also where a task has none left."""
  some = tuple(int(i) for i in dataset.train.id[::3])
  asked = cljax.Forget(ids=some) if "ids" in request_ else cljax.Forget(**request_)
  stream = streams.build(dataset, "label_random", tasks=2, forget=[(1, asked)])
  look, one, learner = untrained(stream)
  ids = np.asarray(stream.dataset.test.id)
  whole = [np.sort(ids[np.asarray(t)]) for t in stream.test]
  left = [np.setdiff1d(w, some) for w in whole] if "ids" in request_ else [[], whole[1]]
  for task, expected in enumerate(left):
    np.testing.assert_array_equal(np.sort(ids[look.rows[task]]), expected)
    score = looking.score(look, one, learner, task, 2)
    assert np.isfinite(score) == bool(len(expected))


def test_of_seeds_with_streams_of_their_own_the_first_is_looked_at(command, tmp_path, capsys):
  """As if it had run alone: its own rows, classes and outputs."""
  numbers = []
  for seeds in ("2", "1"):
    path = tmp_path / seeds
    given = [f"--seeds={seeds}", "--config.stream.per_seed=true", "--config.train.epochs=1"]
    assert train.main(command(*given, f"--workdir={path}")) == 0
    assert analyze.main(["launch", str(path), "--compilation_cache="]) == 0
    numbers.append(json.loads((path / "analysis" / "analysis.json").read_text()))
  notes = [n.pop("notes") for n in numbers]
  assert notes == [["each seed has a stream of its own (stream.per_seed); only seed 0 is looked at"], []]
  assert numbers[0]["seeds"] == numbers[1]["seeds"] == [0]
  logged = ("test_rows", "no_test_rows")  # kept where all seeds are tested on the same rows
  two, one = (json.dumps({k: v for k, v in n.items() if k not in logged}) for n in numbers)
  assert two == one
  assert "note: each seed has a stream of its own" in capsys.readouterr().out
