"""The report: its numbers against NumPy and SciPy, what it does with damage, and the page in a real browser."""

from __future__ import annotations

import json
import math
import re
import shutil

import numpy as np
import pytest
from made_sweeps import TASKS, result, write
from scipy import stats

from cljax import UsageError, methods
from cljax.cli import report, sweep
from cljax.cli.reporting import _data, _page, _svg, _table


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  """Five methods; ewc has three configurations, the best on test not the best on validation, and one diverged."""
  rng = np.random.default_rng(0)
  found = [
    result("finetune", 0.3, rng=rng, validation=0.3, bytes=0),
    result("er", 0.8, rng=rng, validation=0.8, bytes=5000),
    result("ewc", 0.5, rng=rng, validation=0.6, strength=1.0, bytes=9000),
    result("ewc", 0.9, rng=rng, validation=0.4, strength=10.0, bytes=9000),
    result("ewc", 0.2, rng=rng, validation=0.7, strength=100.0, bytes=9000, alive=[True, False, True]),
    result("lwf", 0.31, rng=rng, validation=0.3, bytes=4000),
  ]
  return write(tmp_path_factory.mktemp("swept"), found), found


def final(r) -> np.ndarray:
  """Final accuracy of each seed, by hand from the matrix."""
  return np.asarray([[row[t] for t in range(TASKS)] for row in np.asarray(r["accuracy_matrix"])[:, TASKS]]).mean(1)


def line(block, label):
  return next(x for x in block.lines if x.run.label == label)


def test_means_errors_and_p_values_against_numpy_and_scipy(swept):
  folder, found = swept
  made = report.build([folder], "finetune", "validation")
  (block,) = made.blocks
  base = final(found[0])
  rows = {"er": found[1], "ewc strength=1": found[2], "lwf": found[5]}
  p = {k: stats.ttest_rel(final(r), base).pvalue for k, r in rows.items()}
  order = sorted(p, key=p.__getitem__)
  holm, worst = {}, 0.0
  for i, k in enumerate(order):
    worst = max(worst, min(1.0, p[k] * (len(p) - i)))
    holm[k] = worst
  assert len({round(v, 6) for v in holm.values()}) > 1
  assert min(holm.values()) < 0.05 < max(holm.values()), "both verdicts occur"
  for k, r in rows.items():
    got, acc = line(block, k), final(r)
    assert got.score.mean == pytest.approx(acc.mean())
    assert got.score.stderr == pytest.approx(stats.sem(acc))
    assert got.test.p == pytest.approx(p[k])
    assert got.test.holm == pytest.approx(holm[k])
    assert got.test.difference == pytest.approx((acc - base).mean())
    assert got.test.significant == (holm[k] < 0.05)
    exact = stats.permutation_test((acc - base,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert got.test.flips == pytest.approx(exact.pvalue)
  assert line(block, "finetune").test is None
  assert [x.run.label for x in block.lines][:2] == ["ewc strength=10", "er"], "the highest first"


def test_validation_chooses_and_test_accuracy_does_not(swept):
  folder, _ = swept
  made = report.build([folder], "finetune", "validation")
  (block,) = made.blocks
  assert {x.run.label for x in block.shown} == {"finetune", "er", "ewc strength=1", "lwf"}
  assert block.winner.run.label == "er", "the test accuracy of ewc strength=10 is higher, but was not selected"
  assert [x.run.label for x in block.lines if x.choice] == ["ewc strength=1"]
  text = " ".join(_page.page(made).split())
  assert "highest validation accuracy" in text
  assert "Winner on made/class/4: er" in text


def test_first_tasks_selects_by_them_and_scores_the_later_ones(tmp_path):
  rng = np.random.default_rng(1)
  early, late = (result("ewc", 0.5, rng=rng, validation=0.5, strength=s) for s in (1.0, 2.0))
  for s in range(3):  # strength 1 leads after two tasks, strength 2 at the end
    early["validation_matrix"][s][2][:2], late["validation_matrix"][s][2][:2] = [0.9, 0.9], [0.6, 0.6]
  early["validation_metrics"]["acc"]["values"], late["validation_metrics"]["acc"]["values"] = [0.4] * 3, [0.8] * 3
  folder = write(tmp_path, [early, late, result("finetune", 0.3, rng=rng, validation=0.3)])
  chosen = lambda how: [x for x in report.build([folder], "finetune", how).blocks[0].lines if x.choice]
  assert [x.run.label for x in chosen("validation")] == ["ewc strength=2"]
  (got,) = chosen("first_tasks:2")
  assert got.run.label == "ewc strength=1"
  np.testing.assert_allclose(got.values, np.asarray(early["accuracy_matrix"])[:, TASKS, 2:].mean(1))
  assert got.validation.mean == pytest.approx(0.9)
  made = report.build([folder], "finetune", "first_tasks:2")
  assert "after the first 2 tasks" in _page.page(made)
  for r in (early, late):
    del r["validation_matrix"]
  old = report.build([write(tmp_path, [early, late])], "finetune", "first_tasks:2").blocks[0]
  assert not any(x.choice for x in old.lines)
  assert "no validation_matrix" in old.notes[0]
  for bad, text in (("first_tasks:4", "expected 1 to 3"), ("first_tasks:x", "select: got"), ("test", "select: got")):
    with pytest.raises(UsageError, match=text):
      report.build([folder], "finetune", bad)


def test_without_validation_rows_nothing_is_selected(tmp_path):
  rng = np.random.default_rng(2)
  found = [result("finetune", 0.3, rng=rng), *(result("ewc", v, rng=rng, strength=v) for v in (0.5, 0.9))]
  made = report.build([write(tmp_path, found)], "finetune", "validation")
  (block,) = made.blocks
  assert len(block.shown) == 3
  assert not any(x.choice for x in block.lines)
  assert block.winner is None, "ewc may well be the best, but only test accuracy could say with which strength"
  page = _page.page(made)
  assert "No winner is named on made/class/4: nothing could choose among the configurations of ewc." in page
  assert "there are no validation rows" in page
  assert 'class="best"' not in page.split("All metrics")[0]


def test_a_method_that_only_diverged_does_not_hide_the_winner(tmp_path):
  rng = np.random.default_rng(7)
  bad = [result("ewc", 0.9, rng=rng, validation=0.9, strength=s, alive=[True, True, False]) for s in (1.0, 2.0)]
  found = [result("er", 0.5, rng=rng, validation=0.5), *bad]
  (block,) = report.build([write(tmp_path, found)], "er", "validation").blocks
  assert block.winner.run.label == "er"
  assert {x.run.label for x in block.shown} == {"ewc strength=1", "ewc strength=2", "er"}
  assert "a seed of each diverged" in block.notes[0]


def test_with_forget_events_nobody_wins(tmp_path):
  rng = np.random.default_rng(3)
  found = [result(m, v, rng=rng, validation=v, forgets=True) for m, v in (("finetune", 0.3), ("er", 0.8))]
  made = report.build([write(tmp_path, found)], "finetune", "validation")
  assert made.blocks[0].winner is None
  page = _page.page(made)
  assert "No winner is named" in page
  assert "forget, event 4" in page
  assert 'class="best"' not in page


def test_seeds_of_several_sweeps_are_joined(tmp_path):
  rng = np.random.default_rng(4)
  a = result("er", 0.8, rng=rng, seeds=(0, 1))
  b = result("er", 0.7, rng=rng, seeds=(1, 2, 3))
  base = result("finetune", 0.3, rng=rng, seeds=(3, 1, 0, 7))
  folders = [write(tmp_path / "a", [a]), write(tmp_path / "b", [b, base])]
  made = report.build(folders, "finetune", "validation")
  er = line(made.blocks[0], "er")
  assert er.run.seeds == (0, 1, 2, 3)
  expected = np.concatenate([final(a), final(b)[1:]])
  np.testing.assert_allclose(er.values, expected)
  assert "er: seed 1 stands in two sweeps with other results" in " ".join(made.notes)
  shared = stats.ttest_rel(expected[[0, 1, 3]], final(base)[[2, 1, 0]])
  assert er.test.pairs == 3
  assert er.test.p == pytest.approx(shared.pvalue)
  whole = np.concatenate([a["accuracy_matrix"], np.asarray(b["accuracy_matrix"])[1:]])
  np.testing.assert_array_equal(er.run.matrix, whole)


def test_a_key_at_its_default_makes_no_other_configuration(tmp_path):
  rng = np.random.default_rng(9)
  old = result("ewc", 0.5, rng=rng, seeds=(0, 1))
  new = result("ewc", 0.5, rng=rng, seeds=(2,))
  default = methods.lookup("ewc").options["strength"].default
  new["config"]["method"]["strength"] = default
  other = result("ewc", 0.5, rng=rng, seeds=(0, 1), strength=default + 1)
  runs, _ = zip(*(_data.read(write(tmp_path / str(i), [r])) for i, r in enumerate((old, new, other))), strict=True)
  merged = _data.merge([r for found in runs for r in found], [])
  assert [r.seeds for r in merged] == [(0, 1, 2), (0, 1)]
  assert merged[1].label == f"ewc strength={default + 1:g}"


def test_ranks_over_streams(tmp_path, capsys):
  rng = np.random.default_rng(5)
  levels = {"a": {"finetune": 0.3, "er": 0.9, "si": 0.6, "only": 0.95}, "b": {"finetune": 0.2, "er": 0.5, "si": 0.8}}
  found = {s: {m: result(m, v, rng=rng, stream=s) for m, v in ms.items()} for s, ms in levels.items()}
  folders = [write(tmp_path / s, list(rs.values())) for s, rs in found.items()]
  made = report.build(folders, "finetune", "validation")
  ranked = {r.title: r for r in made.ranked}
  everywhere = ["finetune", "er", "si"]
  scores = np.asarray([[final(found[s][m]).mean() for s in "ab"] for m in everywhere])
  expected = np.mean([stats.rankdata(-scores[:, i]) for i in range(2)], 0)
  for m, rank in zip(everywhere, expected, strict=True):
    assert ranked[m].rank == pytest.approx(rank)
  assert math.isnan(ranked["only"].rank), "it stands on one stream only"
  mean = lambda m: np.mean([final(found[s][m]) for s in "ab"], 0)
  p = {m: stats.ttest_rel(mean(m), mean("finetune")).pvalue for m in ("er", "si")}
  assert {m: ranked[m].test.p for m in p} == pytest.approx(p)
  assert max(p.values()) == pytest.approx(max(ranked[m].test.holm for m in p), rel=0.5)
  assert ranked["er"].mean.mean == pytest.approx(mean("er").mean())
  page, tex = _page.page(made), _page.tex(made)
  assert "Over all streams" in page
  assert "equal means share the mean of their places" in page
  assert dict(zip(made.ranks.names, made.ranks.ranks, strict=True)) == pytest.approx(
    dict(zip(everywhere, expected, strict=True))
  )
  friedman = stats.friedmanchisquare(*-scores)
  assert made.ranks.p == pytest.approx(friedman.pvalue)
  assert report.main(["launch", *map(str, folders), f"--out={tmp_path / 'out'}"]) == 0
  said = capsys.readouterr().out
  assert f"Friedman: chi2(2) = {friedman.statistic:.2f}, p = {friedman.pvalue:.3f}, so nothing is told apart." in said
  assert f"the critical difference of two mean ranks is {made.ranks.difference:.2f} at 0.05; 0 of 3 pairs" in said
  assert "The least that the exact sign-flip test can reach is p = 0.25 of 3 shared seeds." in said
  assert "No raw log of single test rows (eval.log): only, er, si, finetune." in said
  assert (tmp_path / "out" / "ranks.png").read_bytes()[:4] == b"\x89PNG"
  assert "Average rank" in tex


def test_holm_never_lets_a_larger_p_pass_before_a_smaller_one():
  made = [None if p is None else _table.Test(0.1, p, p, 3) for p in (0.01, 0.034, None, 0.03, 0.2, 0.01)]
  got = [None if t is None else round(t.holm, 10) for t in _table.holm(made)]
  assert got == [0.05, 0.09, None, 0.09, 0.2, 0.05]  # 5 and 4 times 0.01; 3 times 0.03; 2 times 0.034 is less than that


def test_equal_means_share_their_places():
  scores = [0.5, 0.7, 0.5, 0.1]
  assert [_table._rank(scores, s) for s in scores] == list(stats.rankdata([-s for s in scores]))


def test_what_cannot_be_tested_is_not():
  same = _table._t_test(np.zeros(4))
  assert (same.p, same.difference) == (1.0, 0.0)
  assert _table._t_test(np.full(4, 0.25)) is None, "no spread"
  assert _table._t_test(np.asarray([0.1])) is None
  assert _table._t_test(np.asarray([0.1, np.nan, 0.2])) is None


def test_damage_is_one_line_each_and_the_rest_goes_on(swept, tmp_path, capsys):
  folder = tmp_path / "damaged"
  shutil.copytree(swept[0], folder)
  runs = sorted((folder / "runs").iterdir())
  er, lwf = (next(r for r in runs if r.name.startswith(m)) for m in ("er", "lwf"))
  (er / "result.json").write_text('{"torn": ')
  (lwf / "result.json").write_text('{"seeds": [0], "events": []}')
  (folder / "runs" / "new-1").mkdir()
  (folder / "runs" / "new-1" / "result.json").write_bytes(b"\xff\xfe\0")
  lines = (folder / "rows.jsonl").read_text().splitlines()
  kept = [s for s in lines if '"method": "lwf"' not in s]
  (folder / "rows.jsonl").write_text("\n".join([*kept, '{"run": "x"', "[1]"]) + "\n")
  assert report.main(["report", str(folder)]) == 0
  out = capsys.readouterr()
  assert [n for n in out.err.splitlines() if n] == [
    f"note: {folder}/rows.jsonl: line {len(kept) + 1} is not JSON; skipped",
    f"note: {folder}/rows.jsonl: line {len(kept) + 2} is not a row (list indices must be integers or slices, not str); "
    "skipped",
    f"note: {er}/result.json: not JSON, line 1; its numbers are taken from rows.jsonl, without curves",
    f"note: {lwf}/result.json: not a result: no 'accuracy_matrix'; left out",
    f"note: {folder}/runs/new-1/result.json: not text; left out",
  ]
  assert re.search(r"^er +" + f"{100 * final(swept[1][1]).mean():.1f}", out.out, re.M), "from its rows"
  assert "lwf" not in out.out


def test_parts_that_do_not_fit_are_not_used(tmp_path):
  rng = np.random.default_rng(8)
  bad = result("er", 0.5, rng=rng, validation=0.5)
  bad["validation_matrix"] = bad["validation_matrix"][:1]
  bad["curves"][3]["accuracy"] = [[0.1]]
  (run,), notes = _data.read(write(tmp_path, [bad]))
  assert run.validation is None
  assert run.curves is None
  assert run.matrix.shape == (3, TASKS + 1, TASKS)
  assert notes[0].endswith("validation_matrix, curves: not used, of another shape than the accuracy matrix")


def test_bad_input_is_one_line(swept, tmp_path, capsys):
  (tmp_path / "empty" / "runs").mkdir(parents=True)
  (tmp_path / "file").write_text("")
  folder = str(swept[0])
  cases = [
    ([str(tmp_path / "empty")], "holds no finished run; expected runs/*/result.json"),
    ([str(tmp_path / "none")], "no folder"),
    ([], "DIR: not given"),
    ([folder, "--select=test"], "select: got 'test'; expected validation, or first_tasks:K"),
    ([folder, "--baseline", "erx"], "baseline: there is no 'erx'; expected one of er, ewc, finetune, lwf"),
    ([folder, f"--out={tmp_path}/file"], "out: cannot write to"),
    ([folder, "--outt=x"], "--outt: no such flag"),
  ]
  for given, text in cases:
    assert report.main(["report", *given]) == 2, given
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1


def test_a_real_sweep_with_curves(command, tmp_path, capsys):
  """What launch.sweep writes can be read: validation matrix, curves inside tasks, costs."""
  folder = tmp_path / "real"
  given = ["--methods=finetune", "--seeds=2", "--config.eval.every=2", "--config.train.epochs=1", f"--workdir={folder}"]
  assert sweep.main(command(*given)) == 0
  assert report.main(["report", str(folder), "--select=first_tasks:2"]) == 0
  capsys.readouterr()
  (found,) = (json.loads(p.read_text()) for p in (folder / "runs").glob("*/result.json"))
  (x,) = report.build([folder], "finetune", "first_tasks:2").blocks[0].lines
  np.testing.assert_allclose(x.values, np.asarray(found["accuracy_matrix"])[:, 5, 2:].mean(1))
  np.testing.assert_allclose(x.run.validation.mean((0,)), np.mean(found["validation_matrix"], 0))
  assert x.run.seconds == pytest.approx((found["seconds"]["train"] + found["seconds"]["eval"]) / 2)
  assert "Stability gap" in (folder / "report.html").read_text()
  assert (folder / "report.png").read_bytes()[:4] == b"\x89PNG"


def test_latex(swept):
  assert _page.tex_escape(r"50%_a&b$#{x}~^\<") == (
    r"50\%\_a\&b\$\#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textless{}"
  )
  folder, found = swept
  text = _page.tex(report.build([folder], "finetune", "validation"))
  body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
  columns = text.split("\\begin{tabular}{")[1].split("}")[0]
  assert len(body) == 4
  assert all(row.count("&") == len(columns) - 1 and row.endswith(r"\\") for row in body)
  er = final(found[1])
  assert body[0].startswith(rf"er & $\mathbf{{{100 * er.mean():.1f}}} \pm {100 * stats.sem(er):.1f}^{{*}}$ &")
  assert sum(r"\mathbf" in row.split("&")[1] for row in body) == 1
  assert text.count("{") == text.count("}")


def test_names_are_text_and_not_markup(tmp_path):
  rng = np.random.default_rng(6)
  found = [result("finetune", 0.3, rng=rng), result("er", 0.5, rng=rng, policy='<img src=x onerror="a">'),
           result("er", 0.6, rng=rng, policy="b")]  # fmt: skip
  page = _page.page(report.build([write(tmp_path, found)], "finetune", "validation"))
  assert "<img src=x" not in page
  assert "&lt;imgsrc=x" in page or "&lt;img src=x" in page


def test_thinning_keeps_the_lowest_point():
  y = np.full(5000, 90.0)
  y[1234] = 3.0
  x, thin = _svg.thin(np.arange(5000), y)
  assert len(x) <= 1.1 * _svg.MOST_POINTS
  assert (thin.min(), x[thin.argmin()]) == (3.0, 1234)


@pytest.fixture(scope="module")
def browser():
  """Headless Chromium with its driver, both of them the system's: nothing is downloaded."""
  chromium = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
  driver = shutil.which("chromedriver")
  if chromium is None or driver is None:
    pytest.skip("no chromium and chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
  webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,900"):
    options.add_argument(flag)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
  page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
  yield page
  page.quit()


def test_the_page_in_a_browser(swept, browser, capsys):
  from selenium.webdriver.common.by import By
  from selenium.webdriver.common.keys import Keys

  folder, found = swept
  assert report.main(["report", str(folder)]) == 0
  capsys.readouterr()
  browser.get((folder / "report.html").as_uri())
  all_of = lambda css: browser.find_elements(By.CSS_SELECTOR, css)
  texts = lambda css: [e.text for e in all_of(css) if e.is_displayed()]
  names = lambda: [t.split(" baseline")[0] for t in texts("table.chosen tbody th")]
  # The winner, from the matrices alone: the highest mean among those that validation lets stand for their method.
  able = {"finetune": found[0], "er": found[1], "ewc strength=1": found[2], "lwf": found[5]}
  winner = max(able, key=lambda k: final(able[k]).mean())
  assert names() == sorted(able, key=lambda k: -final(able[k]).mean())
  (best,) = all_of("table.chosen tbody td:nth-child(2).best")
  assert best.text == f"{100 * final(able[winner]).mean():.1f} ± {100 * stats.sem(final(able[winner])):.1f}"
  assert best.find_element(By.XPATH, "../th").text == winner
  assert int(best.value_of_css_property("font-weight")) >= 700
  assert f"{winner}, {best.text} % ACC" in texts(".headline strong")[0]
  # Sorting, by pointer and by keyboard.
  assert len(all_of("table.every tbody tr")) == 6
  kept = next(b for b in all_of("table.chosen th button") if b.text.strip() == "kept")
  kept.click()
  by_bytes = ["finetune", "lwf", "er", "ewc strength=1"]
  assert names() == by_bytes
  kept.send_keys(Keys.ENTER)
  assert names() == by_bytes[::-1]
  head = kept.find_element(By.XPATH, "..")
  assert head.get_attribute("aria-sort") == "descending"
  assert len(all_of("table.chosen th[aria-sort]")) == 1
  # Filtering reaches the tables, the charts and the matrices.
  box = browser.find_element(By.ID, "filter")
  box.send_keys("EWC")
  assert names() == ["ewc strength=1"]
  assert len(texts("table.every tbody th")) == 3
  assert texts("#filtered") == ["3 of 6 configurations shown"]
  assert {g.get_attribute("data-name") for g in all_of("svg.chart g") if g.is_displayed()} == {"ewc strength=1"}
  assert [t.split(":")[0].split(" selected")[0] for t in texts("details summary")] == [
    "ewc strength=10", "ewc strength=1", "ewc strength=100",
  ]  # fmt: skip
  box.send_keys(Keys.ESCAPE)
  assert len(names()) == 4
  # Nothing sticks out, nothing was asked of a network, nothing was complained about.
  wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
  assert wide == 0
  asked = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
  urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
  assert {u.partition(":")[0] for u in urls} <= {"file", "data"}
  assert browser.get_log("browser") == []
