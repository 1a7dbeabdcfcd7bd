"""Rows that are not there reach an objective zeroed, with id -1: in steps, from memories, and in evaluations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import data, estimators, models, objectives, streams
from cljax.core.rows import as_rows
from cljax.evaluation import results

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 3)).astype(np.float32), 1 + RNG.uniform(size=(32, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def stream():
  group = np.arange(24) % 2
  arrays = {"x_train": X[:24], "y_train": Y[:24], "x_test": X[24:], "y_test": Y[24:]}
  rows = data.from_arrays("numbers", arrays | {"group_train": group, "group_test": np.arange(8) % 2})
  return streams.build(rows, "group", tasks=2, validation=0.0)


def seen(batch):
  """What absent rows show: 0 where they are zeroed whole and belong to nobody."""
  told = jnp.abs(batch.x).sum(1) + jnp.abs(batch.y).sum(1) + jnp.abs(batch.id + 1)
  return jnp.sum(jnp.where(batch.weight > 0, 0.0, told))


def own(price):
  """A squared error that costs ``price`` for each thing that an absent row shows."""

  def each(prediction, batch):
    return jnp.square(prediction - batch.y).sum(-1) + price * seen(batch), None

  def score(key, predict, batch):
    return seen(batch) + 0 * predict(batch)[:, 0], jnp.ones(len(batch.y))

  scores = {"seen": objectives.Score(score, better="lower")}
  return lambda model, spec, values: objectives.supervised("own", each, scores, "seen")


@pytest.mark.parametrize("method", ["er", "agem"])
def test_an_objective_sees_no_absent_row(stream, method):
  """Five rows a batch of twelve rows, a memory that is never full: the price changes nothing."""
  found = []
  for price in (0.0, 10.0):
    model, given = models.mlp((3,), 1, hidden=(4,)), {"capacity": 40}
    result = cljax.run(stream, model, method, given, objective=own(price), training=cljax.Recipe(batch_size=5))
    assert not result.scores["seen"].any(), "an evaluation fills its blocks with rows of other tasks"
    found.append(result.params_sha256)
  assert found[0] == found[1]


def test_the_importance_of_a_prediction_of_several_arrays():
  """MAS of a dict is that of its numbers side by side."""
  params = {"a": jnp.asarray(X[:3, :3]), "b": jnp.asarray(X[3:6, :2])}
  dicts = lambda p, x: cljax.Outputs({"m": x @ p["a"], "v": x @ p["b"]})
  flat = lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], 1)
  rows = as_rows("rows", (X[:6], np.zeros(6, np.int32)))
  for batched in (False, True):
    given = {"batched": batched, "batch_size": 3}
    one, other = (
      estimators.mas_importance(models.from_apply(lambda key: params, f), params, (), rows, **given)
      for f in (dicts, flat)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other)


def test_the_record_says_which_fisher_was_taken(stream):
  given = {"objective": "regression", "training": cljax.Recipe(batch_size=12)}
  result = cljax.run(stream, models.mlp((3,), 1, hidden=(4,)), "ewc", **given)
  assert result.fisher == {"method.fisher": "exact"}
  told = results.describe(result, config={}, method="ewc", stream="numbers", kind="group", seeds=[0])
  assert told["fisher"] == {"method.fisher": "exact"}


def test_a_seed_whose_main_score_is_no_number_has_no_others():
  values = np.array([[[0.2, 0.1], [0.9, 0.3], [0.8, 0.9]]] * 2)
  main = values.copy()
  main[1, -1] = np.nan
  events = [{"kind": "learn", "task": 0}, {"kind": "learn", "task": 1}]
  alone, beside = (results.matrix_metrics(values, events, beside=b)["acc"]["values"] for b in (None, main))
  np.testing.assert_allclose(alone, [0.85, 0.85])
  assert beside[0] == pytest.approx(0.85)
  assert beside[1] is None or np.isnan(beside[1])
