"""Each objective's losses, weights, scores, draws, factors and divergences against float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import objectives
from cljax.core.types import Batch, Outputs, UsageError
from cljax.objectives import objective

B, L, V, K = 4, 3, 5, 2
RNG = np.random.default_rng(5)
MASK = np.asarray([[1, 1, 1, 1, 1], [1, 1, 0, 0, 1], [0, 1, 1, 0, 0], [1, 0, 0, 1, 1]], bool)


def made(name, **values):
  chosen = objectives.chosen(name)
  return chosen(None, None, {f"objective.{k}": jnp.float32(v) for k, v in values.items()})


def batch(y, weight=None, mask=None):
  weight = np.ones(B) if weight is None else weight
  rows = jnp.arange(B, dtype=jnp.int32)
  return Batch(rows, jax.tree.map(jnp.asarray, y), jnp.float32(weight), rows, rows * 0, mask)


def log_softmax(z, mask=None):
  z = np.where(np.ones_like(z, bool) if mask is None else mask, np.asarray(z, np.float64), -np.inf)
  z = z - z.max(-1, keepdims=True)
  with np.errstate(divide="ignore"):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def close(a, b, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def total(score, prediction, given):
  return np.asarray(objective.sums(score, jax.random.key(0), lambda b: jnp.asarray(prediction), given), np.float64)


def test_classification_by_hand():
  z, y = RNG.normal(size=(B, V)).astype(np.float32), np.asarray([3, 4, 1, 0], np.int32)
  z[3, 2], z[3, 0] = 9, 8  # the greatest, where the last row's mask does not let it be answered; and its label
  for mask in (None, jnp.asarray(MASK), jnp.asarray(MASK[3])):
    given = batch(y, [1, 0, 2, 1], mask)
    if mask is not None and mask.ndim == 1:
      given = given._replace(y=jnp.asarray([3, 4, 0, 0]))
    log_p = log_softmax(z, None if mask is None else np.broadcast_to(mask, z.shape))
    each, inside = made("classification").each(z, given)
    label = np.asarray(given.y)
    close(each, -log_p[np.arange(B), label])
    assert inside is None
    hits = (log_p.argmax(-1) == label) & (np.asarray(given.weight) > 0)
    assert total(made("classification").scores["accuracy"], z, given).tolist() == [hits.sum(), 3]
    weight = np.asarray(given.weight, np.float64)
    close(objective.reduced(each, inside, given), -(weight * log_p[np.arange(B), label]).sum() / weight.sum())
  one = made("classification")
  assert (one.classes, one.main) == (True, "accuracy")


WAYS = {
  "adversarial": {"accuracy": "higher", "robust_accuracy": "higher"},
  "classification": {"accuracy": "higher"},
  "contrastive": {"contrastive": "lower", "alignment": "lower"},
  "denoising": {"denoising": "lower"},
  "multi_label": {"accuracy": "higher", "exact_match": "higher", "cross_entropy": "lower"},
  "ranking": {"pair_accuracy": "higher", "bpr": "lower"},
  "reconstruction": {"negative_elbo": "lower", "reconstruction": "lower"},
  "regression": {"squared_error": "lower"},
  "sequence": {"perplexity": "lower", "accuracy": "higher"},
}


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_which_way_is_better(name):
  """What is right is better high, errors and losses low."""
  chosen = objectives.chosen(name, {"items": 5} if name == "ranking" else {})
  scores = chosen(None, None, dict.fromkeys(chosen.hyper, jnp.float32(1))).scores
  assert {score: form.better for score, form in scores.items()} == WAYS[name]


def test_drawn_classes_follow_the_open_softmax():
  z = np.tile(np.asarray([0.0, 1.0, -1.0, 2.0, 0.5], np.float32), (B, 1))
  draw = jax.jit(jax.vmap(lambda k: made("classification").sample(k, z, batch(np.zeros(B, np.int32), None, MASK)).y))
  drawn = np.asarray(draw(jax.random.split(jax.random.key(1), 3000)))
  for row in range(B):
    p = np.exp(log_softmax(z[row], MASK[row]))
    share = np.bincount(drawn[:, row], minlength=V) / len(drawn)
    assert np.abs(share - p).max() < 4.5 * np.sqrt(0.25 / len(drawn))
    assert share[~MASK[row]].sum() == 0


TOKENS = np.asarray([[0, 4, -1], [2, 2, 2], [-1, -1, 3], [-1, -1, -1]], np.int32)


@pytest.mark.parametrize("form", ["array", "weights"])
@pytest.mark.parametrize("reduction", ["tokens", "rows", "sum"])
def test_sequence_by_hand(form, reduction):
  z = RNG.normal(size=(B, L, V)).astype(np.float32)
  token, inner = np.maximum(TOKENS, 0), (TOKENS >= 0).astype(np.float64)
  if form == "weights":
    inner = np.asarray([[1, 0.5, 0], [1, 1, 2], [0, 0, 1], [0, 0, 0]])
  y = TOKENS if form == "array" else {"token": token, "weight": np.float32(inner)}
  given = batch(y, [1, 1, 0, 1])
  nll = -np.take_along_axis(log_softmax(z), token[..., None], -1)[..., 0]
  one = objectives.sequence(reduction=reduction)(None, None, {})
  loss = objective.reduced(*one.each(z, given), given)
  weight = np.asarray(given.weight, np.float64)
  sums, counts = (inner * nll).sum(-1), inner.sum(-1)
  expected = {
    "tokens": (weight * sums).sum() / (weight * counts).sum(),
    "rows": (weight * sums / np.maximum(counts, 1e-30)).sum() / weight.sum(),
    "sum": (weight * sums).sum() / weight.sum(),
  }
  close(loss, expected[reduction])
  there = weight > 0
  close(total(one.scores["perplexity"], z, given), [sums[there].sum(), counts[there].sum()])
  hits = ((z.argmax(-1) == token) * inner).sum(-1)
  close(total(one.scores["accuracy"], z, given), [hits[there].sum(), counts[there].sum()])
  assert one.scores["perplexity"].better == "lower"
  close(one.scores["perplexity"].finish(np.log(3.0)), 3.0)


def test_drawn_tokens_follow_the_softmax_and_leave_ignored_places():
  z = np.tile(np.asarray([0.0, 1.0, -1.0, 2.0, 0.5], np.float32), (B, L, 1))
  one = made("sequence")
  draw = jax.jit(jax.vmap(lambda k: one.sample(k, z, batch(TOKENS)).y))
  drawn = np.asarray(draw(jax.random.split(jax.random.key(2), 1000)))
  assert (drawn[:, TOKENS < 0] == -1).all()
  share = np.bincount(drawn[:, TOKENS >= 0].ravel(), minlength=V) / drawn[:, TOKENS >= 0].size
  assert np.abs(share - np.exp(log_softmax(z[0, 0]))).max() < 4.5 * np.sqrt(0.25 / 6000)
  kept = one.sample(jax.random.key(0), z, batch({"token": np.maximum(TOKENS, 0), "weight": np.ones((B, L))})).y
  assert set(kept) == {"token", "weight"}


def test_regression_by_hand():
  z, y = RNG.normal(size=(B, K)).astype(np.float32), RNG.normal(size=(B, K)).astype(np.float32)
  given, noise = batch(y, [1, 0, 1, 3]), 0.3
  one = made("regression", noise=noise)
  squares = (z.astype(np.float64) - y) ** 2
  weight = np.asarray(given.weight, np.float64)
  each, inside = one.each(z, given)
  close(each, squares.sum(-1) / (2 * noise))
  close(objective.reduced(each, inside, given), (weight * squares.sum(-1)).sum() / (2 * noise * weight.sum()))
  close(total(one.scores["squared_error"], z, given), [squares.mean(-1)[weight > 0].sum(), 3])
  # The information of the outputs under Gaussian noise is the identity over its variance.
  factor = np.asarray(one.factor(jnp.asarray(z), given), np.float64)
  close(np.einsum("bij,bkj->bik", factor, factor), np.tile(np.eye(K) / noise, (B, 1, 1)))
  # KL of two Gaussians of that variance; a temperature widens both.
  close(one.divergence(z, y, given, 2.0), squares.sum(-1) / (4 * noise))
  drawn = jax.jit(jax.vmap(lambda k: one.sample(k, jnp.asarray(z), given).y))(jax.random.split(jax.random.key(3), 4000))
  close(np.mean(drawn, 0), z, 0, 4.5 * np.sqrt(noise / 4000))
  close(np.var(np.asarray(drawn, np.float64), 0), np.full((B, K), noise), 0.12)


def test_one_number_a_row_may_stand_with_or_without_an_axis():
  z, y = np.float32([[1], [2], [3], [4]]), np.float32([0, 1, 1, 2])
  each, _ = made("regression").each(z, batch(y))
  close(each, [0.5, 0.5, 2, 2])
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
  made("regression").check(shape(2, 1), shape(2))
  with pytest.raises(UsageError, match="y: a row has 3 targets; the model gives 2 numbers"):
    made("regression").check(shape(2, 2), shape(2, 3))


def test_what_edits_are_given_is_a_loss_a_row():
  """A row's mean over its tokens, of what ``apply_fn`` gives."""
  z = RNG.normal(size=(B, L, V)).astype(np.float32)
  loss = objective.row_loss(made("sequence"), lambda params, batch: Outputs(params * z))
  inner = (TOKENS >= 0).astype(np.float64)
  nll = -np.take_along_axis(log_softmax(2 * z), np.maximum(TOKENS, 0)[..., None], -1)[..., 0]
  close(loss(2.0, batch(TOKENS)), (inner * nll).sum(-1) / np.maximum(inner.sum(-1), 1))


def test_groups_of_rows_have_means_of_their_own():
  """Each group's mean is over its own tokens; absent rows and what lies in a group of scale 0 count for nothing."""
  each = jnp.float32([[1, 3], [2, 5], [4, np.nan], [9, 9]])
  inside, weight = jnp.float32([[1, 1], [1, 0], [1, 1], [1, 1]]), [1, 0.5, 1, 0]
  group = jnp.int32([0, 0, 2, 1])
  given = batch(np.zeros(B), weight)._replace(group=group, scale=jnp.float32([0.7, 3.0, 0.0]))
  own = (1 + 3 + 0.5 * 2) / 2.5
  close(objective.reduced(each, inside, given), 0.7 * own)
  slope = jax.grad(lambda e: objective.reduced(e, inside, given))(each)
  close(slope, 0.7 * np.array([[1, 1], [0.5, 0], [0, 0], [0, 0]]) / 2.5)
  given = batch(np.zeros(B), [1, 0, 1, 1])._replace(group=group, scale=jnp.float32([0.5, 3.0, 2.0]))
  close(objective.reduced(jnp.float32([2, 100, 5, 7]), None, given), 0.5 * 2 + 3 * 7 + 2 * 5)
