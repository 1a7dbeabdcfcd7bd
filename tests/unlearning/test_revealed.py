"""What a method's state gives back of a deleted row: searched in every array, beside a row that it never saw."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import records

import cljax
from cljax import UsageError, engine, methods, models, streams
from cljax.engine import revealing
from experiments import _page_table, _revealed, few_rows
from experiments import revealed as table

SEEN = np.random.default_rng(0).normal(size=36)
OTHER = np.random.default_rng(1).normal(size=(5, 36))


@pytest.mark.parametrize(
  ("array", "copy", "cosine", "span"),
  [
    (np.stack([OTHER[0], SEEN]), True, 1.0, 1.0),
    (np.stack([OTHER[0], -3 * SEEN]).T, False, 1.0, 1.0),
    (np.stack([SEEN + OTHER[0], SEEN - OTHER[0]]).reshape(2, 6, 6), False, 0.7, 1.0),
    (np.stack([np.outer(SEEN, [2.0, -3.0, 0.5])]), False, 1.0, 1.0),
    (OTHER[:2], False, 0.0, 0.0),
  ],
  ids=["a copy", "scaled, as columns", "within a span", "a gradient of a kernel", "others"],
)
def test_the_search_finds_what_is_planted(array, copy, cosine, span):
  found = _revealed.search({"a": array, "n": np.arange(3)}, SEEN, 7)
  assert (found.copy, found.id) == (copy, False)
  assert found.cosine == pytest.approx(cosine, abs=0.35 if cosine < 1 else 1e-6)
  assert found.span == pytest.approx(span, abs=0.45 if span < 1 else 1e-6)
  assert _revealed.search({"n": np.asarray([1, 7])}, SEEN, 7).id


@pytest.mark.parametrize("name", ["ogd", "tag"])
def test_what_reveals_a_row_is_found_by_the_search_and_refused(name):
  """The search of the state of a run that was made to edit it, and the request as users make it."""
  found = _revealed.measured(name, records.arguments(name))
  assert found["planted"].cosine > 0.9 > 0.6 > found["control"].cosine
  whole = _revealed.data()
  stream = streams.build(whole, "class", tasks=2, forget="1:class=0")
  model = models.mlp(_revealed.SHAPE, 4, hidden=(8,))
  with pytest.raises(UsageError, match=f"forget: '{name} . ssd' keeps .*; use forget.name='retrain'"):
    engine.prepare(stream, model, name, records.arguments(name), forget="ssd")
  engine.prepare(stream, model, name, records.arguments(name), forget="retrain")
  engine.prepare(stream._replace(events=stream.events[:1]), model, name, records.arguments(name), forget="ssd")


def test_a_replay_leaves_nothing_of_the_rows_in_a_basis():
  """What the refusal points to does what it says."""
  found = _revealed.measured("ogd", records.arguments("ogd"), forget="retrain")
  assert found["planted"].cosine < 0.8
  assert found["planted"].span < 0.95


def test_a_state_is_found_wherever_it_is_nested():
  """A method of one's own that chains the projector into something else."""
  import optax

  from cljax import projectors

  chain = optax.chain(optax.trace(0.9), projectors.gpm(4))
  state = chain.init({"hidden": {"kernel": np.zeros((4, 3), np.float32)}})
  assert "span" in revealing.revealing({"mine": (state,)})
  assert revealing.revealing(optax.adam(0.1).init({"w": np.zeros(2)})) == ""

  class Kept(NamedTuple):
    rows: np.ndarray

    @property
    def reveals(self):
      return "rows of mine"

  assert revealing.revealing({"mine": [Kept(np.zeros(2))]}) == "rows of mine"
  assert cljax.UsageError is UsageError


REFUSED = {"ogd", "pca_ogd", "gpm", "sgp", "trgp", "cuber", "adam_nscl", "tag", "inflora"}


def test_the_table_of_the_docs_is_whole_and_names_what_is_refused():
  rows = _page_table.read(table.FILE)
  assert set(rows) == set(methods.METHODS), "run python -m experiments.revealed"
  assert table.table(rows) in table.PAGE.read_text()
  back = {n for n, r in rows.items() if any(w in r["survives"] for w in ("copy", "id", "reconstruction", "direction"))}
  assert back == REFUSED


@pytest.mark.parametrize("name", ["er", "ewc"])
def test_a_sample_of_the_others_gives_nothing_back(name):
  found = _revealed.measured(name, records.arguments(name))
  assert not found["planted"].copy
  assert not found["planted"].id
  assert found["planted"].cosine < 0.9


def test_what_holds_the_only_row_of_a_task_is_refused_there():
  rows = _page_table.read(few_rows.FILE)
  assert set(rows) == set(methods.METHODS), "run python -m experiments.few_rows"
  back = {n for n, r in rows.items() if r["cosine"] and float(r["cosine"]) > 0.95}
  assert back - REFUSED == set(FEW)


FEW = ("ewc", "online_ewc", "mas", "si", "hierarchical", "classp", "unified", "rwalk")


@pytest.mark.parametrize("name", FEW)
def test_a_task_of_few_rows_is_held_by_its_importance(name, make_blobs, small_model):
  """The row is the only one of its task: a request that takes it is answered by retraining alone."""
  dataset = make_blobs()
  tasks = [np.flatnonzero(dataset.train.y < 2), np.flatnonzero(dataset.train.y >= 2)[:1]]
  tests = [np.flatnonzero(dataset.test.y < 2), np.flatnonzero(dataset.test.y == dataset.train.y[tasks[1][0]])]
  plain = [cljax.Learn(0), cljax.Learn(1)]

  def made(row, forget):
    asked = cljax.Forget(ids=(int(dataset.train.id[row]),))
    stream = streams.from_tasks(dataset, tasks, tests, events=[*plain, asked])
    return engine.prepare(stream, small_model, name, forget=forget)

  with pytest.raises(UsageError, match=r"keeps importances, and those of task 1, of 1 rows \(fewer than 30\), hold"):
    made(tasks[1][0], "ssd")
  made(tasks[1][0], "retrain")
  made(tasks[0][0], "ssd")  # of 48 rows
