"""Estimators of a small network in NumPy float64: gradients row by row, layer inputs by index, means by class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import models
from cljax.core import tree
from cljax.core.types import Rows, UsageError, rows_from_arrays
from cljax.estimators import class_means, fisher_diagonal, layer_inputs, mas_importance

CLASSES = 3
MODEL = models.mlp((4,), CLASSES, (5,))
RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(7, 4)).astype(np.float32), np.array([0, 2, 1, 1, 0, 2, 2])
WEIGHT = np.array([1.0, 2.0, 0.0, 0.5, 1.0, 1.0, 3.0])
MASK = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 1], [0, 1, 1]], bool)


@pytest.fixture(scope="module")
def params():
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0))[0]
  return jax.tree.map(lambda s: jnp.asarray(RNG.normal(size=s.shape), jnp.float32), shapes)


def forward(params, x):
  p = {n: np.asarray(v, np.float64) for n, v in tree.by_path(params).items()}
  h = np.maximum(x.astype(np.float64) @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0)
  return p, h, h @ p["head/kernel"] + p["head/bias"]


def of_row(params, i, cotangent):
  """The gradient of ``cotangent . logits`` of row i."""
  p, h, _ = forward(params, X[i])
  back = (p["head/kernel"] @ cotangent) * (h > 0)
  x = X[i].astype(np.float64)
  return {
    "head/bias": cotangent, "head/kernel": np.outer(h, cotangent), "hidden_0/bias": back,
    "hidden_0/kernel": np.outer(x, back),
  }  # fmt: skip


def probabilities(params, masked):
  z = forward(params, X)[2]
  e = np.where(MASK, np.exp(z), 0) if masked else np.exp(z)
  return e / e.sum(-1, keepdims=True)


def score(params, p, i, label, masked):
  """``d log p(label | x_i) / d theta``: the cotangent is one-hot minus p, on the classes of the mask."""
  d = np.eye(CLASSES)[label] - p[i]
  return of_row(params, i, np.where(MASK[i], d, 0) if masked else d)


def add(total, part, w):
  return {n: total.get(n, 0) + w * v for n, v in part.items()}


def near(got, want):
  got = tree.by_path(got)
  assert set(got) == set(want)
  for n, v in want.items():
    np.testing.assert_allclose(got[n], v, rtol=2e-4, atol=1e-6, err_msg=n)


def rows(masked):
  inner = rows_from_arrays(jnp.asarray(X), jnp.asarray(Y), jnp.asarray(WEIGHT, jnp.float32))
  if not masked:
    return inner
  mask = jnp.asarray(np.concatenate([MASK, np.ones((9, CLASSES), bool)]))  # beyond the last row come empty ones

  def batch(start, size):
    return inner.batch(start, size)._replace(class_mask=jax.lax.dynamic_slice(mask, (start, 0), (size, CLASSES)))

  return Rows(7, 7, batch)


def fisher_by_hand(params, kind, masked, size):
  p, total, squares, batches = probabilities(params, masked), {}, {}, 0
  for start in range(0, 7, size):
    part = range(start, min(start + size, 7))
    mean, weight = {}, WEIGHT[list(part)].sum()
    for i in part:
      if kind == "exact":
        for c in range(CLASSES):
          squares = add(squares, {n: g**2 for n, g in score(params, p, i, c, masked).items()}, WEIGHT[i] * p[i, c])
      elif kind == "empirical":
        squares = add(squares, {n: g**2 for n, g in score(params, p, i, Y[i], masked).items()}, WEIGHT[i])
      else:
        mean = add(mean, score(params, p, i, Y[i], masked), WEIGHT[i] / weight)
    total, batches = add(total, {n: g**2 for n, g in mean.items()}, 1), batches + 1
  if kind == "batched":
    return {n: v / batches for n, v in total.items()}
  return {n: v / WEIGHT.sum() for n, v in squares.items()}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["exact", "empirical", "batched"])
def test_fisher_is_a_mean_of_squared_scores(params, kind, masked):
  got = fisher_diagonal(MODEL, params, {}, rows(masked), kind=kind, batch_size=3)
  near(got, fisher_by_hand(params, kind, masked, 3))


def test_sampled_fisher_draws_labels_by_their_probabilities(params):
  """The labels are those at which the cumulated probabilities pass the row's number of its batch."""
  key, p = jax.random.key(5), probabilities(params, True)
  numbers = np.concatenate([jax.random.uniform(jax.random.fold_in(key, i), (3,)) for i in range(3)])
  total = {}
  for i in range(7):
    label = int(np.argmax(np.cumsum(p[i]) > numbers[i]))
    total = add(total, {n: g**2 for n, g in score(params, p, i, label, True).items()}, WEIGHT[i] / WEIGHT.sum())
  near(fisher_diagonal(MODEL, params, {}, rows(True), kind="sampled", key=key, batch_size=3), total)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_mas_is_a_mean_of_absolute_slopes_of_the_squared_output(params, batched, masked):
  z, total = forward(params, X)[2], {}
  for start in range(0, 7, 3):
    whole = {}
    for i in range(start, min(start + 3, 7)):
      part = of_row(params, i, 2 * np.where(MASK[i], z[i], 0) if masked else 2 * z[i])
      whole = add(whole, part, WEIGHT[i])
      total = total if batched else add(total, {n: np.abs(g) for n, g in part.items()}, WEIGHT[i])
    total = add(total, {n: np.abs(g) for n, g in whole.items()}, 1) if batched else total
  got = mas_importance(MODEL, params, {}, rows(masked), batched=batched, batch_size=3)
  near(got, {n: v / WEIGHT.sum() for n, v in total.items()})


def test_no_rows_give_zeros(params):
  none = rows_from_arrays(jnp.asarray(X), jnp.asarray(Y), jnp.zeros(7))
  zeros = {n: np.zeros(v.shape) for n, v in tree.by_path(params).items()}
  for kind in ("exact", "batched"):
    near(fisher_diagonal(MODEL, params, {}, none, kind=kind, batch_size=3), zeros)
  near(mas_importance(MODEL, params, {}, none, batch_size=3), zeros)
  with pytest.raises(UsageError, match=r"^batch_size:"):
    mas_importance(MODEL, params, {}, none, batch_size=0)


def test_mas_of_samples_is_that_of_some_of_the_rows(params):
  """One row of the six that have weight, so the mean is that row's own, whatever its weight."""
  got = mas_importance(MODEL, params, {}, rows(False), samples=1, key=jax.random.key(2), batch_size=3)
  z = forward(params, X)[2]
  each = {i: {n: np.abs(g) for n, g in of_row(params, i, 2 * z[i]).items()} for i in np.flatnonzero(WEIGHT)}
  got = tree.by_path(got)
  assert sum(all(np.allclose(got[n], v, 1e-4, 1e-6) for n, v in of.items()) for of in each.values()) == 1


def test_layer_inputs_of_dense_layers_and_of_convolutions(params):
  found = layer_inputs(MODEL, params, {}, jnp.asarray(X))
  assert set(found) == {"hidden_0/kernel", "head/kernel"}
  np.testing.assert_allclose(found["hidden_0/kernel"], X, rtol=1e-6)
  np.testing.assert_allclose(found["head/kernel"], forward(params, X)[1], rtol=1e-4, atol=1e-5)

  model = models.cnn((5, 4, 2), CLASSES, (3,))
  p, state = model.init(jax.random.key(0))
  x = RNG.normal(size=(2, 5, 4, 2)).astype(np.float32)
  found = layer_inputs(model, p, state, jnp.asarray(x))
  kernels = {n: v.shape for n, v in tree.by_path(p).items() if n.endswith("kernel")}
  assert set(found) == set(kernels)
  (conv,) = (n for n, s in kernels.items() if len(s) == 4)
  assert kernels[conv][:3] == (3, 3, 2)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  patches = [padded[b, i : i + 3, j : j + 3].reshape(-1) for b in range(2) for i in range(5) for j in range(4)]
  np.testing.assert_allclose(found[conv], patches, rtol=1e-6)
  with pytest.raises(UsageError, match="capture"):
    layer_inputs(models.from_apply(lambda key: jnp.zeros((4, 3)), lambda p, x: x @ p), jnp.zeros((4, 3)), {}, X)


def test_class_means_in_batches_with_empty_rows():
  f = lambda x: x**2 + 1
  means, counts = class_means(f, rows(False), 5, batch_size=3)
  for c in range(5):
    at = [i for i in range(7) if Y[i] == c]
    total = sum(WEIGHT[i] for i in at)
    want = sum((WEIGHT[i] * (X[i].astype(float) ** 2 + 1) for i in at), np.zeros(4)) / (total or 1)
    np.testing.assert_allclose(means[c], want, rtol=1e-5)
    assert float(counts[c]) == total
  inverse, _ = class_means(lambda x: 1 / x, rows(False), 5, batch_size=3)  # rows that are not there are zeros to it
  want = sum(WEIGHT[i] / X[i].astype(float) for i in range(7) if Y[i] == 1) / 0.5
  np.testing.assert_allclose(inverse[1], want, rtol=1e-5)
  narrow, _ = class_means(lambda x: f(x).astype(jnp.bfloat16), rows(False), 5)
  assert narrow.dtype == jnp.float32
  holes = rows_from_arrays(jnp.asarray(np.where(WEIGHT[:, None] > 0, X, np.nan)), jnp.asarray(Y), jnp.asarray(WEIGHT))
  np.testing.assert_allclose(class_means(f, holes, 5, batch_size=3)[0], means, rtol=1e-6)
  with pytest.raises(UsageError, match=r"^batch_size:"):
    class_means(f, holes, 5, batch_size=0)
