"""Two views of a row: what is drawn, the losses on it against the pure ones, absent rows, and a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_laws import batch, check_absent, run, scored, stream_of, value_and_slope

from cljax import losses, models, objectives
from cljax.core.types import Outputs, Spec, UsageError

B, D, K = 6, 5, 4
RNG = np.random.default_rng(12)
X, W = RNG.normal(size=(B, D)).astype(np.float32), RNG.normal(size=(D, K)).astype(np.float32)
Y, WEIGHT = np.asarray([0, 1, 0, 1, 0, 1], np.int32), [1, 1, 2, 1, 0, 0]
SPEC = Spec(2, 2, (D,), np.float32, B, B, B, B, np.ones((2, 2), bool), scale=None)
model = lambda params, x, key: x @ params


def made(scale=None, **options):
  return objectives.contrastive(**options)(None, SPEC._replace(scale=scale), {})


def close(a, b, rtol=2e-5, atol=1e-6):
  np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def seen(one, given):
  """The two views that the loss shows to the model, and its value."""
  shown = []

  def look(params, x, key):
    jax.debug.callback(shown.append, x)
    return model(params, x, key)

  value, _ = value_and_slope(one, look)(W, given)
  jax.effects_barrier()
  x = np.asarray(shown[0], np.float64)
  return x[: len(x) // 2], x[len(x) // 2 :], value


@pytest.mark.parametrize("name", ["nt_xent", "supcon", "barlow_twins"])
def test_contrastive_is_its_loss_of_two_views(name):
  given, w = batch(X, Y, WEIGHT), np.float64(WEIGHT)
  one = made(loss=name, noise=0.3, drop=0.2, temperature=0.4, off_diagonal=0.1)
  first, second, value = seen(one, given)
  u, v = (jnp.asarray(a @ W, jnp.float32) for a in (first, second))
  each = {
    "nt_xent": lambda: losses.nt_xent(u, v, given.weight, 0.4),
    "supcon": lambda: losses.supcon(u, v, Y, given.weight, 0.4),
    "barlow_twins": lambda: losses.barlow_twins(u, v, given.weight, 0.1),
  }[name]()
  close(value, (w * np.asarray(each, np.float64)).sum() / w.sum())
  assert (first[:4] != second[:4]).any(1).all()


def test_default_views_are_noise_and_drops():
  wide, shown = np.tile(X[:1], (1, 400)).repeat(8, 0), []  # 8 equal rows of 2000 numbers
  for scale in (None, 0.5):
    one = made(scale, noise=0.3, drop=0.2)
    apply = lambda key, params, given: (shown.append(given.x) or Outputs(given.x), None)
    one.loss(jax.random.key(1), apply, None, batch(wide))
    x = np.asarray(shown.pop(), np.float64) * (scale or 1)
    kept, noise = x != 0, x - np.tile(wide * (scale or 1), (2, 1))
    assert abs(kept.mean() - 0.8) < 4.5 * np.sqrt(0.16 / x.size)
    assert abs(noise[kept].std() / 0.3 - 1) < 4.5 / np.sqrt(2 * kept.sum())
    assert abs(noise[kept].mean()) < 4.5 * 0.3 / np.sqrt(kept.sum())
    assert len(np.unique(x[:, :9].round(12), axis=0)) == 16  # each row and view its own


@pytest.mark.parametrize("name", ["nt_xent", "supcon", "barlow_twins"])
def test_absent_rows_are_no_negatives_and_evaluations_agree(name):
  one = made(loss=name)
  check_absent(one, model, jnp.asarray(W), batch(X, Y, WEIGHT), 4)


def test_rows_of_a_group_of_scale_0_are_no_negatives():
  given = batch(X, Y)._replace(group=jnp.asarray([0, 0, 0, 0, 1, 1]), scale=jnp.asarray([1.0, 0.0]))
  program = value_and_slope(made(), model)
  absent = program(W, given._replace(weight=jnp.float32([1, 1, 1, 1, 0, 0])))
  jax.tree.map(lambda a, b: close(a, np.asarray(b)), program(W, given), absent)
  assert program(W, given._replace(scale=jnp.ones(2)))[0] > absent[0] + 0.1


def test_scores_follow_row_ids_and_are_the_loss_and_the_distance():
  halved = lambda key, x: x * jnp.where(jax.random.bernoulli(key), 1.0, 0.5)  # keeps directions
  ids, turned = np.asarray([9, 4, 7, 1, -1, -1]), [1, 0, 3, 2, 4, 5]
  scores = scored(made(views=halved), model)(W, batch(X, Y, WEIGHT, ids=ids))
  close(scores["alignment"], [0, 4], atol=1e-10)
  u = jnp.asarray(X @ W)
  expected = losses.nt_xent(u, u, jnp.asarray(WEIGHT, jnp.float32), 0.5)
  close(scores["contrastive"], [np.asarray(expected)[:4].sum(), 4])
  totals = scored(made(), model)
  known = totals(W, batch(X, Y, WEIGHT, ids=ids))
  jax.tree.map(close, totals(W, batch(X[turned], Y, WEIGHT, ids=ids[turned])), known)
  assert totals(W, batch(X, Y, WEIGHT))["alignment"][0] != known["alignment"][0]


def test_a_run_pulls_views_together():
  rng = np.random.default_rng(4)
  x, group = rng.integers(0, 255, size=(32, D)).astype(np.uint8), np.repeat([0, 1], 16)
  stream = stream_of(x, np.zeros((32, 1), np.float32), group, 1 / 255)
  chosen = objectives.contrastive(noise=0.05, drop=0.0)
  result = run(stream, models.mlp((D,), K, hidden=(8,)), chosen, "er", hyper={"capacity": 4}, epochs=8)
  scores = result.scores["contrastive"][0]
  assert (scores[-1] < scores[0] - 0.05).all()
  assert np.isfinite(result.scores["alignment"]).all()


def test_wrong_views_are_one_line():
  whole = batch(np.ones((4, 3), np.int32))
  for options, text in (
    ({"loss": "simclr"}, "objective.loss: got 'simclr'; allowed: nt_xent, supcon, barlow_twins"),
    ({"drop": 1.5}, "objective.drop: got 1.5; expected a number of at most 1"),
    ({"views": 3}, "objective.views: got 3 of type int; expected a function"),
  ):
    with pytest.raises(UsageError) as error:
      made(**options)
    assert str(error.value) == text
  own = objectives.contrastive(views=stream_of)  # a run's identity has functions by name
  assert (own.own_code, "objective_laws.stream_of" in own.told, "0x" in own.told) == (True, True, False)
  assert "views" not in dict(objectives.chosen("contrastive").options)
  with pytest.raises(UsageError, match="got none for inputs that are no numbers"):
    value_and_slope(made(), model)(W, whole)
  with pytest.raises(UsageError, match="'supcon' needs a class number a row"):
    value_and_slope(made(loss="supcon"), model)(W, batch(X, X))
