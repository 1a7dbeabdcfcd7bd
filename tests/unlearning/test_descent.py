"""Descents on losses of the rows to forget and to keep, against NumPy; and the losses that they are made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_by_hand import (
  FORGET,
  OTHER,
  PARAMS,
  RATE,
  RETAIN,
  W,
  X,
  Y,
  apply_fn,
  ce,
  kl,
  loss_fn,
  outer,
  softmax,
  steps_of,
)

import cljax
from cljax import losses, unlearning
from cljax.unlearning import descent, teachers

SGD = optax.sgd(RATE)


def near(value, wanted, rtol=1e-4, atol=2e-6):
  np.testing.assert_allclose(value, wanted, rtol, atol)


def length(w):
  return np.sqrt((w**2).sum())


def test_ascent_raises_the_forget_loss_to_first_order():
  """Between rate |g|^2 and that plus rate^2/2 |g|^2 L: the loss is convex, with curvature L at most |x|^2 / 2."""
  ascend = steps_of(unlearning.gradient_ascent, loss_fn, optimizer=SGD, retain=None)
  np.testing.assert_array_equal(ascend(0), W)
  g = ce(W, 0)
  near(ascend(1), W + RATE * g)
  of = lambda w: -np.log(softmax(X[0].astype(np.float64) @ w)[Y[0]])
  rise, first = of(ascend(1).astype(np.float64)) - of(W.astype(np.float64)), RATE * length(g) ** 2
  assert first < rise < first * (1 + RATE * length(X[0]) ** 2 / 4) + 1e-6


def test_a_descent_in_float16_has_its_moments_in_float32():
  """Where a gradient is 0, Adam's step is 0, not 0 / 0; elsewhere its first step is the rate."""
  params = {"w": jnp.asarray(W, jnp.float16), "unused": jnp.ones(3, jnp.float16)}
  whole = lambda p, batch: loss_fn({"w": p["w"].astype(jnp.float32)}, batch)
  edit = lambda p: unlearning.gradient_ascent(whole, p, forget=FORGET, steps=1, batch=2, optimizer=optax.adam(0.125))
  after = jax.jit(edit)(params)
  assert after["w"].dtype == jnp.float16
  np.testing.assert_array_equal(after["unused"], 1)
  g = ce(W, 0)
  moved = np.asarray(after["w"], np.float32) - np.asarray(params["w"], np.float32)
  np.testing.assert_allclose(moved[np.abs(g) > 1e-3], 0.125 * np.sign(g)[np.abs(g) > 1e-3], atol=2e-3)


def test_updates_wider_than_the_parameters_leave_their_dtype():
  """An optimizer may give float32 updates of bfloat16 parameters: ``p + u``, rounded to what p is."""
  params = {"w": jnp.asarray(W, jnp.bfloat16)}
  whole = lambda p, batch: loss_fn({"w": p["w"].astype(jnp.float32)}, batch)
  wide = optax.chain(optax.sgd(1.0), optax.stateless(lambda u, p: jax.tree.map(lambda a: 0.25 * jnp.float32(a), u)))
  of = {"steps": 1, "batch": 2, "optimizer": wide}
  down = jax.jit(lambda p: unlearning.finetune_retain(whole, p, retain=RETAIN, **of))(params)
  up = jax.jit(lambda p: unlearning.gradient_ascent(whole, p, forget=FORGET, **of))(params)
  for after, step in ((down, -0.25 * ce(W, 1)), (up, 0.25 * ce(W, 0))):
    assert after["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(after["w"], np.float32), W + step, atol=0.05)


def test_graddiff_is_descent_on_one_side_and_ascent_on_the_other():
  step = steps_of(unlearning.graddiff, loss_fn, optimizer=SGD)
  near(step(1, forget_weight=0.3, retain_weight=0.7), W - RATE * (0.7 * ce(W, 1) - 0.3 * ce(W, 0)))
  ascent = steps_of(unlearning.gradient_ascent, loss_fn, optimizer=SGD, retain=None)
  near(step(3, forget_weight=1.0, retain_weight=0.0), ascent(3), 1e-6)
  tuned = steps_of(unlearning.finetune_retain, loss_fn, optimizer=SGD, forget=None)
  near(step(3, forget_weight=0.0, retain_weight=1.0), tuned(3), 1e-6)


def test_kl_to_the_model_as_it_was_is_stationary_at_the_start():
  """To the bit, under Adam, which makes whole steps of rounding errors."""
  call = steps_of(unlearning.graddiff, loss_fn, retain_loss="kl", apply_fn=apply_fn, optimizer=optax.adam(0.1))
  np.testing.assert_array_equal(call(20, forget_weight=0.0), W)
  q, held, free = (softmax(X[1] @ w) for w in (W, call(20, retain_weight=30.0), call(20, retain_weight=0.0)))
  assert np.sum(q * np.log(q / held)) < 0.1 * np.sum(q * np.log(q / free))


@pytest.mark.parametrize("masked", [False, True])
def test_kl_divergence_and_its_gradient(masked):
  rng = np.random.default_rng(0)
  z, t = rng.normal(size=(2, 3, 5)).astype(np.float32)
  mask = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]], bool) if masked else np.ones((3, 5), bool)
  given = jnp.asarray(mask) if masked else None

  @jax.jit
  def program(z, t):
    value = lambda z, t: losses.kl_divergence(z, t, 2.0, given)
    slopes = jax.grad(lambda z, t: value(z, t).sum(), (0, 1))(z, t)
    return value(z, t), slopes, losses.distillation(z, t, 2.0, given)

  value, slopes, distilled = program(z, t)
  p, q = (np.where(mask, softmax(np.where(mask, v, -1e30) / 2), 0) for v in (z, t))
  near(value, 4 * np.sum(np.where(mask, q * np.log(np.where(mask, q / np.where(mask, p, 1), 1)), 0), -1))
  near(value, distilled)
  near(slopes[0], 2 * (p - q))
  same, (still, _), _ = program(z, z)
  for zero in (slopes[1], same, still):
    np.testing.assert_array_equal(zero, np.zeros_like(zero))


def test_wrong_labels_are_never_right_and_stay_with_their_row():
  ids = np.arange(900, dtype=np.int32)
  y = (ids % 3).astype(np.int32)
  batch = cljax.Batch(None, jnp.asarray(y), None, jnp.asarray(ids), None)
  key = jax.random.key(0)
  draw = jax.jit(lambda key, batch: descent.wrong_labels(key, batch, 4))
  labels, possible = (np.asarray(a) for a in draw(key, batch))
  assert possible.all()
  assert (labels != y).all()
  share = np.array([[(labels[y == c] == k).mean() for k in range(4)] for c in range(3)])
  np.testing.assert_allclose(share[~np.eye(3, 4, dtype=bool)], 1 / 3, atol=0.1)  # 3.7 sigma of 300
  order = np.random.default_rng(0).permutation(900)[:50]
  again, _ = draw(key, jax.tree.map(lambda a: a[order], batch))
  np.testing.assert_array_equal(again, labels[order])
  assert (np.asarray(draw(jax.random.key(1), batch)[0]) != labels).mean() > 0.4
  mask = np.tile([True, True, False, False], (900, 1)) & ((ids < 450)[:, None] | (np.arange(4) == 0))
  labels, possible = draw(key, batch._replace(class_mask=jnp.asarray(mask)))
  np.testing.assert_array_equal(possible, (ids < 450) | (y != 0))
  assert mask[np.arange(900), labels][np.asarray(possible)].all()


def test_random_labels_weigh_both_sets_as_their_union_does():
  three = {"x": np.repeat(X[1:], 3, 0), "y": np.repeat(Y[1:], 3), "id": [8, 9, 10]}
  call = steps_of(unlearning.random_labels, optimizer=SGD, retain=three)
  moved = (W - call(1)) / RATE
  wanted = [0.25 * ce(W, 0, label) + 0.75 * ce(W, 1) for label in range(4) if label != Y[0]]
  drawn = [i for i, g in enumerate(wanted) if np.allclose(moved, g, atol=1e-4)]
  assert len(drawn) == 1
  w = call(1)
  label = [c for c in range(4) if c != Y[0]][drawn[0]]
  near(call(2), w - RATE * (0.25 * ce(w, 0, label) + 0.75 * ce(w, 1)), 1e-3)  # the same label at the next step


def test_famr_ends_where_the_anchor_balances_the_pull():
  call = steps_of(unlearning.famr, optimizer=optax.sgd(0.3), retain=None)
  near(call(1, anchor=5.0), W - 0.3 * outer(0, softmax(X[0] @ W) - 0.25))
  w = call(400, anchor=0.5)
  near(length(w - W), length(outer(0, softmax(X[0] @ w) - 0.25)) / 0.5, 1e-3)
  loss = lambda w: float(losses.uniform_cross_entropy(X[:1] @ w)[0])
  assert loss(W) > loss(w) > loss(call(400, anchor=0.0))
  near(loss(call(400, anchor=0.0)), np.log(4), 1e-4)
  near(losses.uniform_cross_entropy(np.zeros((1, 4)), np.array([True, False, True, True])), np.log(3))


def test_one_point_contraction_pulls_at_constant_strength():
  step = steps_of(unlearning.one_point_contraction, optimizer=SGD)
  z = X[0] @ W
  near(step(1, forget_weight=0.5), W - RATE * (ce(W, 1) + 0.5 * outer(0, z / length(z))))
  slope = jax.jit(jax.vmap(jax.grad(losses.safe_norm)))(jnp.array([[3.0, 4.0], [3e-9, 4e-9], [0.0, 0.0]]))
  near(slope, [[0.6, 0.8], [0.6, 0.8], [0, 0]])
  before, p = softmax(z), softmax(X[0] @ step(60))
  assert -(p * np.log(p)).sum() > 0.95 * np.log(4) > -(before * np.log(before)).sum()


def test_bad_teacher_and_itself_by_hand():
  """Two steps: at the first the model is its own teacher, and only the bad one pulls."""
  call = steps_of(unlearning.bad_teacher, teacher_params={"w": OTHER}, optimizer=SGD)
  share, w = 1 / (1 + 0.5), W
  for i in (1, 2, 3):
    w = w - RATE * (share * kl(w, 0, OTHER) + (1 - share) * kl(w, 1, W))
    near(call(i, retain_fraction=0.5), w, 1e-3)
  assert teachers.ignorant(jax.random.key(0), None, lambda key: {"made by": key.dtype}).keys() == {"made by"}
  only = call(300, retain_fraction=0.0)
  near(softmax(X[0] @ only), softmax(X[0] @ OTHER), 0.05, 1e-2)


def test_stochastic_teacher_erases_then_reconstructs():
  call = steps_of(unlearning.stochastic_teacher, teacher_params={"w": OTHER}, optimizer=SGD)
  w = W
  for _ in range(2):
    w = w - RATE * kl(w, 0, OTHER, 2.0)
  near(call(0, erase_steps=2, temperature=2.0), w)
  for _ in range(2):
    w = w - RATE * (ce(w, 1) + kl(w, 1, W, 2.0))
  near(call(2, erase_steps=2, temperature=2.0), w, 1e-3)
  near(call(1, erase_steps=0, temperature=2.0), W - RATE * ce(W, 1))


def test_scrub_by_hand():
  call = steps_of(unlearning.scrub, max_steps=1, min_steps=2, optimizer=SGD)
  np.testing.assert_array_equal(call(1, max_rounds=2, ce_weight=1.0), W)
  w = W
  for i in range(8):
    if i in (0, 3):
      w = w + RATE * kl(w, 0, W, 2.0)
    else:
      w = w - RATE * (ce(w, 1) + 0.5 * kl(w, 1, W, 2.0))
    near(call(i + 1, max_rounds=2, ce_weight=1.0), w, 1e-3, 1e-5)
  np.testing.assert_array_equal(call(10, max_rounds=0, ce_weight=0.0), W)


def test_scrub_rewinds_to_the_error_of_unseen_rows():
  rng = np.random.default_rng(5)
  x, y = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 4, 40).astype(np.int32)
  y[:20] = np.argmax(x[:20] @ W, 1)
  sets = {"forget": (x[:20], y[:20]), "retain": (x[20:30], y[20:30])}
  options = {**sets, "max_steps": 2, "min_steps": 1, "max_rounds": 9, "optimizer": optax.sgd(0.5), "batch": 8}
  plain = jax.jit(lambda steps: unlearning.scrub(apply_fn, PARAMS, steps=steps, **options))
  rewound = jax.jit(
    lambda y: unlearning.scrub(apply_fn, PARAMS, steps=14, rewind=True, validation=(x[30:], y), **options)
  )
  snapshots = [np.asarray(plain(s)["w"]) for s in (3, 6, 9, 12, 14)]
  errors = np.array([(np.argmax(x[:20] @ w, 1) != y[:20]).mean() for w in snapshots])
  assert len(set(errors)) > 2
  for wrong in (0.0, 0.5):  # of the validation rows, under the last parameters
    held_y = np.argmax(x[30:] @ snapshots[-1], 1)
    held_y[: int(10 * wrong)] = (held_y[: int(10 * wrong)] + 1) % 4
    near(rewound(held_y)["w"], snapshots[np.argmin(np.abs(errors - wrong))], 1e-4, 1e-5)


@pytest.mark.parametrize(
  ("call", "options", "text"),
  [
    (unlearning.scrub, {"rewind": True}, "validation: got none; rewind needs rows"),
    (unlearning.scrub, {"max_steps": 0, "min_steps": 0}, "max_steps: got 0"),
    (unlearning.bad_teacher, {}, "teacher_params: got neither"),
    (unlearning.bad_teacher, {"teacher_params": PARAMS, "init_fn": lambda key: PARAMS}, "teacher_params: got both"),
    (unlearning.graddiff, {"retain_loss": "mse"}, "retain_loss: got 'mse'; allowed: ce, kl"),
    (unlearning.graddiff, {"retain_loss": "kl"}, "apply_fn: got none"),
    (unlearning.erase_at_the_core, {}, "apply_fn: gives no hidden activations"),
    (unlearning.erase_at_the_core, {"variant": "other"}, "variant: got 'other'"),
  ],
)
def test_wrong_arguments_are_named(call, options, text):
  with pytest.raises(cljax.UsageError, match=text):
    call(apply_fn, PARAMS, forget=FORGET, retain=RETAIN, **options)
