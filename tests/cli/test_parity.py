"""launch.parity: the comparison of two means by hand, and one small benchmark from command to table."""

import json
import math
import struct

import numpy as np
import pytest
from scipy import stats

from cljax.cli import _parity_picture, parity, presets

SOURCE = presets.Published(90.0, 1.5, 10, "a paper", "final avg acc domain-il %")


def test_the_difference_is_in_standard_errors_of_both_means():
  values = [91.0, 92.5, 90.5]
  found = parity.judge(values, SOURCE)
  # s^2 = 1.08333 over 3 runs, 2.25 over 10.
  error = math.sqrt(((91 - 274 / 3) ** 2 + (92.5 - 274 / 3) ** 2 + (90.5 - 274 / 3) ** 2) / 2 / 3 + 2.25 / 10)
  assert found.difference == pytest.approx(274 / 3 - 90)
  assert found.error == pytest.approx(error)
  assert found.ratio == pytest.approx((274 / 3 - 90) / error)
  welch = stats.ttest_ind_from_stats(np.mean(values), np.std(values, ddof=1), 3, 90.0, 1.5, 10, equal_var=False)
  assert (found.ratio, found.p) == pytest.approx((welch.statistic, welch.pvalue))
  assert found.verdict == "agrees"


def test_two_standard_errors_are_the_limit():
  values = np.array([-1.0, 0.0, 1.0])  # s^2 / n = 1 / 3
  error = math.sqrt(1 / 3 + 0.225)
  for shift, verdict in ((1.99, "agrees"), (2.01, "differs"), (-1.99, "agrees"), (-2.01, "differs")):
    assert parity.judge(90 + values + shift * error, SOURCE).verdict == verdict
  same = SOURCE._replace(deviation=0.0)
  assert parity.judge([90.0, 90.0], same).verdict == "agrees"
  assert parity.judge([90.0, 90.0], same._replace(mean=90.5)).verdict == "differs"


@pytest.mark.parametrize(
  ("values", "other", "verdict", "difference"),
  [
    ([91.0, 92.0], None, "no published value at hand", None),
    ([91.0, 92.0], SOURCE._replace(metric="avg over steps %"), "not compared: the published value is 'avg", None),
    ([91.0], SOURCE, "not judged: one run has no deviation", 1.0),
    ([91.0, math.nan], SOURCE, "not compared: a run diverged", None),
    ([], SOURCE, "not compared: a run diverged", None),
  ],
)
def test_what_cannot_be_judged_is_not(values, other, verdict, difference):
  found = parity.judge(values, other)
  assert found.verdict.startswith(verdict)
  assert (found.difference, found.ratio, found.p) == (difference, None, None)


@pytest.mark.parametrize(
  ("more", "allowed"),
  [  # two standard errors, of three values around their mean with s = 1, and half a digit
    ({"deviation": None, "digit": 1.0}, 2 * math.sqrt(1 / 3 + 1) + 0.5),
    ({"deviation": None, "runs": None, "digit": 0.1}, 2 * math.sqrt(1 / 3 + 1) + 0.05),
    ({"runs": None, "deviation": 3.0, "digit": 0.1}, 2 * math.sqrt(1 / 3 + 9)),
  ],
)
def test_a_value_without_its_runs_is_one_more_run(more, allowed):
  values, other = np.array([-1.0, 0.0, 1.0]), SOURCE._replace(**more)
  for shift, verdict in ((0.999, "agrees"), (1.001, "differs"), (-1.001, "differs")):
    found = parity.judge(90 + values + shift * allowed, other)
    assert found.verdict == f"{verdict}, as one more run"
    assert found.p is None
  assert "half of its last digit" in "\n".join(parity.notes([]))


def result(values, alive=None):
  return {
    "seeds": [*range(len(values))], "metrics": {"acc": {"values": values}}, "alive": alive or [True] * len(values),
    "seconds": {"compile": 1.0, "train": 2.5}, "population": len(values),
  }  # fmt: skip


def test_a_row_has_what_was_measured_and_what_was_published():
  preset = presets.find("rotated_mnist/er/200")
  row = parity.row_of(preset, result([0.84, 0.85, 0.845]))
  assert (row["mean"], row["deviation"], row["stderr"]) == pytest.approx((84.5, 0.5, 0.5 / math.sqrt(3)))
  assert row["difference"] == pytest.approx(84.5 - float(preset.row["accuracy"]))
  assert (row["verdict"], row["seconds"]) == ("agrees", 3.5)
  assert "--config=preset:rotated_mnist/er/200 --seeds='0,1,2'" in row["command"]
  assert parity.cells(row)[:5] == ("er/200", "84.50 ± 0.29", "3", "85.01 ± 1.90", "3")
  dead = parity.row_of(preset, result([0.93, None], [True, False]))
  assert (dead["mean"], dead["verdict"]) == (None, "not compared: a run diverged")
  other = parity.row_of(preset, result([0.93, 0.94]), ["stream.rows=100", "model.hidden=(5, 5)"])
  assert (other["verdict"], other["ratio"]) == ("not compared: stream.rows=100, model.hidden=(5, 5)", None)
  assert "/er/200 --config.stream.rows=100 --config.'model.hidden=(5, 5)' --seeds" in other["command"]


def test_the_foot_says_how_and_from_where():
  rows = [parity.row_of(presets.find(f"rotated_mnist/{n}"), result([0.9, 0.91])) for n in ("er/200", "agem/200")]
  foot = "\n".join(parity.notes(rows))
  assert "divided by the root of their runs" in foot
  assert rows[0]["published"]["source"] in foot
  assert "source (all): pixels are interpolated; there the nearest is taken" in foot
  assert "source (agem/200): the memory holds an even share" in foot
  assert parity.OWN_STREAMS in foot
  assert parity.ONE_STREAM not in foot


def test_the_foot_says_which_seeds_share_a_stream():
  names = ("avalanche_split_mnist/er/1000", "avalanche_split_mnist/gdumb/4400")
  rows = [parity.row_of(presets.find(n), result([0.9, 0.91])) for n in names]
  own = [bool(presets.find(n).sections["stream"]["per_seed"]) for n in names]
  assert sorted(own) == [False, True]
  foot = parity.notes(rows)
  assert f"{parity.OWN_STREAMS} ({names[own.index(True)].partition('/')[2]})" in foot
  assert f"{parity.ONE_STREAM} ({names[own.index(False)].partition('/')[2]})" in foot


def test_the_axes_hold_every_bar():
  row = lambda a, e, b, f: {"mean": b, "stderr": f, "published": {"mean": a, "deviation": e, "runs": 4}}
  low, high = _parity_picture.limits([row(50.0, 40.0, 52.0, None), row(60.0, 1.0, 61.0, 9.0)])
  assert low < 50 - 20
  assert high > 61 + 9


def idx(a):
  return b"\0\0\x08" + bytes([a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes()


def test_from_a_command_to_a_table_and_on_with_more_seeds(tmp_path, capsys):
  rng, data, out = np.random.default_rng(0), tmp_path / "data", tmp_path / "out"
  data.mkdir()
  for stem, n in (("train", 60), ("t10k", 20)):
    (data / f"{stem}-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (n, 4, 4), dtype=np.uint8)))
    (data / f"{stem}-labels-idx1-ubyte").write_bytes(idx((np.arange(n) % 10).astype(np.uint8)))
  given = ["parity", "--benchmark=rotated_mnist", "--methods=finetune", f"--data_dir={data}", f"--out={out}",
           f"--workdir={tmp_path / 'runs'}", "--compilation_cache="]  # fmt: skip
  assert parity.main([*given, "--seeds=2"]) == 0
  capsys.readouterr()
  sweep = tmp_path / "runs" / "rotated_mnist"
  assert parity.main([*given, "--seeds=3"]) == 0
  assert len(list((sweep / "groups").iterdir())) == 2  # the third seed alone was trained
  lines = [json.loads(line) for line in (sweep / "rows.jsonl").read_text().splitlines()]
  (row,) = json.loads((out / "rotated_mnist.json").read_text())["rows"]
  assert row["seeds"] == [0, 1, 2]
  assert row["values"] == pytest.approx([100 * x["acc"] for x in sorted(lines, key=lambda x: x["seed"])])
  assert row["verdict"] == "differs"  # noise, not digits
  text = (out / "rotated_mnist.md").read_text()
  assert "| finetune | " in text
  assert "python -m launch.parity --benchmark=rotated_mnist --methods=finetune --seeds=3`" in text
  assert row["command"] in text
  assert (out / "rotated_mnist.png").read_bytes()[:4] == b"\x89PNG"
  assert "| finetune | " in capsys.readouterr().out
  whole = (out / "README.md").read_text()
  assert "| [rotated_mnist](rotated_mnist.md) | 1 | 0 | 1 | 0 |" in whole
  assert "- rotated_mnist, finetune: " in whole
  assert (out / "all.png").read_bytes()[:4] == b"\x89PNG"


def test_a_trial_at_another_scale_replaces_no_row_of_the_default_folder(tmp_path, monkeypatch):
  monkeypatch.setattr(parity.sweep, "run", lambda argv, stop: 0)
  monkeypatch.setattr(parity, "collected", lambda *a: ([{"preset": "rotated_mnist/si"}], {}))
  monkeypatch.setattr(parity, "notes", lambda rows: [])
  written = []
  monkeypatch.setattr(parity, "write", lambda out, content: written.append(str(out)))
  monkeypatch.chdir(tmp_path)
  given = ["parity", "--benchmark=rotated_mnist", "--workdir=runs"]
  for more in ([], ["--config.data.data_dir=x"], ["--config.stream.rows=9"], ["--config.stream.rows=9", "--out=mine"]):
    assert parity.main([*given, *more]) == 0
  assert written == ["experiments/results/parity"] * 2 + ["runs", "mine"]


def test_a_setting_that_was_not_run_this_time_keeps_its_row(tmp_path):
  table = tmp_path / "rotated_mnist.json"
  row = lambda name, mean: {"preset": f"rotated_mnist/{name}", "mean": mean}
  new = lambda *rows: parity.with_earlier(rows, {"jax": "2"}, table, "rotated_mnist")
  assert new(row("si", 1.0)) == [{**row("si", 1.0), "environment": {"jax": "2"}}]
  table.write_text(json.dumps({"environment": {"jax": "1"}, "rows": [row("er/200", 2.0), row("si", 3.0)]}))
  assert new(row("si", 1.0), row("finetune", 4.0)) == [
    {**row("finetune", 4.0), "environment": {"jax": "2"}},
    {**row("si", 1.0), "environment": {"jax": "2"}},
    {**row("er/200", 2.0), "environment": {"jax": "1"}},
  ]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--benchmark=mnist"], "benchmark: got 'mnist'; allowed: permuted_mnist, rotated_mnist"),
    (["--benchmark=split_mnist", "--methods=lwf"], "split_mnist has no preset 'lwf'"),
    (["--benchmark=split_mnist", "--config=a.py"], "config: got 'a.py'; expected --benchmark"),
  ],
)
def test_refusals(flags, message, capsys):
  assert parity.main(["parity", *flags]) == 2
  assert message in capsys.readouterr().err
