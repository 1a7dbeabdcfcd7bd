"""``launch.unlearn`` on real digits, as a user calls it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cljax.cli import unlearn
from cljax.cli.unlearning import _job, _shadows, _table
from cljax.io import checkpoint, ledger

FAST = ["--config=experiments/unlearn_digits.py", "--config.train.epochs=1", "--config.model.hidden=(16,)"]


def run(tmp_path, *more):
  return unlearn.main(["unlearn", *FAST, f"--workdir={tmp_path}", "--compilation_cache=", *more])


def test_a_class_is_forgotten_beside_retraining(tmp_path, capsys):
  asked = ["--methods=ssd,graddiff", "--request=class=3", "--seeds=2", "--oracles=8"]
  assert run(tmp_path, *asked) == 0
  told = capsys.readouterr()
  assert "evidence: 16 trainings" in told.err  # said before it is spent
  lines = told.out.splitlines()
  assert [line.split()[0] for line in lines[4:8]] == ["original", "retrained", "ssd", "graddiff"]
  result = json.loads((tmp_path / "unlearn.json").read_text())
  assert set(result["values"]) == {"original", "retrained", "ssd", "graddiff"}
  assert result["about"]["ssd"]["exactness"] == "approximate"
  assert result["about"]["ssd"]["needs"] == "forget and retain"
  retrained = result["values"]["retrained"]
  assert max(retrained["forget_accuracy"]) == 0.0  # it never saw the class
  assert result["values"]["original"]["forget_accuracy"][0] > 0.2
  assert (tmp_path / "unlearn.md").read_text().startswith("# Forgetting `class=3`")
  ledger = [json.loads(line) for line in (tmp_path / "methods" / "ssd" / "deletions.jsonl").read_text().splitlines()]
  assert len(ledger) == 1
  assert ledger[0]["rows"] == result["context"]["rows_to_forget"]
  more = result["more"]
  assert set(more) == set(result["values"])
  for name, values in result["values"].items():  # the second table is of the same models
    np.testing.assert_allclose(more[name]["unlearning_accuracy"], 1 - np.asarray(values["forget_accuracy"]))
    assert not set(more[name]) & set(values)
  assert {"klom_forget_floor", "klom_retain_floor"} == set(more["retrained"]) - set(more["ssd"])
  assert max(more["retrained"]["h_mean"]) > max(more["original"]["h_mean"]) == 0.0
  assert "H-mean %" in told.out
  assert told.out.count("KLoM: nats") == told.out.count("KLoM p95: 95th") == 1
  assert "U-LiRA" not in told.out  # there are no shadows
  assert "| H-mean % |" in (tmp_path / "unlearn.md").read_text()
  assert run(tmp_path, *asked) == 0  # again: everything is read back
  again = json.loads((tmp_path / "unlearn.json").read_text())
  assert again["values"] == result["values"]


@pytest.mark.parametrize("schedule", ["epochs", "steps"])
def test_retraining_is_compared_with_retraining_of_the_same_schedule(tmp_path, capsys, schedule):
  """Nine tenths of the rows go: by epochs a replay has a tenth of the steps, by steps as many as before."""
  most = "+".join(f"class={c}" for c in range(9))
  asked = ["--methods=retrain", f"--request={most}", "--seeds=1", "--oracles=2", f"--schedule={schedule}"]
  assert run(tmp_path, *asked) == 0
  assert f"(schedule={schedule})" in capsys.readouterr().out
  assert json.loads((tmp_path / "unlearn.json").read_text())["context"]["schedule"] == schedule
  totals = {}
  for name in ("oracles", "methods/retrain"):
    folder = tmp_path / name / "checkpoints"
    meta = checkpoint.read_meta(folder, checkpoint.numbers(folder)[-1])
    totals[name] = meta["position"]["total"]
    assert meta["config"]["forget"].get("schedule", schedule) == schedule
  assert (totals["oracles"] == totals["methods/retrain"]) == (schedule == "steps")


def test_a_purge_takes_the_models_that_learned_the_rows_too(tmp_path, capsys):
  """As in every launcher's folders: what stays is from after the deletion, or never saw the rows."""
  asked = ["--methods=ssd,graddiff", "--request=class=3", "--seeds=1", "--oracles=2"]
  asked.append("--config.checkpoint.purge_before_deletion=true")
  assert run(tmp_path, *asked) == 0
  told = capsys.readouterr()
  assert "purged: original" in told.err
  assert not (tmp_path / "original").exists()
  for path in tmp_path.rglob("_CHECKPOINT_METADATA"):
    folder, number = path.parent.parent, int(path.parent.name)
    position = checkpoint.read_meta(folder, number)["position"]
    assert "oracles" in path.parts or position["forgotten"], path
  (tmp_path / "original.deleted").mkdir()  # as a kill in the purge leaves it
  assert run(tmp_path, *asked) == 0
  assert capsys.readouterr().out == told.out  # nothing is trained again
  assert not (tmp_path / "original").exists()
  assert not (tmp_path / "original.deleted").exists()


def test_a_purge_takes_shadow_models_and_oracles_that_were_trained_with_the_rows(tmp_path, capsys):
  """The shadows learned a part of the rows; by steps the oracles learned them all before they were replayed."""
  asked = ["--methods=ssd", "--request=class=3", "--seeds=1", "--oracles=2", "--shadows=8", "--schedule=steps"]
  assert run(tmp_path, *asked, "--config.checkpoint.purge_before_deletion=true") == 0
  told = capsys.readouterr()
  assert "purged: original, shadows" in told.err
  assert not (tmp_path / "shadows").exists()
  after = [p.parent for p in tmp_path.rglob("_CHECKPOINT_METADATA")]
  assert {p.parent.parent.relative_to(tmp_path).as_posix() for p in after} == {
    "oracles", "methods/ssd", *(f"methods/ssd/shadows/{g}" for g in range(4))
  }  # fmt: skip
  for path in after:
    assert checkpoint.read_meta(path.parent, int(path.name))["position"]["forgotten"], path
  for folder in {p.parent.parent for p in after}:
    assert all(line["status"] == ledger.DONE for line in ledger.read(folder))
  (tmp_path / "shadows.deleted").mkdir()  # as a kill in the purge leaves it
  assert run(tmp_path, *asked, "--config.checkpoint.purge_before_deletion=true") == 0
  assert capsys.readouterr().out == told.out
  assert not (tmp_path / "shadows.deleted").exists()


def test_a_cost_that_clocks_can_not_tell_is_a_dash():
  """Of a method that trains its own way, whose run was as fast as the originals' training."""
  values = {"retrained": {"forget_accuracy": np.zeros(1)}, "retrain": {"forget_accuracy": np.zeros(1)}}
  about = {
    "retrained": {"exactness": "exact", "epochs": 2.0, "needs": ""},
    "retrain": {"exactness": "exact", "epochs": float("nan"), "needs": "", "own_training": True},
  }
  context = {"seeds": [0], "rows_to_forget": 1, "population": 1, "oracles": 2, "epoch_seconds": 0.1}
  told = _table.render(
    _job.Compared(values, about, context, {"forget_accuracy": "FA %"}, "", {}), "ids=7", stream=False
  )
  (line,) = [line.split() for line in told.splitlines() if line.startswith("retrain ")]
  assert line == ["retrain", "0.0", "-", "-", "exact"]
  assert "(retrain) it is what their run took beyond the originals' training, a dash where" in told


def test_a_request_for_one_person_has_evidence(tmp_path, capsys):
  assert run(tmp_path, "--methods=ssd", "--request=ids=7", "--seeds=1", "--oracles=2") == 0
  told = capsys.readouterr().out
  head, original = told.splitlines()[2], told.splitlines()[4].split()
  assert "loss on them" in head
  assert "margin on them" in head
  assert original[0] == "original"
  assert "-" in original  # the attack that cannot be fitted on one row
  assert "KLoM" not in told  # of so few oracles there is none
  values = json.loads((tmp_path / "unlearn.json").read_text())["values"]["original"]
  assert values["relearning_attack"] == [None]  # no row is left to hold out
  assert "Marks need 3 seeds" in told


def test_a_stream_of_requests(tmp_path, capsys):
  split = ["--config.stream.tasks=5", "--methods=ssd", "--seeds=2"]
  assert run(tmp_path, *split, "--request=1:class=0; 2:ids=5-9; 5:class=3") == 0
  assert "retrain repeats its steps" in capsys.readouterr().err
  result = json.loads((tmp_path / "unlearn.json").read_text())
  assert set(result["values"]) == {"retrained", "ssd"}
  assert result["context"]["requests"] == 3


@pytest.mark.parametrize(
  ("more", "text"),
  [
    (["--methods=ssd"], "request: not given"),
    (["--methods=ssd", "--request=colour=3"], "unknown selector 'colour'"),
    (["--methods=ewc", "--request=class=3"], "methods: 'ewc' answers no deletion request"),
    (["--methods=ssd,ssd", "--request=class=3"], "expected each once"),
    (["--methods=ssd", "--request=9:class=3"], "request: position 9; expected 1 to 1"),
    (["--methods=ssd", "--request=class=3", "--config.checkpoint.keep_ids=false"], "a comparison names its request"),
    (["--methods=retrain", "--request=class=3", "--config.forget.schedule=steps"], "forget.schedule: give --schedule"),
  ],
)
def test_mistakes_are_one_line(tmp_path, capsys, more, text):
  assert run(tmp_path, *more) == 2
  error = capsys.readouterr().err.strip().splitlines()
  assert text in error[-1]


def test_u_lira_sees_nothing_in_noise_and_much_in_what_was_kept():
  rng = np.random.default_rng(0)
  members = _shadows._PATTERNS[np.arange(24) % 6].T
  noise = rng.normal(size=(4, 16, 24))
  assert abs(_shadows.attacked(noise, members)["u_lira"] - 0.5) < 0.05
  assert _shadows.attacked(noise + 1.5 * members[:, None], members)["u_lira"] > 0.8
  # What a seed does to all its models alike is no trace of a row.
  of_seed = noise + 5 * rng.normal(size=(4, 16, 1))
  assert abs(_shadows.attacked(of_seed, members)["u_lira"] - 0.5) < 0.05


def test_a_trade_off_is_of_the_same_edit_after_fewer_steps(tmp_path, capsys):
  """Each checkpoint is what the method gives at so many steps: the area recomputed from runs of their own."""
  few = ["--request=class=3", "--seeds=2", "--oracles=2", "--config.forget.learning_rate=0.01"]
  few.append("--config.forget.forget_weight=0.2")
  accuracy = []
  for steps in (4, 2):
    more = [*few, "--methods=graddiff", f"--config.forget.steps={steps}", f"--tradeoff={2 if steps == 4 else 0}"]
    assert unlearn.main(["unlearn", *FAST, f"--workdir={tmp_path}/{steps}", "--compilation_cache=", *more]) == 0
    accuracy.append(json.loads((tmp_path / str(steps) / "unlearn.json").read_text())["values"])
  whole, part = accuracy
  assert "AUC forget-retain" in capsys.readouterr().out
  for seed in range(2):
    points = [(v["forget_accuracy"][seed], v["retain_accuracy"][seed]) for v in
              (whole["original"], part["graddiff"], whole["graddiff"])]  # fmt: skip
    assert len({f for f, _ in points}) == 3
    x, y = np.asarray(sorted((1 - f, r) for f, r in points)).T
    np.testing.assert_allclose(whole["graddiff"]["tradeoff_retain"][seed], (np.diff(x) * (y[1:] + y[:-1])).sum() / 2)
  assert "tradeoff_retain" not in whole["retrained"]
  assert run(tmp_path / "ssd", "--methods=ssd", *few[:3], "--tradeoff=2") == 0  # it has no steps
  assert "tradeoff_retain" not in json.loads((tmp_path / "ssd" / "unlearn.json").read_text())["values"]["ssd"]
  capsys.readouterr()
  assert run(tmp_path / "stream", "--methods=ssd", "--request=1:class=3", "--seeds=1", "--tradeoff=2") == 2
  assert "tradeoff: got 2 for a stream of requests" in capsys.readouterr().err
