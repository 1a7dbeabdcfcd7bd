"""The atlas: which cells are tried again when it is started again."""

import json

import pytest
from absl import app, flags
from absl.testing import flagsaver
from etils import epath

from cljax import UsageError
from cljax.cli import tune
from experiments import _atlas_tables, atlas


@pytest.fixture
def searches(monkeypatch):
  """What each search of the atlas does: an error, or its exit code."""
  left, started = [], []

  def run(argv, stop):
    started.append(argv)
    outcome = left.pop(0)
    if isinstance(outcome, Exception):
      raise outcome
    (workdir,) = [epath.Path(w.partition("=")[2]) for w in argv if w.startswith("--workdir=")]
    found = {"methods": [{"tuned": None}], "protocol": {"name": "so"}}
    (workdir / "tune.json").write_text(json.dumps(found))
    return outcome

  monkeypatch.setattr(tune, "run", run)
  monkeypatch.setattr(_atlas_tables, "step_seconds", lambda report: 0.5)
  with flagsaver.flagsaver():
    atlas.declared()
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    yield left, started


def test_a_cell_that_was_refused_or_failed_is_tried_again_and_one_that_ended_is_not(searches, tmp_path):
  left, started = searches
  left += [UsageError("data_dir: files of 'mnist' not found"), 1, 0]
  one = lambda: atlas.one("mnist_class", "er", epath.Path(tmp_path))
  refused = one()
  assert refused["reason"].startswith("data_dir: files of 'mnist' not found")
  failed = one()
  assert (failed["reason"], failed["code"]) == ("", 1)
  assert failed["seconds"] >= refused["seconds"]
  ended = one()
  assert (ended["code"], len(started)) == (0, 3)
  assert one() == ended
  assert len(started) == 3


@pytest.mark.parametrize(
  ("given", "message"), [("--streams=mnist_clas", "streams: got 'mnist_clas'"), ("--methods=err", "unknown 'err'")]
)
def test_names_that_are_none_are_refused_before_anything_is_searched(given, message, searches):
  flags.FLAGS([__file__, given])
  with pytest.raises(app.UsageError, match=message):
    atlas.main([])
  assert not searches[1]
