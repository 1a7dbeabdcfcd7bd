"""BPR: who is drawn, losses and scores on it against float64 NumPy, absent rows, and a run on known factors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_laws import batch, check_absent, run, scored, stream_of, value_and_slope

from cljax import models, objectives
from cljax.core.types import Outputs, UsageError

USERS, ITEMS, B = 4, 5, 6
RNG = np.random.default_rng(20)
S = RNG.normal(size=(USERS, ITEMS)).astype(np.float32) * 2
X = np.stack([RNG.integers(USERS, size=B), RNG.integers(ITEMS, size=B)], 1).astype(np.int32)
WEIGHT, IDS = np.float64([1, 2, 1, 1, 0, 0]), np.asarray([7, 3, 11, 0, -1, -1])
model = lambda params, x, key: params[x[:, 0], x[:, 1]][:, None]


def made(negatives=3):
  return objectives.ranking(items=ITEMS, negatives=negatives)(None, None, {})


def close(a, b, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def rows_shown(given, key, negatives=3):
  """The pairs that the model is applied on, ``[1 + negatives, B, 2]``."""
  shown = []
  apply = lambda key, params, given: (shown.append(given.x) or Outputs(jnp.zeros(len(given.x))), None)
  made(negatives).loss(key, apply, None, given)
  return np.asarray(shown[0]).reshape(1 + negatives, -1, 2)


def test_bpr_of_a_batch_by_hand():
  given = batch(X, weight=WEIGHT, ids=IDS)
  pairs = rows_shown(given, jax.random.key(7))[:, :4]
  s = S.astype(np.float64)[pairs[..., 0], pairs[..., 1]]
  gap, w = s[0] - s[1:], WEIGHT[:4]
  value, slope = value_and_slope(made(), model)(S, given)
  close(value, (w * np.log1p(np.exp(-gap)).mean(0)).sum() / w.sum())
  expected, pull = np.zeros(S.shape), -w / (w.sum() * 3) / (1 + np.exp(gap))
  for k in range(3):
    np.add.at(expected, tuple(pairs[0].T), pull[k])
    np.add.at(expected, tuple(pairs[k + 1].T), -pull[k])
  close(slope, expected)


def test_scores_of_pairs_by_hand():
  """With as many negatives as a law of large numbers takes: the AUC over all other items. A tie is one half."""
  given = batch(X, weight=WEIGHT, ids=IDS)
  tied = S.copy()
  tied[X[0, 0]] = 1.0
  many = scored(made(2000), model)(tied, given)
  there = X[:4]
  others = [np.delete(tied[u].astype(np.float64), i) for u, i in there]
  own = [float(tied[u, i]) for u, i in there]
  auc = [np.mean((o > a) + 0.5 * (o == a)) for o, a in zip(own, others, strict=True)]
  close(many["pair_accuracy"], [sum(auc), 4], 0, 4 * 4.5 * np.sqrt(0.25 / 2000))
  loss = [np.mean(np.log1p(np.exp(a - o))) for o, a in zip(own, others, strict=True)]
  close(many["bpr"], [sum(loss), 4], 0, 0.5)
  few, turned = scored(made(), model), [2, 0, 1, 3, 5, 4]
  known = few(S, given)
  jax.tree.map(close, few(S, batch(X[turned], weight=WEIGHT[turned], ids=IDS[turned])), known)
  assert few(S, batch(X, weight=WEIGHT))["bpr"][0] != known["bpr"][0]


def test_negatives_are_uniform_over_the_other_items():
  given = batch(np.tile([[1, 2]], (400, 1)).astype(np.int32))
  drawn = rows_shown(given, jax.random.key(0), 5)
  assert (drawn[0] == [1, 2]).all()
  assert (drawn[..., 0] == 1).all()
  share = np.bincount(drawn[1:, :, 1].ravel(), minlength=ITEMS) / 2000
  assert share[2] == 0
  assert np.abs(np.delete(share, 2) - 0.25).max() < 4.5 * np.sqrt(0.1875 / 2000)


def test_absent_pairs_are_as_if_absent():
  check_absent(made(), model, jnp.asarray(S), batch(X, weight=WEIGHT), 4)


def test_a_matrix_factorisation_is_its_formula():
  one = models.matrix_factorisation(USERS, ITEMS, 3)
  params, state = one.init(jax.random.key(0))
  params = {**params, "bias": jnp.arange(ITEMS, dtype=jnp.float32)}
  out, _ = one.apply(params, state, X, train=True, key=None)
  p, q = (np.asarray(params[n], np.float64) for n in ("user", "item"))
  close(out.logits[:, 0], np.einsum("bd,bd->b", p[X[:, 0]], q[X[:, 1]]) + X[:, 1])
  close(out.features.sum(-1) + X[:, 1], out.logits[:, 0])
  assert (p.shape, q.shape) == ((USERS, 3), (ITEMS, 3))
  wide = models.matrix_factorisation(2000, 2, 10).init(jax.random.key(1))[0]["user"]
  close(np.std(np.asarray(wide)), 0.1, 4.5 / np.sqrt(2 * wide.size))
  with pytest.raises(UsageError, match="users: got 0; expected an integer of at least 1"):
    models.matrix_factorisation(0, 2)


def test_a_run_ranks_known_factors():
  """A user of each of four kinds likes its quarter of the items; of the 15 others it likes 3 as much, so that the best
  AUC is 0.9."""
  rng = np.random.default_rng(6)
  x = rng.permutation(np.asarray([(u, i) for u in range(16) for i in range(16) if i % 4 == u % 4], np.int32))
  stream = stream_of(x, np.zeros((len(x), 1), np.float32), (x[:, 0] >= 8).astype(int), None)
  one = models.matrix_factorisation(16, 16, 4)
  options = {"items": 16, "negatives": 4}
  result = run(stream, one, "ranking", "er", hyper={"capacity": 24}, objective_options=options, epochs=20, rate=0.1)
  accuracy = result.scores["pair_accuracy"][0]
  assert accuracy[0].mean() < 0.65
  assert accuracy[-1].mean() > 0.75
  assert np.isfinite(result.scores["bpr"]).all()


def test_wrong_rankings_are_one_line():
  for options, text in (
    ({}, "objective.items: not given; expected an integer of at least 2"),
    ({"items": 1}, "objective.items: got 1; expected an integer of at least 2"),
    ({"items": True}, "objective.items: got True; expected an integer of at least 2"),
    ({"items": 3, "negatives": 1.0}, "objective.negatives: got 1.0; expected an integer of at least 1"),
  ):
    with pytest.raises(UsageError) as error:
      objectives.ranking(**options)
    assert str(error.value) == text
  with pytest.raises(UsageError, match=r"x: a row has shape \(3,\); ranking expects two integers"):
    value_and_slope(made(), model)(S, batch(np.zeros((2, 3), np.int32)))
  with pytest.raises(UsageError, match=r"model: gives \(5,\) for a row; ranking expects one score"):
    value_and_slope(made(), lambda params, x, key: params[x[:, 0]])(S, batch(X))
