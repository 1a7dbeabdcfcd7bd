"""The experiments of text, a VAE, diffusion and ranking, tiny and by command: scores, requests, and going on after a
stop."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from cljax import Stopped
from cljax.cli import train
from experiments.objectives import _shared, diffusion, ranking, text, vae

SMALL = {
  text: (["model.width=8", "model.depth=1", "model.heads=2", "stream.rows=150"], "perplexity", 3),
  vae: (["model.latent=2", "model.hidden=8,", "stream.rows=200"], "negative_elbo", 5),
  diffusion: (["model.hidden=8,", "stream.rows=200"], "denoising", 5),
  ranking: (["model.dim=2", "stream.rows=400"], "pair_accuracy", 4),
}
# Beside exact retraining: those of the others that this test tries, each a program of its own; ranking has none.
EDITS = {text: (), vae: ("ssd",), diffusion: (), ranking: ("graddiff", "ssd")}
LEFT_OUT = {text: (), vae: ("lwf",), diffusion: ("lwf",), ranking: ("ewc", "graddiff", "ssd")}
name_of = lambda experiment: experiment.__name__.rpartition(".")[2]
EACH = pytest.mark.parametrize("experiment", SMALL, ids=name_of)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  """``flags(experiment)``; compiled programs are kept for the tests of this module."""
  cache = tmp_path_factory.mktemp("cache")
  more = ["train.epochs=1", "eval.block=16", "train.chunk_steps=4"]
  return lambda e: [f"--compilation_cache={cache}", *(f"--config.{f}" for f in (*SMALL[e][0], *more))]


@EACH
def test_it_is_swept_and_answers_requests(experiment, flags, tmp_path, capsys, monkeypatch):
  _, score, tasks = SMALL[experiment]
  monkeypatch.setattr(_shared, "EDITS", ("retrain", *EDITS[experiment]))
  given = [*flags(experiment), "--grid=method.name=['finetune']"]
  assert experiment.run(str(tmp_path), "1", given) == 0
  err = capsys.readouterr().err
  for name in LEFT_OUT[experiment]:
    assert f"{name}: left out, needs {'divergence' if name == 'lwf' else 'each'}\n" in err
  (found,) = (json.loads(p.read_text()) for p in tmp_path.glob("sweep/runs/*/result.json"))
  assert found["main"] == score
  assert np.shape(found["scores"][score]) == (1, tasks + 1, tasks)
  assert all(np.isfinite(v).all() for v in found["scores"].values())
  answered = [json.loads(p.read_text()) for p in tmp_path.glob("forget/runs/*/result.json")]
  said = {r["config"]["forget"]["name"] for r in answered}
  assert said == {"retrain", *EDITS[experiment]} - set(LEFT_OUT[experiment])
  for result in answered:
    (said,) = result["forgotten"]
    assert said["rows"] > 0
    assert np.isfinite([*said["forget"], *said["retain"]]).all()
    before, after = (np.array(r["scores"][score])[:, tasks] for r in (found, result))
    np.testing.assert_array_equal(before, after)  # learned to the same bits before the request
  for folder in ("sweep", "forget"):
    assert (tmp_path / folder / "report.html").exists()
  able, lines = experiment.allowed()
  assert {*able, *(line.split(":")[0] for line in lines)} == {*experiment.METHODS}


@EACH
def test_a_stopped_run_goes_on_to_the_same_bits(experiment, flags, tmp_path):
  """With a request that is answered by exact retraining; text with a memory too."""
  if hasattr(experiment, "write_rows"):
    experiment.write_rows(tmp_path)
  given = ["train", f"--config={experiment.__file__}", f"--config.data.data_dir={tmp_path}", *flags(experiment)]
  memory = ["--config.method.name=er", "--config.method.capacity=8"] if experiment is text else []
  given += [*memory, "--config.forget.name=retrain"]
  given += [f"--config.stream.forget=2:{experiment.FORGET.partition(':')[2]}"]
  given += ["--config.checkpoint.every=4"]
  assert train.main([*given, f"--workdir={tmp_path / 'whole'}"]) == 0
  asked = itertools.count()
  with pytest.raises(Stopped):
    train.run([*given, f"--workdir={tmp_path / 'cut'}"], lambda: next(asked) > 3)
  assert not (tmp_path / "cut" / "result.json").exists()
  assert train.main([*given, f"--workdir={tmp_path / 'cut'}"]) == 0
  whole, cut = (json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "cut"))
  for key in ("params_sha256", "scores", "metrics", "forgotten"):
    assert whole[key] == cut[key]


def test_what_an_objective_has_nothing_for_is_refused_in_one_line(flags, tmp_path, capsys):
  ranking.write_rows(tmp_path)
  given = ["train", f"--config={ranking.__file__}", f"--config.data.data_dir={tmp_path}"]
  for edit in ("graddiff", "ssd"):
    given.append(f"--workdir={tmp_path / edit}")
    assert train.main([*given, f"--config.stream.forget={ranking.FORGET}", f"--config.forget.name={edit}"]) == 2
    error = capsys.readouterr().err
    assert "needs each" in error
    assert "the objective 'ranking'" in error
    assert len(error.splitlines()) == 1


def test_rows_of_text_are_its_lines():
  """Whole lines, none twice; a long one is cut."""
  lines = "one\n  two\none\n\nthree \n" + "x" * 200 + "\nfour é\n"
  rows = text.rows_of(lines, 2)
  assert ["".join(text.ALPHABET[t] for t in r) for r in rows] == ["one\n  two\nthree\n", "four \n"]
  assert len(text.rows_of(lines, 3)[1]) == text.LENGTH + 1
  every = text.domains()
  assert list(every) == ["manual", "source", "names"]
  assert all(len(t) > 65 * text.ROWS for t in every.values())


def test_known_factors_rank_by_their_own_products(tmp_path):
  rows = np.load(ranking.write_rows(tmp_path))
  fit = ranking.fit()
  user, item = rows["x_test"].T
  other = np.random.default_rng(0).integers(1, ranking.ITEMS, len(item))
  above = fit[user, item] > fit[user, (item + other) % ranking.ITEMS]
  assert abs(above.mean() - ranking.known()) < 4.5 * 0.5 / np.sqrt(len(item))
  np.testing.assert_allclose(rows["y_test"], fit[user, item], rtol=1e-6)
  both = np.concatenate([rows["x_train"], rows["x_test"]])
  assert len(np.unique(both, axis=0)) == len(both) == ranking.COHORTS * ranking.USERS * ranking.CHOSEN
  assert (rows["group_train"] == rows["x_train"][:, 0] // ranking.USERS).all()
