"""What a comparison of edits on plain rows leaves open: padding, ties, empty groups, narrow numbers, single draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import losses, unlearning
from cljax.core.tree import fold

RNG = np.random.default_rng(17)
X, Y = RNG.normal(size=(5, 3)), np.array([0, 1, 1, 0, 1], np.int32)
ROWS = np.float32(X), Y


def test_dampening_divides_in_float32_and_never_by_0():
  """100 / 3 rounded once is 33.25 in bfloat16; a third rounded first would give 33.5."""
  narrow = lambda *v: jnp.asarray(v, jnp.bfloat16)
  with jax.debug_nans(True), jax.numpy_dtype_promotion("strict"):
    got = unlearning.dampen(narrow(100, 7), narrow(3, 0), narrow(1, 0), alpha=1.0, dampening=1.0)
  np.testing.assert_array_equal(np.asarray(got, np.float32), [33.25, 7])
  with jax.debug_nans(True):
    scores = unlearning.fidelity((jnp.zeros(2), jnp.array([0.0, 1]), jnp.float32(2.0)))
  np.testing.assert_array_equal(scores, [0, 0])


def directions(p, batch):
  """Rows of length 1: NaN for the zeros behind the rows of a set."""
  return p["s"] * batch.x / jnp.linalg.norm(batch.x, axis=1, keepdims=True)


def test_what_stands_behind_the_rows_of_a_set_does_not_count():
  """Five rows in batches of four, of a model that has no answer to zeros."""
  unit = X / np.linalg.norm(X, axis=1, keepdims=True)
  params = {"s": jnp.asarray([1.0, 2.0, 3.0])}
  h = unit * [1, 2, 3]
  outputs_fn = lambda p, b: cljax.Outputs(b.x, directions(p, b))
  got = unlearning.feature_statistics(outputs_fn, params, ROWS, 2, batch=4)
  np.testing.assert_allclose(got.total, [h[c == Y].sum(0) for c in (0, 1)], rtol=1e-5)
  np.testing.assert_allclose(got.outer[1], h[Y == 1].T @ h[Y == 1], rtol=1e-5, atol=1e-6)
  loss_fn = lambda p, b: losses.cross_entropy(directions(p, b), b.y)
  squares = unlearning.squared_gradients(loss_fn, params, ROWS, batch=4)
  p = np.exp(h) / np.exp(h).sum(1, keepdims=True)
  np.testing.assert_allclose(squares["s"], (((p - np.eye(3)[Y]) * unit) ** 2).mean(0), rtol=1e-4)


def test_a_group_of_which_all_rows_go_weighs_nothing():
  groups = jnp.asarray([0, 0, 1, 2, 2], jnp.int32)
  side = lambda at: cljax.core.types.rows_from_arrays(np.float32(X[at]), Y[at], ids=np.array(at))
  weights = unlearning.group_weights(side([0, 2]), side([1, 3, 4]), groups, 3, batch=2)
  np.testing.assert_allclose(weights, [2, 0, 1])


def test_layers_that_tie_do_not_beat_each_other():
  front = lambda *pairs: unlearning.pareto_front(*map(jnp.asarray, zip(*pairs, strict=True))).tolist()
  assert front((1.0, 0.5), (2.0, 0.5)) == [True, True]  # more important, as aligned
  assert front((1.0, 0.5), (1.0, 0.2)) == [True, True]  # as important, less aligned
  assert front((1.0, 0.5), (2.0, 0.4), (3.0, 0.9)) == [False, True, True]


def test_the_cost_of_lists():
  shard = unlearning.shard_of(np.arange(6), 2)
  left = [i for i in range(6) if i != 2]
  want = sum(shard[i] == shard[2] for i in left) / 5
  assert unlearning.sisa_cost(list(range(6)), [i == 2 for i in range(6)], 2) == pytest.approx(want)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_fisher_forgetting_for_one_key(variant):
  """Each tensor's own draw; importances of which the inverse is beyond and below both caps."""
  shapes = {"a": (3, 4), "b": (4,), "head": (4, 2), "tail": (2,)}
  params, fisher = ({n: RNG.normal(size=s) for n, s in shapes.items()} for _ in range(2))
  fisher = {n: np.geomspace(1e-4, 1, v.size).reshape(v.shape) for n, v in fisher.items()}
  single = lambda t: {n: jnp.asarray(v, jnp.float32) for n, v in t.items()}
  apply_fn = lambda p, b: jnp.tanh(b.x @ p["a"] + p["b"]) @ p["head"] + p["tail"]
  got = unlearning.fisher_forgetting(
    apply_fn,
    single(params),
    retain=ROWS,
    key=jax.random.key(4),
    alpha=0.01,
    classes=np.array([True, False]),
    variant=variant,
    importance=lambda *_: single(fisher),
  )
  for n, shape in shapes.items():
    noise = np.asarray(jax.random.normal(fold(fold(jax.random.key(4), "fisher_forgetting"), n), shape), np.float64)
    v, mean = np.minimum(1 / (fisher[n] + 1e-8), 1e3), params[n].copy()
    if variant == "paper":
      v = 0.01 * v
    else:
      head = shape[-1] == 2
      v = 0.01 * np.minimum(v, 1e2 if head else 1e3)
      if len(shape) > 1:
        v = np.broadcast_to(v.mean(0), shape).copy()
      if head:
        mean[..., 0], v[..., 0] = 0, 1e-4
      v = v * (10 if head or len(shape) == 1 else 1)
    np.testing.assert_allclose(got[n], mean + np.sqrt(v) * noise, rtol=1e-4, atol=1e-6)
