"""Relearning: the loops against plain NumPy descent, the original and the untouched model as fixed points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.metrics import unlearning

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(5, 1)).astype(np.float32)
X = RNG.normal(size=(40, 5)).astype(np.float32)
Y = X @ TRUE
FEW, HELD = unlearning.split_forget(40, 0.25, seed=1)
ORIGINAL = {"w": jnp.asarray(TRUE)}
FORGOTTEN = {"w": jnp.zeros((5, 1))}


def loss_fn(params, rows):
  x, y = rows
  return jnp.mean((x @ params["w"] - y) ** 2)


def rows(at=slice(None)):
  return jnp.asarray(X[at]), jnp.asarray(Y[at])


@pytest.fixture(scope="module")
def relearn():
  run = lambda params, lr: unlearning.relearn(
    loss_fn, params, rows(), KEY, learning_rate=lr, epochs=6, samples=24, batch_size=8
  )
  return jax.jit(jax.vmap(run, in_axes=(0, None)))


def test_relearn_is_descent_on_rows_drawn_with_replacement(relearn):
  both = jax.tree.map(lambda *v: jnp.stack(v), ORIGINAL, FORGOTTEN)
  losses, params = relearn(both, 0.05)
  assert losses.shape == (2, 7)
  order = np.asarray(jax.random.randint(KEY, (6, 3, 8), 0, 40))
  w, want = np.zeros((5, 1)), [np.mean(Y**2)]
  for epoch in order:
    for at in epoch:
      w = w - 0.05 * 2 * X[at].T @ (X[at] @ w - Y[at]) / 8
    want.append(np.mean((X @ w - Y) ** 2))
  np.testing.assert_allclose(losses[1], want, rtol=1e-4)
  np.testing.assert_allclose(params["w"][1], w, rtol=1e-4)
  # The original model is there at once; another takes its time, and less of it at a higher rate.
  original_loss = loss_fn(ORIGINAL, rows())
  assert unlearning.relearn_time(losses, original_loss).tolist() == [0, 6]
  near = want[3] + 1e-3
  assert unlearning.relearn_time(losses, near).tolist() == [0, 3]
  assert unlearning.relearn_time(relearn(both, 0.2).losses, near)[1] < 3
  np.testing.assert_array_equal(relearn(both, 0.0).losses, np.repeat(losses[:, :1], 7, 1))


def test_epochs_to_reach():
  losses = jnp.array([[3.0, 2, 1, 2], [3, 3, 3, 3], [jnp.nan, jnp.nan, jnp.nan, 0], [0, 9, 9, 9]])
  assert unlearning.epochs_to_reach(losses, 2.0).tolist() == [1, 3, 3, 0]
  assert unlearning.epochs_to_reach(losses, jnp.array([1.0, 5, 5, -1])).tolist() == [2, 0, 3, 3]
  assert jax.jit(unlearning.epochs_to_reach)(losses[0], 1.0) == 2
  assert unlearning.relearn_time(jnp.array([1.00002, 1.000005, 1.1]), 1.0) == 1  # 1e-5 of slack
  with pytest.raises(UsageError, match="losses"):
    unlearning.epochs_to_reach(1.0, 2.0)


def test_split_is_disjoint_and_whole():
  for n, few, count in ((40, 0.05, 2), (100, 0.29, 29), (5, 0.05, 1), (2, 0.5, 1)):
    a, b = unlearning.split_forget(n, few)
    assert len(a) == count
    assert sorted([*a, *b]) == list(range(n))
    assert list(a) == sorted(a)
    assert list(b) == sorted(b)
  assert not np.array_equal(unlearning.split_forget(40, 0.5, 0)[0], unlearning.split_forget(40, 0.5, 1)[0])
  for n, few in ((1, 0.5), (40, 0.0), (40, 1.0)):
    with pytest.raises(UsageError, match="few"):
      unlearning.split_forget(n, few)


def test_attack_measures_on_held_out_rows():
  curve = lambda params, **k: unlearning.relearning_attack(
    loss_fn, loss_fn, params, rows(FEW), rows(HELD), KEY, learning_rate=0.1, **k
  )
  got = jax.jit(lambda p: curve(p, steps=5))(FORGOTTEN)
  w, want = np.zeros((5, 1)), [np.mean(Y[HELD] ** 2)]
  for _ in range(5):
    w = w - 0.1 * 2 * X[FEW].T @ (X[FEW] @ w - Y[FEW]) / len(FEW)
    want.append(np.mean((X[HELD] @ w - Y[HELD]) ** 2))
  np.testing.assert_allclose(got, want, rtol=1e-4)
  assert curve(FORGOTTEN, steps=0) == pytest.approx([want[0]])  # no step, no change
  drawn = curve(FORGOTTEN, steps=2, batch_size=3)
  at = np.asarray(jax.random.randint(KEY, (2, 3), 0, len(FEW)))[0]
  first = 0.1 * 2 * X[FEW][at].T @ Y[FEW][at] / 3
  assert drawn[1] == pytest.approx(np.mean((X[HELD] @ first - Y[HELD]) ** 2), rel=1e-4)
  gap = unlearning.recovery_gap(got, got[::-1])
  np.testing.assert_allclose(gap, np.subtract(want, want[::-1]), rtol=1e-3)
  np.testing.assert_array_equal(unlearning.recovery_gap(got, got), 0)  # of the retrained model itself


def test_what_only_the_logits_forgot_comes_back_faster():
  """A hidden layer that still knows needs a few rows; one that was never taught needs all of them."""
  wide = RNG.normal(size=(60, 30)).astype(np.float32)
  direction = RNG.normal(size=(30, 1)).astype(np.float32)
  y = np.sign(wide @ direction)
  net = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]
  loss = lambda p, rows: jnp.mean((net(p, rows[0]) - rows[1]) ** 2)
  right = lambda p, rows: jnp.mean(jnp.sign(net(p, rows[0])) == rows[1])
  few, held = unlearning.split_forget(60, 0.1)
  kept = {"in": jnp.asarray(np.repeat(direction, 4, 1)) / 5, "out": -0.1 * jnp.ones((4, 1))}
  never = {"in": jnp.asarray(RNG.normal(size=(30, 4)).astype(np.float32)) / 5, "out": -0.1 * jnp.ones((4, 1))}
  pair = jax.tree.map(lambda *v: jnp.stack(v), kept, never)
  attack = lambda p: unlearning.relearning_attack(
    loss, right, p, (wide[few], y[few]), (wide[held], y[held]), KEY, learning_rate=0.1, steps=20
  )
  ours, reference = jax.jit(jax.vmap(attack))(pair)
  assert ours[0] < 0.1
  assert unlearning.recovery_gap(ours, reference)[-1] > 0.2


def test_refusals():
  go = lambda rows=rows(), **k: unlearning.relearn(loss_fn, FORGOTTEN, rows, KEY, learning_rate=0.1, **k)
  for options in ({"epochs": 0}, {"batch_size": 0}, {"samples": 3, "batch_size": 4}):
    with pytest.raises(UsageError, match=next(iter(options))):
      go(**options)
  with pytest.raises(UsageError, match="forget"):
    go((X, Y[:3]))
  with pytest.raises(UsageError, match="forget"):
    go((X[:0], Y[:0]))
  with pytest.raises(UsageError, match="steps"):
    unlearning.relearning_attack(loss_fn, loss_fn, FORGOTTEN, rows(), rows(), KEY, learning_rate=0.1, steps=-1)
  with pytest.raises(UsageError, match="held_out"):
    unlearning.relearning_attack(loss_fn, loss_fn, FORGOTTEN, rows(), rows(slice(0)), KEY, learning_rate=0.1)
  with pytest.raises(UsageError, match="reference"):
    unlearning.recovery_gap([1.0, 2.0], [1.0])
