"""The claims ledger: verdicts follow from intervals, records are kept, and what is committed is whole."""

import json
import pathlib

import numpy as np
import pytest

from experiments import claims
from launch import claims as launcher

HOME = pathlib.Path(claims.__file__).parent


def test_intervals_and_verdicts():
  values = np.array([1.0, 2.0, 3.0, 4.0])
  found = claims.interval(values)
  half = 3.182446305284263 * np.std(values, ddof=1) / 2  # t(0.975, 3 degrees of freedom)
  np.testing.assert_allclose([found.mean, found.low, found.high], [2.5, 2.5 - half, 2.5 + half])
  verdict_of = lambda *v: claims.interval(np.array(v)).verdict
  assert verdict_of(1.0, 1.1, 0.9) == "holds"
  assert verdict_of(-1.0, -1.1, -0.9) == "does not hold at this scale"
  assert verdict_of(-1.0, 1.5, 0.2) == "inconclusive"
  assert verdict_of(0.0, 0.0, 0.0) == "does not hold at this scale"
  assert verdict_of(5.0, np.nan, 5.0) == "does not hold at this scale"
  holds, fails, open_ = (claims.interval(np.array(v)) for v in ([1.0, 1.1], [-1.0, -1.1], [-1.0, 1.0]))
  assert claims.verdict([holds, holds]) == "holds"
  assert claims.verdict([holds, open_]) == "inconclusive"
  assert claims.verdict([holds, open_, fails]) == "does not hold at this scale"
  with pytest.raises(ValueError, match="S >= 2"):
    claims.interval([1.0])


def test_the_quick_claims_run_and_are_recorded(tmp_path, capsys):
  old = {"gone": {"verdict": "holds"}}
  (tmp_path / "RESULTS.json").write_text(json.dumps(old))
  cache = f"--compilation_cache={tmp_path}/cache"
  assert launcher.main(["claims", "--quick", f"--out={tmp_path}", cache]) == 0
  assert "ewc: holds" in capsys.readouterr().out
  record = json.loads((tmp_path / "RESULTS.json").read_text())
  quick = {name for name in claims.names() if claims.load(name).CLAIM.quick}
  assert set(record) == quick  # a claim that is no more is dropped
  assert len(quick) >= 3
  assert {r["verdict"] for r in record.values()} <= set(claims.VERDICTS)
  (effect,) = record["ewc"]["effects"].values()
  assert len(effect["values"]) == record["ewc"]["seeds"] == 5
  np.testing.assert_allclose(effect["mean"], np.mean(effect["values"]))
  assert record["ewc"]["machine"]["jax"]
  text = (tmp_path / "RESULTS.md").read_text()
  assert "| holds |" in text
  assert launcher.main(["claims", "--only=nonsense"]) == 2
  assert "unknown claim 'nonsense'" in capsys.readouterr().err


def test_a_claim_that_raises_is_recorded_as_failed(tmp_path, monkeypatch, capsys):
  def broken(seeds):
    raise RuntimeError("no data\nat all")

  monkeypatch.setattr(claims.load("ewc"), "measure", broken)
  assert launcher.main(["claims", "--only=ewc", f"--out={tmp_path}", "--compilation_cache="]) == 1
  assert "failed to run: ewc" in capsys.readouterr().err
  assert json.loads((tmp_path / "RESULTS.json").read_text())["ewc"]["error"] == "RuntimeError: no data at all"


def test_committed_results_are_whole():
  """Every claim has its verdict, under the protocol that its file states now, and the page is drawn from the record."""
  records = launcher.read(str(HOME))
  assert sorted(records) == claims.names()
  for name, record in records.items():
    claim = claims.load(name).CLAIM
    assert record["verdict"] in claims.VERDICTS, name
    assert (record["protocol"], record["sentence"], record["seeds"]) == (claim.protocol, claim.sentence, claim.seeds)
    for effect in record["effects"].values():
      found = claims.interval([np.nan if v is None else v for v in effect["values"]])
      assert found.verdict == effect["verdict"]
  assert (HOME / "RESULTS.md").read_text() == launcher.render(records)


def test_every_method_of_the_ledger_exists():
  from cljax import edits, estimators, losses, methods, optimizers, projectors, theory

  parts = (optimizers, edits, projectors, theory, estimators, losses)
  known = {*methods.METHODS, *(name for part in parts for name in dir(part))}
  for name in claims.names():
    claim = claims.load(name).CLAIM
    assert claim.methods, name
    assert set(claim.methods) <= known, (name, set(claim.methods) - known)
