"""Forget edits under other objectives than classification, step by step in NumPy: one row of each set, plain SGD."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import objectives, unlearning
from cljax.core import tree
from cljax.core.types import Outputs, UsageError
from cljax.unlearning import _common
from cljax.unlearning.gs_lora import factors_of

RNG = np.random.default_rng(2)
W, TEACHER = RNG.normal(size=(2, 3, 2))
V, READER = RNG.normal(size=(2, 3, 4, 5))
ROWS = {side: (RNG.normal(size=(1, 3)), RNG.normal(size=(1, 2))) for side in ("forget", "retain")}
TOKENS = {"forget": np.array([[1, -1, 4, -1]]), "retain": np.array([[0, 2, -1, 3]])}
RATE, NOISE = 0.1, 0.5


def learned(name="regression"):
  return objectives.chosen(name, {"noise": NOISE} if name == "regression" else {})(None, None, {})


def apply_fn(params, batch):
  z = jnp.tensordot(batch.x, params["w"], 1)
  return Outputs(z, batch.x, (batch.x,))


def sides(text=False):
  y = {s: jnp.asarray(TOKENS[s], jnp.int32) if text else jnp.float32(ROWS[s][1]) for s in ROWS}
  return {s: {"x": jnp.float32(ROWS[s][0]), "y": y[s], "id": jnp.array([i])} for i, s in enumerate(ROWS)}


def loss(w, side):
  """The slope of a row's loss."""
  x, y = ROWS[side]
  return x.T @ (x @ w - y) / NOISE


def towards(w, teacher, side, temperature):
  """The slope of a row's divergence from the teacher."""
  x, _ = ROWS[side]
  return x.T @ (x @ (w - teacher)) / (NOISE * temperature)


def edited(call, w=W, text=False, **given):
  sets = sides(text)
  new = call(apply_fn, {"w": jnp.float32(w)}, **sets, key=jax.random.key(3), batch=1, optimizer=optax.sgd(RATE),
             learned=learned("sequence" if text else "regression"), **given)  # fmt: skip
  return np.asarray(new["w"], np.float64)


def test_bad_teacher_of_real_targets():
  share, w = 1 / 1.5, W.copy()
  for _ in range(2):
    w = w - RATE * (share * towards(w, TEACHER, "forget", 2.0) + (1 - share) * towards(w, W, "retain", 2.0))
  teacher = {"w": jnp.float32(TEACHER)}
  found = edited(unlearning.bad_teacher, teacher_params=teacher, retain_fraction=0.5, temperature=2.0, steps=2)
  np.testing.assert_allclose(found, w, atol=1e-5)


def test_stochastic_teacher_of_real_targets():
  w = W - RATE * towards(W, TEACHER, "forget", 1.0)
  for _ in range(2):
    w = w - RATE * (loss(w, "retain") + towards(w, W, "retain", 1.0))
  teacher = {"w": jnp.float32(TEACHER)}
  np.testing.assert_allclose(
    edited(unlearning.stochastic_teacher, teacher_params=teacher, erase_steps=1, steps=2), w, atol=1e-5
  )


def test_scrub_of_real_targets():
  """Away, towards, away, towards: the first step moves nothing."""
  w = W
  for _ in range(2):
    w = w + RATE * towards(w, W, "forget", 2.0)
    w = w - RATE * (0.7 * loss(w, "retain") + 0.5 * towards(w, W, "retain", 2.0))
  given = {"max_steps": 1, "min_steps": 1, "steps": 4, "ce_weight": 0.7, "kl_weight": 0.5, "temperature": 2.0}
  np.testing.assert_allclose(edited(unlearning.scrub, **given), w, atol=1e-5)
  with pytest.raises(UsageError, match="rewind: got True, which compares error rates; 'regression' has none"):
    edited(unlearning.scrub, **given, rewind=True, validation=sides()["forget"])


def test_graddiff_holds_the_predictions_of_real_targets():
  w = W
  for _ in range(3):
    w = w - RATE * (0.8 * towards(w, W, "retain", 1.0) - 0.1 * loss(w, "forget"))
  row = learned()
  loss_fn = lambda p, b: row.each(apply_fn(p, b).logits, b)[0]
  call = lambda apply_fn, params, **given: unlearning.graddiff(loss_fn, params, apply_fn=apply_fn, **given)
  given = {"retain_loss": "kl", "retain_weight": 0.8, "forget_weight": 0.1, "steps": 3}
  np.testing.assert_allclose(edited(call, **given), w, atol=1e-5)


def test_upcore_of_real_targets():
  """A single row is its own core."""
  w = W - RATE * (0.9 * loss(W, "retain") - 0.2 * loss(W, "forget"))
  given = {"contamination": 0.0, "forget_weight": 0.2, "retain_weight": 0.9, "steps": 1}
  np.testing.assert_allclose(edited(unlearning.upcore, **given), w, atol=1e-5)


def test_oracle_matching_takes_predictions_as_they_are(monkeypatch):
  """Of real targets no mean is taken off: ``2 (z - t)`` with t the oracles' mean."""
  monkeypatch.setitem(ROWS, "retain", ROWS["forget"])  # whichever row is drawn
  many = {"w": jnp.float32(np.stack([TEACHER, 3 * TEACHER]))}
  x, _ = ROWS["forget"]
  w = W - RATE * 2 * x.T @ (x @ (W - 2 * TEACHER))
  np.testing.assert_allclose(edited(unlearning.oracle_matching, oracle_params=many, steps=1), w, atol=1e-5)


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_teachers_of_text_are_asked_at_tokens_that_count():
  """``T^2 KL`` is a mean over the tokens of positive weight of a row."""
  share, t, x = 1 / 1.3, 2.0, ROWS["forget"][0]
  inside = (TOKENS["forget"] >= 0) / (TOKENS["forget"] >= 0).sum()
  gap = softmax(np.tensordot(x, V, 1) / t) - softmax(np.tensordot(x, READER, 1) / t)
  w = V - RATE * share * t * np.einsum("bi,blv->ilv", x, inside[..., None] * gap)
  found = edited(unlearning.bad_teacher, V, True, teacher_params={"w": jnp.float32(READER)}, temperature=t, steps=1)
  np.testing.assert_allclose(found, w, atol=1e-5)
  np.testing.assert_array_equal(found[:, 1], np.float32(V)[:, 1])


def test_oracles_of_text_are_matched_at_tokens_that_count(monkeypatch):
  monkeypatch.setitem(ROWS, "retain", ROWS["forget"])
  monkeypatch.setitem(TOKENS, "retain", TOKENS["forget"])
  x, inside = ROWS["forget"][0], (TOKENS["forget"] >= 0)[..., None]
  w = V - RATE * 2 * np.einsum("bi,blv->ilv", x, inside * np.tensordot(x, V - READER, 1))
  many = {"w": jnp.float32(READER)[None]}
  np.testing.assert_allclose(edited(unlearning.oracle_matching, V, True, oracle_params=many, steps=1), w, atol=1e-5)


def lowered(w, slope, rank=2):
  """``W - rate A A^T g``: B starts at 0, so that the first step moves B alone."""
  key = _common.key_of(jax.random.key(3), "gs_lora")
  a, b = (np.asarray(f, np.float64) for f in factors_of(tree.fold(key, "factors"), {"w": w}, rank)["w"])
  assert not b.any()
  return w - RATE * a @ (a.T @ slope)


@pytest.mark.parametrize("bound", [0.05, 50.0])
def test_gs_lora_of_real_targets_is_bounded_by_what_a_guess_costs(bound):
  """Up to ``bound |y|^2 / (2 noise)``, the loss of a prediction of 0, the forget row's loss is climbed."""
  x, y = ROWS["forget"]
  beyond = ((x @ W - y) ** 2).sum() > bound * (y**2).sum()
  assert beyond == (bound < 1)
  slope = loss(W, "retain") - (0 if beyond else 0.7) * loss(W, "forget")
  given = {"rank": 2, "forget_weight": 0.7, "bound": bound, "steps": 1}
  np.testing.assert_allclose(edited(unlearning.gs_lora, **given), lowered(np.float32(W), slope), atol=1e-5)
  with pytest.raises(UsageError, match="prototypes: got True, which needs classes; 'regression' has none"):
    edited(unlearning.gs_lora, prototypes=True)


@pytest.mark.parametrize("bound", [0.1, 3.0])
def test_gs_lora_of_text_is_bounded_by_the_log_of_the_vocabulary(bound):
  def row(side, w):
    """The mean over the tokens that count, and its slope."""
    token, there = TOKENS[side][0], TOKENS[side][0] >= 0
    p = softmax((ROWS[side][0] @ w).reshape(4, 5))
    share = there / there.sum()
    slope = share[:, None] * (p - np.eye(5)[np.maximum(token, 0)])
    return -(share * np.log(p[np.arange(4), np.maximum(token, 0)])).sum(), ROWS[side][0].T @ slope.reshape(1, 20)

  flat = V.reshape(3, 20)
  (cost, up), (_, down) = row("forget", flat), row("retain", flat)
  beyond = cost > bound * np.log(5)
  assert beyond == (bound < 1)
  read = lambda params, batch: Outputs((batch.x @ params["w"]).reshape(-1, 4, 5))
  found = unlearning.gs_lora(
    read, {"w": jnp.float32(flat)}, **sides(True), key=jax.random.key(3), batch=1, optimizer=optax.sgd(RATE), rank=2,
    forget_weight=0.7, bound=bound, steps=1, learned=learned("sequence"),
  )  # fmt: skip
  slope = down - (0 if beyond else 0.7) * up
  np.testing.assert_allclose(found["w"], lowered(np.float32(flat), slope), atol=1e-5)


def alone(call):
  """An edit that sees the forget rows alone."""
  return lambda apply_fn, params, retain, **given: call(apply_fn, params, **given)


def test_famr_of_real_targets_descends_towards_0():
  w = W
  for _ in range(2):
    w = w - RATE * (towards(w, 0 * W, "forget", 1.0) + 0.3 * (w - W))
  np.testing.assert_allclose(edited(alone(unlearning.famr), anchor=0.3, steps=2), w, atol=1e-5)


def test_famr_of_text_makes_the_tokens_that_count_uniform():
  x, there = ROWS["forget"][0], TOKENS["forget"] >= 0
  w = V
  for _ in range(2):
    gap = there[..., None] / there.sum() * (softmax(np.tensordot(x, w, 1)) - 1 / 5)
    w = w - RATE * (np.einsum("bi,blv->ilv", x, gap) + 0.3 * (w - V))
  np.testing.assert_allclose(edited(alone(unlearning.famr), V, True, anchor=0.3, steps=2), w, atol=1e-5)
