"""The report of scores that are not accuracy: lower is better, numbers as they are, all scores shown."""

from __future__ import annotations

import re

import numpy as np
import pytest
from made_sweeps import TASKS, result, write
from scipy import stats

from cljax.cli import report
from cljax.cli.reporting import _charts, _data, _html, _page, _svg, _table
from cljax.evaluation import results, selection

LEVELS = (("finetune", 3.0, 0.2, {}), ("er", 0.6, 0.5, {}), ("ewc", 0.9, 0.4, {"strength": 1.0}),
          ("ewc", 0.5, 0.9, {"strength": 10.0}))  # fmt: skip
VALIDATION = (3.0, 0.6, 0.7, 0.95)  # ewc is the better with strength 1 by validation, with strength 10 by test


def errors(level, rng, second, **more):
  """As :func:`made_sweeps.result`, with errors that may be greater than 1."""
  made = result(rng=rng, level=0.5, second=second, **more)
  scale = lambda values: (np.asarray(values) * level / 0.5).tolist()
  made["scores"]["squared_error"] = scale(made["scores"]["squared_error"])
  made["metrics"] = results.matrix_metrics(made["scores"]["squared_error"], made["events"], "lower")
  made["curves"] = [{**c, "accuracy": scale(c["accuracy"])} for c in made["curves"]]
  return made


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  rng = np.random.default_rng(0)
  found = [
    errors(level, rng, second, method=m, validation=v, **options)
    for (m, level, second, options), v in zip(LEVELS, VALIDATION, strict=True)
  ]
  return write(tmp_path_factory.mktemp("made") / "sweep", found), found


def final(r, score="squared_error"):
  return np.asarray(r["scores"][score])[:, TASKS].mean(1)


def test_the_lowest_is_first_and_wins_if_validation_chose_it(swept):
  folder, found = swept
  (block,) = report.build([folder], "finetune", "validation").blocks
  assert [x.run.label for x in block.lines] == ["ewc strength=10", "er", "ewc strength=1", "finetune"]
  assert [x.run.label for x in block.lines if x.choice] == ["ewc strength=1"], "the lowest validation error"
  assert (block.winner.run.label, block.second.run.label) == ("er", "ewc strength=1")
  er = block.winner
  assert er.score.mean == pytest.approx(final(found[1]).mean())
  assert er.test.p == pytest.approx(stats.ttest_rel(final(found[1]), final(found[0])).pvalue)
  assert er.test.difference == pytest.approx((final(found[1]) - final(found[0])).mean())


def test_first_tasks_choose_the_lowest_error_on_them(swept):
  folder, found = swept
  row = [np.asarray(found[i]["validation_matrix"])[:, 2, :2].mean() for i in (2, 3)]
  (block,) = report.build([folder], "finetune", "first_tasks:2").blocks
  (line,) = [x for x in block.lines if x.choice]
  assert line.run.label == ("ewc strength=1" if row[0] < row[1] else "ewc strength=10")
  expected = selection.reported_accuracy(line.run.matrix, line.run.events, 2)
  np.testing.assert_array_equal(line.values, expected)
  assert "squared error after task 2" in _page.plain(report.build([folder], "finetune", "first_tasks:2"))


def test_what_is_printed(swept, capsys):
  folder, found = swept
  assert report.main(["report", str(folder)]) == 0
  out = capsys.readouterr().out
  er, base = final(found[1]), final(found[0])
  head, _, *body = out.splitlines()
  assert re.split(r"  +", head)[:4] == ["method", "squared error", "against baseline", "accuracy, %"]
  row = next(re.split(r"  +", line) for line in body if line.startswith("er "))
  assert row[1] == f"{er.mean():.4g} ± {stats.sem(er):.2g}"
  assert row[2].startswith(f"{(er - base).mean():+.3g}".replace("-", "−"))
  accuracy = final(found[1], "accuracy")
  assert row[3] == f"{100 * accuracy.mean():.1f} ± {100 * stats.sem(accuracy):.1f}"
  assert f"Winner on made/class/4: er, {row[1]} squared error, at a cost" in out
  assert "lower is better" in out
  assert "points" not in out


def test_the_page_shows_every_score(swept):
  folder, found = swept
  made = report.build([folder], "finetune", "validation")
  page = _page.page(made)
  assert "Squared error over events, lower is better" in page
  assert "Accuracy over events:" in page
  assert "Cost against squared error: seconds, logarithmic. Down and to the left is better." in page
  assert "Stability gap: squared error on task 0" in page
  assert "Score matrices" in page
  assert "best validation score" in page
  names = re.findall(r"<h3>([^<]*)</h3>", page)
  assert "domain-incremental (group), test squared error, mean over 3 seeds" in names
  assert "accuracy, test accuracy in %, mean over 3 seeds" in names
  (best,) = re.findall(r'<tr data-name="er">.*?</tr>', page.split("All configurations")[0], re.S)
  assert re.search(r'<td data-value="[^"]*" class="best">' + f"{final(found[1]).mean():.4g}", best)
  every = page.split("All configurations")[1]
  (row,) = re.findall(r'<tr data-name="ewc strength=10">.*?</tr>', every, re.S)
  forgets = np.mean(found[3]["score_metrics"]["accuracy"]["forgetting"]["values"])
  assert f"{100 * forgets:.1f} ±" in row
  assert '<button type="button" title="mean loss of accuracy' in every


def test_axes_have_the_range_of_the_errors(swept):
  """Accuracy stands on an axis from 0 to 102; an error on one of its own, which holds all of its points."""
  folder, _ = swept
  (block,) = report.build([folder], "finetune", "validation").blocks
  for svg in re.findall(r"<svg class=\"chart\".*?</svg>", _charts.charts(block, _table.Protocol()), re.S):
    top, bottom = _svg.TOP, _svg.HEIGHT - _svg.BOTTOM
    for points in re.findall(r'points="([^"]*)" fill="none"', svg):
      heights = [float(p.split(",")[1]) for p in points.split()]
      assert all(top - 0.1 <= h <= bottom + 0.1 for h in heights)
    if "squared error on tasks so far" in svg:
      lines = [[float(p.split(",")[1]) for p in s.split()] for s in re.findall(r'points="([^"]*)" fill="none"', svg)]
      spread = max(map(max, lines)) - min(map(min, lines))
      assert spread > 0.8 * (bottom - top), "its points use the height"
      assert " %" not in svg


def test_thinning_keeps_the_worst_point():
  y = np.full(5000, 1.0)
  y[77] = 9.0
  x, thin = _svg.thin(np.arange(5000), y, -1)
  assert (thin.max(), x[thin.argmax()]) == (9.0, 77)


def test_latex_marks_the_lowest(swept):
  folder, found = swept
  text = _page.tex(report.build([folder], "finetune", "validation"))
  body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
  columns = text.split("\\begin{tabular}{")[1].split("}")[0]
  assert all(row.count("&") == len(columns) - 1 for row in body)
  assert body[0].startswith(rf"er & $\mathbf{{{final(found[1]).mean():.4g}}} \pm {stats.sem(final(found[1])):.2g}")
  assert sum(r"\mathbf" in row.split("&")[1] for row in body) == 1
  assert "lower is better." in text
  assert r"accuracy, \%" in text


def test_forgetting_of_an_error_is_its_rise(swept):
  folder, found = swept
  runs, _ = _data.read(folder)
  for run, r in zip(
    sorted(runs, key=lambda x: str(x.config)), sorted(found, key=lambda x: str(x["config"])), strict=True
  ):
    R = np.asarray(r["scores"]["squared_error"])[:, 1:]
    old = slice(0, TASKS - 1)
    np.testing.assert_allclose(run.values["forgetting"], (R[:, -1, old] - R[:, :-1, old].min(1)).mean(1))
    own = np.diagonal(R, axis1=1, axis2=2)
    np.testing.assert_allclose(run.values["bwt"], (own - R[:, -1])[:, old].mean(1))
    np.testing.assert_allclose(run.values["fwt"], (np.asarray(r["scores"]["squared_error"])[:, 0] - 0)[:, 1:].mean(1)
                               - np.diagonal(R, 1, 1, 2).mean(1))  # fmt: skip
    inside = run.curves.accuracy
    later = [inside[:, run.curves.event > t, t].max(1) for t in range(TASKS - 1)]
    np.testing.assert_allclose(run.values["min_acc"], np.mean(later, 0))


def test_rows_say_what_was_scored(swept, tmp_path):
  """Where a result cannot be read its rows stand in, with their score and its direction."""
  _, found = swept
  folder = write(tmp_path, found)
  (folder / "runs" / "er-1" / "result.json").write_text("{")
  (block,) = report.build([folder], "finetune", "validation").blocks
  (er,) = [x for x in block.lines if x.run.title == "er"]
  assert er.run.matrix is None
  assert (er.run.score, er.run.sign) == ("squared_error", -1)
  np.testing.assert_allclose(er.run.values["accuracy.acc"], final(found[1], "accuracy"))
  assert block.winner.run.title == "er"


def test_seeds_of_two_sweeps_join_in_every_score(tmp_path):
  rng = np.random.default_rng(2)
  a, b = (errors(0.5, rng, 0.5, method="er", seeds=s) for s in ((0, 1), (1, 2)))
  runs = [r for i, x in enumerate((a, b)) for r in _data.read(write(tmp_path / str(i), [x]))[0]]
  (joined,) = _data.merge(runs, [])
  assert joined.seeds == (0, 1, 2)
  for name, held in (("squared_error", joined.matrix), ("accuracy", joined.others["accuracy"])):
    np.testing.assert_array_equal(held, np.concatenate([a["scores"][name], np.asarray(b["scores"][name])[1:]]))


def test_streams_of_other_scores_are_ranked_but_not_averaged(swept, tmp_path):
  """Ranks know each stream's direction; a mean over percent and errors there is none."""
  folder, _ = swept
  rng = np.random.default_rng(3)
  labels = [result(m, v, rng=rng, stream="labels") for m, v in (("finetune", 0.3), ("er", 0.8), ("ewc", 0.6))]
  made = report.build([folder, write(tmp_path / "a", labels)], "finetune", "validation")
  assert {r.title: r.rank for r in made.ranked} == {"er": 1.0, "ewc": 2.0, "finetune": 3.0}
  assert all(np.isnan(r.mean.mean) and r.test is None for r in made.ranked)
  for text in (_page.page(made), _page.tex(made), _page.plain(made)):
    assert "nan" not in text
  assert "average rank 1.00 among 3 methods." in " ".join(_page.headline(made))
  alike = report.build([folder, write(tmp_path / "b", [
    errors(v, rng, 0.5, method=m, stream="other") for m, v in (("finetune", 2.0), ("er", 0.8), ("ewc", 0.6))
  ])], "finetune", "validation")  # fmt: skip
  ranked = {r.title: r for r in alike.ranked}
  assert {t: r.rank for t, r in ranked.items()} == {"er": 1.5, "ewc": 1.5, "finetune": 3.0}
  assert ranked["er"].mean.mean < ranked["finetune"].mean.mean
  assert list(ranked)[-1] == "finetune"


def test_one_stream_under_two_scores_makes_two_blocks(tmp_path):
  rng = np.random.default_rng(4)
  found = [errors(0.5, rng, 0.5, method="er"), result("er", 0.7, rng=rng)]
  found[1]["config"]["stream"] = found[0]["config"]["stream"]
  made = report.build([write(tmp_path, found)], "finetune", "validation")
  assert sorted(b.name for b in made.blocks) == ["made/class/4 score=accuracy", "made/class/4 score=squared_error"]


def test_reasons_speak_of_the_score(tmp_path):
  rng = np.random.default_rng(5)
  made = [errors(v, rng, 0.5, method="ewc", strength=s) for v, s in ((0.5, 1.0), (0.9, 10.0))]
  (block,) = report.build([write(tmp_path / "a", made)], "ewc", "validation").blocks
  assert "no validation rows (stream.validation=0), and test squared error must not choose" in block.notes[0]
  gone = [errors(0.5, rng, 0.5, method=m, forgets=True) for m in ("er", "finetune")]
  page = _page.page(report.build([write(tmp_path / "b", gone)], "finetune", "validation"))
  assert "and final squared error prefers what did not forget" in page
  assert "squared error on the rows to forget, after that event" in page
  assert 'class="best"' not in page


def test_which_way_each_column_is_good(swept):
  folder, _ = swept
  (block,) = report.build([folder], "finetune", "validation").blocks
  ways = {c.heading: c.better for c in _html.columns(block, _table.Protocol(), True)}
  assert {k: ways[k] for k in ("squared error", "squared error over events", "worst squared error")} == {
    "squared error": -1, "squared error over events": -1, "worst squared error": -1,
  }  # fmt: skip
  assert {k: ways[k] for k in ("forgetting", "BWT", "FWT")} == {"forgetting": -1, "BWT": 1, "FWT": 1}
  assert (ways["accuracy, %"], ways["accuracy forgetting, %"]) == (1, -1)
