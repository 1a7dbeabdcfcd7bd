"""Evaluators from the command line: named, a configuration file's own, in results, rows, tables and reports."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from etils import epath
from made_sweeps import result, write
from scipy import stats

from cljax import Stopped, UsageError, evaluators
from cljax.cli import _config, _registered, report, sweep, train, unlearn
from cljax.cli._config import Override
from cljax.cli.reporting import _data, _html, _page, _table
from cljax.cli.sweeps import _units
from cljax.evaluation import evaluations, results
from cljax.io import trackers

CONFIG = """
from ml_collections import ConfigDict

import numpy as np
import cljax
from cljax import evaluators

def told(learner, predict, stream, event):
  print("asked", event)
  return {"error": 1 / (1 + float(learner.step)), "seen": [np.nan] + [event] * (stream.num_tasks - 1)}

if "told" not in evaluators.EVALUATORS:
  evaluators.register(cljax.Evaluator("told", told, {"error": "lower"}))

def get_config():
  config = ConfigDict()
  config.data = ConfigDict({"name": "digits"})
  config.stream = ConfigDict({"kind": "class", "tasks": 2, "rows": 60})
  config.model = ConfigDict({"name": "mlp", "hidden": (4,)})
  config.train = ConfigDict({"epochs": 1, "chunk_steps": 4})
  config.evaluators = ("told",)
  return config
"""
BOTH = "--config.evaluators=linear_probe,told"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  path = tmp_path_factory.mktemp("evaluators") / "config.py"
  path.write_text(CONFIG)
  yield path
  evaluators.EVALUATORS.pop("told", None)


@pytest.fixture(scope="module")
def command(config):
  return lambda *more: ["launch", f"--config={config}", "--compilation_cache=", *more]


def of(folder):
  return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trained") / "run"
  assert train.main(command(BOTH, "--seeds=2", f"--workdir={workdir}")) == 0
  return workdir


def test_named_on_the_command_line_they_stand_in_the_result(trained):
  found = of(trained)
  assert found["config"]["evaluators"] == {"names": ["linear_probe", "told"]}
  assert list(found["evaluations"]) == ["linear_probe", "told"]
  shapes = {(n, m): np.shape(v) for n, of in found["evaluations"].items() for m, v in of.items()}
  assert shapes == dict.fromkeys([("linear_probe", "accuracy"), ("told", "error"), ("told", "seen")], (2, 3, 2))
  assert found["evaluations"]["told"]["seen"][0] == [[None, -1], [None, 0], [None, 1]]
  steps = found["steps"]
  assert found["evaluations"]["told"]["error"][1] == [[1, 1], [2 / (2 + steps)] * 2, [1 / (1 + steps)] * 2]
  assert found["evaluations_better"] == {"linear_probe": {"accuracy": "higher"}, "told": {"error": "lower"}}
  probe = np.asarray(found["evaluations"]["linear_probe"]["accuracy"])[:, -1].mean(-1)
  final = found["evaluation_metrics"]["linear_probe"]["accuracy"]["final"]
  assert final["values"] == pytest.approx(probe.tolist())
  assert final["mean"] == pytest.approx(probe.mean())
  assert final["stderr"] == pytest.approx(stats.sem(probe))
  assert found["evaluation_metrics"]["told"]["seen"]["final"]["values"] == [1, 1], "of the tasks that have a value"
  text = results.summary(found)
  assert re.search(rf"final linear probe accuracy, % +{100 * probe.mean():.1f} ± {100 * stats.sem(probe):.1f}\n", text)
  assert re.search(rf"final told error +{1 / (1 + steps):.4g} ", text)


def test_trackers_get_them(trained):
  """What is no number stays out, and with it the mean over tasks of which one has none."""
  lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
  last = [line for line in lines if line["kind"] == "event"][-1]
  tags = trackers.scalars(last, ["a", "b"])
  probe = np.asarray(of(trained)["evaluations"]["linear_probe"]["accuracy"])[:, -1]
  assert tags["after_event/linear_probe/accuracy/task_1"] == pytest.approx(probe[:, 1].mean())
  assert tags["after_event/linear_probe/accuracy/all_tasks/b"] == pytest.approx(probe[1].mean())
  assert [k for k in tags if "told/seen" in k] == ["after_event/told/seen/task_1"]


def test_a_killed_run_goes_on_to_the_same_values(trained, command, tmp_path, capsys):
  """Stopped in the second task: what was said before is not asked again."""
  asked = []
  stop = lambda: asked.append(1) or capsys.readouterr().out.count("asked 0") or len(asked) > 10_000
  with pytest.raises(Stopped):
    train.run(command(BOTH, "--seeds=2", f"--workdir={tmp_path}", "--config.checkpoint.every=2"), stop)
  assert not (tmp_path / "result.json").exists()
  capsys.readouterr()
  assert train.main(command("--config.evaluators=told,linear_probe", "--seeds=2", f"--workdir={tmp_path}")) == 0
  again = re.findall(r"asked (-?\d+)", capsys.readouterr().out)
  assert again[-2:] == ["1", "1"]
  assert "-1" not in again
  whole, cut = of(trained), of(tmp_path)
  assert all(
    whole[key] == cut[key] for key in ("evaluations", "evaluation_metrics", "params_sha256", "accuracy_matrix")
  )


def test_a_folder_of_other_evaluators_is_refused(trained, command, capsys):
  for given, other in (("linear_probe", ["linear_probe"]), ("", None)):
    assert train.main(command(f"--config.evaluators={given}", "--seeds=2", f"--workdir={trained}")) == 2
    error = capsys.readouterr().err
    after = f"-> {json.dumps(other) if other else 'absent'}"
    assert "differing keys: " in error
    assert f'evaluators.names: ["linear_probe", "told"] {after}' in error
    assert error.count("\n") == 1


WRONG = [
  ("--config.evaluators=linear",
   "evaluators: unknown 'linear'; allowed: bits_per_byte, clnp_units, clusters, linear_probe, plasticity, recall, "
   "samples, told; did you mean "
   "linear_probe?"),
  ("--config.evaluators=told,told", "evaluators: 'told' stands twice"),
  ("--config.evaluators=[1]",
   "evaluators: got '[1]'; expected names such as bits_per_byte, clnp_units, clusters, linear_probe, plasticity, "
   "recall, samples, told"),
  ("--config.evaluators.ridge=1",
   "evaluators.ridge: no such field; allowed: names"),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "said"), WRONG)
def test_wrong_names_are_one_line(command, tmp_path, capsys, flag, said):
  assert train.main(command(flag, f"--workdir={tmp_path}")) == 2
  assert capsys.readouterr().err == f"error: {said}\n"


def test_a_file_gives_names_and_none_change_no_identity(config, tmp_path, capsys):
  """A run without is the run that it was before there were any."""
  file = _config.read_file(str(config))
  told = _config.resolve(file)
  assert told["evaluators"]["names"] == ("told",)
  for text in ("linear_probe", "['linear_probe']", "(linear_probe,)"):
    given = _config.resolve(file, [Override("evaluators", text.replace("(", "").replace(",)", ""), True)])
    assert given["evaluators"]["names"] == ("linear_probe",)
  with pytest.raises(UsageError, match="evaluators: unknown 'nobody'"):  # before anything is loaded
    _config.resolve(file, [Override("evaluators", "nobody", True)])
  identity = _config.identity(told, "d")
  assert identity["evaluators"] == {"names": ["told"]}
  assert _config.from_identity(identity, {"checkpoint": {}})["evaluators"]["names"] == ("told",)
  none = _config.identity(_config.resolve(file, [Override("evaluators", "", True)]), "d")
  assert "evaluators" not in none
  assert _config.from_identity(none, {"checkpoint": {}})["evaluators"]["names"] == ()
  (tmp_path / "wrong.py").write_text("def get_config(): return {'evaluators': 3}\n")
  assert train.main(["launch", f"--config={tmp_path / 'wrong.py'}", f"--workdir={tmp_path}"]) == 2
  assert capsys.readouterr().err.startswith(
    "error: evaluators: got 3; expected names such as bits_per_byte, clnp_units, clusters"
  )
  with_them = [
    "unlearn",
    f"--config={config}",
    "--methods=graddiff",
    "--request=class=0",
    f"--workdir={tmp_path / 'u'}",
  ]
  assert unlearn.main(with_them) == 2
  assert "evaluators: got told; unlearning is compared without (--config.evaluators=)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def swept(command, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("swept") / "sweep"
  given = command(BOTH, "--methods=finetune,er", "--config.train.epochs=3", "--seeds=2", f"--workdir={workdir}")
  assert sweep.main(given) == 0
  return workdir, given


def test_a_sweep_shows_them_and_joins_seeds(swept, capsys):
  workdir, given = swept
  assert sweep.main([*given, "--seeds=3"]) == 0
  out = capsys.readouterr().out
  head = re.split(r"  +", next(line for line in out.splitlines() if "linear probe" in line).strip())
  assert {"linear probe accuracy, %", "told error", "told seen"} <= {*head}
  found = {r["method"]: r for r in (of(p) for p in (workdir / "runs").iterdir())}
  rows = [json.loads(line) for line in (workdir / "rows.jsonl").read_text().splitlines()]
  for method, one in found.items():
    probe = np.asarray(one["evaluations"]["linear_probe"]["accuracy"])
    assert probe.shape == (3, 3, 2)
    final = probe[:, -1].mean(-1)
    assert one["evaluation_metrics"]["linear_probe"]["accuracy"]["final"]["values"] == pytest.approx(final.tolist())
    mine = [r["linear_probe/accuracy"] for r in rows if r["method"] == method]
    assert mine == pytest.approx(final.tolist())
    shown = f"{100 * final.mean():.1f} ± {100 * stats.sem(final):.1f}"
    assert shown in next(line for line in out.splitlines() if line.split()[:1] == [method])


def test_a_report_shows_them(swept, capsys):
  """In a process that never loaded the configuration's file: from the files alone."""
  workdir, _ = swept
  evaluators.EVALUATORS.pop("told", None)
  assert report.main(["report", str(workdir)]) == 0
  head, _, *body = capsys.readouterr().out.splitlines()
  names = re.split(r"  +", head)
  at = names.index("linear probe accuracy, %")
  found = {r["method"]: r for r in (of(p) for p in (workdir / "runs").iterdir())}
  for method, one in found.items():
    final = np.asarray(one["evaluations"]["linear_probe"]["accuracy"])[:, -1].mean(-1)
    row = re.split(r"  +", next(line for line in body if line.startswith(f"{method} ")))
    assert row[at] == f"{100 * final.mean():.1f} ± {100 * stats.sem(final):.1f}"
  page = (workdir / "report.html").read_text()
  assert "accuracy by the evaluator linear_probe after the last event, mean over tasks that have one" in page
  assert "error by the evaluator told after the last event, mean over tasks that have one; lower is better" in page
  assert "evaluator linear_probe, test accuracy in %" in page
  tex = (workdir / "report.tex").read_text()
  assert r"linear probe accuracy, \%" in tex
  body = tex.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
  assert all(row.count("&") == len(tex.split("\\begin{tabular}{")[1].split("}")[0]) - 1 for row in body)
  assert "nan" not in page.replace("nanosecond", "")


def test_an_evaluator_of_the_file_is_known_again_without_it_being_named(config, tmp_path):
  """As a worker or an analysis does, which has no --config: by what the workdir noted; else one line says so."""
  workdir, identity = (
    epath.Path(tmp_path),
    {"method": {"name": "er"}, "evaluators": {"names": ["linear_probe", "told"]}},
  )
  _registered.remember(workdir, str(config))
  evaluators.EVALUATORS.pop("told", None)
  _registered.recall(workdir, [identity])
  assert "told" in evaluators.EVALUATORS
  _registered.recall(workdir, [{"evaluators": ["theirs"]}])  # of cljax.run: its own have no registry
  (tmp_path / "config.py").write_text("def get_config(): return {}\n")
  _registered.remember(workdir, f"{tmp_path}/config.py")
  evaluators.EVALUATORS.pop("told", None)
  with pytest.raises(UsageError, match=r"^evaluators: unknown 'told'; .*config.py does not register it any more$"):
    _registered.recall(workdir, [identity])
  (tmp_path / "config.py").unlink()
  with pytest.raises(UsageError, match=r"^evaluators: unknown 'told'; its .* is not there any more$"):
    _registered.recall(workdir, [identity])


def made(method, level, probe, **more):
  """A made-up result with two evaluators, of which one metric says no direction."""
  rng = np.random.default_rng([int(100 * level), int(100 * probe)])
  one = result(method, level, rng=rng, validation=0.5, **more)
  shape = np.shape(one["accuracy_matrix"])
  there = {"probe": {"accuracy": probe + 0.01 * rng.normal(size=shape)},
           "far": {"distance": 10 * rng.random(shape), "count": np.full(shape, 7.0)}}  # fmt: skip
  there["far"]["distance"][:, -1, 0] = np.nan
  said = {"probe": {"accuracy": "higher"}, "far": {"distance": "lower"}}
  fields = type("Result", (), {"evaluations": there, "evaluations_better": said})
  return {**one, **json.loads(results.dumps(evaluations.described(fields, range(shape[0]))))}


def test_means_spread_and_the_best_of_a_column(tmp_path):
  found = [made("finetune", 0.3, 0.9), made("er", 0.8, 0.6)]
  assert all(map(results.is_whole, found))
  (block,) = report.build([write(tmp_path / "a", found)], "finetune", "validation").blocks
  columns = {c.heading: c for c in _html.columns(block, _table.Protocol(), True)}
  ways = {k: columns[k].better for k in ("probe accuracy, %", "far distance", "far count")}
  assert ways == {"probe accuracy, %": 1, "far distance": -1, "far count": 0}
  page = _page.page(report.build([tmp_path / "a"], "finetune", "validation"))
  (row,) = re.findall(r'<tr data-name="finetune">.*?</tr>', page.split("All configurations")[0], re.S)[:1]
  final = np.asarray(found[0]["evaluations"]["probe"]["accuracy"])[:, -1].mean(-1)
  assert f'class="best">{100 * final.mean():.1f} ± {100 * stats.sem(final):.1f}<' in row
  distance = np.nanmean(np.asarray(found[0]["evaluations"]["far"]["distance"], float)[:, -1], -1)
  assert f"{distance.mean():.4g} ± {stats.sem(distance):.2g}" in row


def test_seeds_of_two_results_join_and_broken_ones_are_left_out(tmp_path):
  a, b = made("er", 0.7, 0.6, seeds=(0, 1)), made("er", 0.7, 0.65, seeds=(1, 2))
  joined = _units.merge(a, b)
  assert joined["seeds"] == [0, 1, 2]
  assert results.is_whole(joined)
  of_a, of_b = (np.asarray(r["evaluations"]["probe"]["accuracy"]) for r in (a, b))
  np.testing.assert_array_equal(joined["evaluations"]["probe"]["accuracy"], np.concatenate([of_a[:1], of_b]))
  final = np.concatenate([of_a[:1], of_b])[:, -1].mean(-1)
  assert joined["evaluation_metrics"]["probe"]["accuracy"]["final"]["values"] == pytest.approx(final.tolist())
  runs = [r for i, x in enumerate((a, b)) for r in _data.read(write(tmp_path / str(i), [x]))[0]]
  (one,) = _data.merge(runs, [])
  np.testing.assert_array_equal(one.evaluations["probe/accuracy"], np.concatenate([of_a, of_b[1:]]))
  np.testing.assert_allclose(one.values["probe/accuracy"], np.concatenate([of_a, of_b[1:]])[:, -1].mean(-1))
  for broken in (
    {"evaluations": {"probe": {"accuracy": a["evaluations"]["probe"]["accuracy"]}}},
    {"evaluation_metrics": {**a["evaluation_metrics"], "probe": {"accuracy": {}}}},
    {"evaluations_better": {"probe": {"accuracy": "up"}}},
  ):
    assert not results.is_whole({**a, **broken})
  folder = write(tmp_path / "rows", [a, made("finetune", 0.3, 0.5)])
  (folder / "runs" / "er-0" / "result.json").write_text("{")
  runs, notes = _data.read(folder)
  assert "taken from rows.jsonl" in notes[0]
  er = next(r for r in runs if r.title == "er")
  assert er.evaluated == {"probe/accuracy": "", "far/distance": "", "far/count": ""}
  np.testing.assert_allclose(er.values["probe/accuracy"], of_a[:, -1].mean(-1))
