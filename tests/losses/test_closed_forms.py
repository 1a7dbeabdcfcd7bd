"""Losses, slopes and dtypes in NumPy float64, written from their definitions: masks, weights, axes and zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import UsageError, losses

RNG = np.random.default_rng(5)
Z, T = RNG.normal(size=(2, 3, 5)).astype(np.float32)
MASK = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
COUNT = np.array([3, 5, 1])  # of the last, an empty one, at least 1


def log_softmax(z, mask):
  """By its definition, row by row; 0 at masked classes."""
  out = np.zeros(z.shape)
  for row, values, m in zip(out, np.asarray(z, np.float64), np.broadcast_to(mask, z.shape), strict=True):
    if m.any():
      row[m] = np.log(np.exp(values[m]) / np.exp(values[m]).sum())
  return out


def near(a, b, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def slope(fn, *args):
  return jax.grad(lambda *a: fn(*a).sum())(*map(jnp.asarray, args))


def test_masked_log_softmax_and_its_slope():
  near(losses.masked_log_softmax(jnp.asarray(Z)), log_softmax(Z, np.ones((3, 5), bool)))
  near(losses.masked_log_softmax(jnp.asarray(Z), MASK), log_softmax(Z, MASK))
  near(losses.masked_log_softmax(jnp.asarray(Z), MASK[0]), log_softmax(Z, MASK[0]))
  # sum_k c_k log p_k has the slope c - p sum c over the classes of the mask
  c = RNG.normal(size=(3, 5))
  got = slope(lambda z: jnp.asarray(c, jnp.float32) * losses.masked_log_softmax(z, MASK), Z)
  p = np.where(MASK, np.exp(log_softmax(Z, MASK)), 0)
  near(got, np.where(MASK, c - p * np.where(MASK, c, 0).sum(-1, keepdims=True), 0), atol=1e-5)
  # far logits: neither overflow nor underflow, whatever stands in a masked one
  far = np.array([[1000.0, 0.0, -1000.0, np.inf]], np.float32)
  got = losses.masked_log_softmax(jnp.asarray(far), jnp.array([True, True, True, False]))
  near(got, [[0.0, -1000.0, -2000.0, 0.0]])


def test_uniform_cross_entropy_and_its_slope():
  near(losses.uniform_cross_entropy(jnp.asarray(Z)), -log_softmax(Z, True).mean(-1))
  near(losses.uniform_cross_entropy(jnp.asarray(Z), MASK), -log_softmax(Z, MASK).sum(-1) / COUNT)
  near(slope(losses.uniform_cross_entropy, Z), np.exp(log_softmax(Z, True)) - 1 / 5)
  p = np.where(MASK, np.exp(log_softmax(Z, MASK)), 0)
  got = slope(lambda z: losses.uniform_cross_entropy(z, MASK), Z)
  near(got, np.where(MASK, p - 1 / COUNT[:, None], 0))
  near(losses.uniform_cross_entropy(jnp.zeros((1, 7))), np.log(7))


def test_binary_cross_entropy_and_its_slope():
  t = RNG.uniform(size=(3, 5))
  s = 1 / (1 + np.exp(-Z.astype(np.float64)))
  each = -(t * np.log(s) + (1 - t) * np.log(1 - s))
  near(losses.binary_cross_entropy(jnp.asarray(Z), t), each.sum(-1))
  near(losses.binary_cross_entropy(jnp.asarray(Z), t, MASK), np.where(MASK, each, 0).sum(-1))
  near(slope(lambda z: losses.binary_cross_entropy(z, t, MASK), Z), np.where(MASK, s - t, 0))


def test_safe_norm_and_its_slope():
  x = np.array([[3.0, 4.0], [0.0, 0.0], [-5.0, 12.0]], np.float32)
  near(losses.safe_norm(jnp.asarray(x)), np.sqrt(25 + 169))
  near(losses.safe_norm(jnp.asarray(x), -1), [5, 0, 13])
  near(losses.safe_norm(jnp.asarray(x), 0), np.sqrt([34, 160]))
  near(slope(lambda x: losses.safe_norm(x, -1), x), [[0.6, 0.8], [0, 0], [-5 / 13, 12 / 13]])
  near(slope(losses.safe_norm, x), x / np.sqrt(194))
  near(slope(losses.safe_norm, 1e-9 * x[:1]), [[0.6, 0.8]])  # no epsilon
  assert losses.safe_norm(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.float32


def test_group_lasso_and_its_slope():
  a, b, c = (RNG.normal(size=s).astype(np.float32) for s in ((3, 2), (2,), (4,)))
  value, slopes = jax.value_and_grad(losses.group_lasso)([{"a": a, "b": b}, (c,), (0 * a, 0 * b)])
  one, two = np.sqrt((a.astype(float) ** 2).sum() + (b.astype(float) ** 2).sum()), np.sqrt((c.astype(float) ** 2).sum())
  near(value, one + two)  # a root a group: the leaves of one group share theirs
  for got, want in zip(jax.tree.leaves(slopes), (a / one, b / one, c / two, 0 * a, 0 * b), strict=True):
    near(got, want)


def test_bregman_is_its_definition_row_by_row():
  """With a cubic potential, whose divergence is neither symmetric nor of second order."""
  p, q = RNG.uniform(0.2, 2, size=(2, 3, 4)).astype(np.float32)
  phi = lambda x: jnp.sum(jnp.array([1.0, 2.0, 3.0, 4.0]) * x**3)
  w = np.arange(1.0, 5.0)
  want = (w * (p.astype(float) ** 3 - q.astype(float) ** 3 - 3 * q.astype(float) ** 2 * (p - q))).sum(-1)
  near(losses.bregman(phi, jnp.asarray(p), jnp.asarray(q)), want, atol=1e-4)
  with pytest.raises(UsageError, match=r"^q: has shape"):
    losses.bregman(phi, jnp.asarray(p), jnp.asarray(q[:2]))


def test_potentials():
  x = np.array([0.5, 0.0, 0.25, 2.0], np.float32)
  near(losses.squared_norm(jnp.asarray(x)), 0.25 + 0.0625 + 4)
  near(losses.negative_entropy(jnp.asarray(x)), 0.5 * np.log(0.5) + 0.25 * np.log(0.25) + 2 * np.log(2))
  near(slope(losses.negative_entropy, x), np.where(x > 0, 1 + np.log(np.where(x > 0, x, 1)), 0))


def test_update_centers_weighs_rows_and_keeps_absent_classes():
  centers = RNG.normal(size=(4, 3)).astype(np.float32)
  f, y, w = RNG.normal(size=(5, 3)).astype(np.float32), np.array([0, 2, 2, 0, 3]), np.array([1.0, 0.5, 2.0, 1.0, 0.0])
  want = centers.astype(np.float64)
  for j in range(4):
    rows = [r for r in range(5) if y[r] == j]
    moved = sum((w[r] * (centers[j] - f[r].astype(float)) for r in rows), np.zeros(3))
    want[j] -= 0.3 * moved / (1 + sum(w[r] for r in rows))
  got = losses.update_centers(jnp.asarray(centers), jnp.asarray(f), jnp.asarray(y), jnp.asarray(w, jnp.float32), 0.3)
  near(got, want)
  np.testing.assert_array_equal(np.asarray(got)[[1, 3]], centers[[1, 3]])
  narrow = losses.update_centers(jnp.asarray(centers, jnp.bfloat16), jnp.asarray(f), y, jnp.asarray(w), 0.3)
  assert narrow.dtype == jnp.bfloat16
  near(narrow.astype(np.float32), want, rtol=2e-2, atol=2e-2)


def test_traced_scalars_of_another_dtype_fit():
  """Under strict promotion, as they come of a narrow schedule."""
  with jax.numpy_dtype_promotion("strict"):
    half, two = jnp.float16(0.5), jnp.float16(2)
    got = losses.update_centers(jnp.zeros((2, 5)), jnp.asarray(Z), np.array([0, 1, 1]), jnp.ones(3), half)
    near(got, 0.5 * np.stack([Z[0] / 2, (Z[1] + Z[2]) / 3]))
    want = losses.distillation(jnp.asarray(Z), jnp.asarray(T), 2.0)
    near(losses.distillation(jnp.asarray(Z), jnp.asarray(T), two), want, 0, 0)
    near(losses.kl_divergence(jnp.asarray(Z), jnp.asarray(T), two), want)


def test_no_derivative_goes_to_the_teacher():
  """Neither of the loss nor of its slope, which is what a method differentiates through that unrolls a step."""
  c = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)
  for loss in (losses.distillation, losses.kl_divergence):
    at = lambda z, t, loss=loss: jnp.sum(c * jax.grad(lambda z: loss(z, t, 2.0).sum())(z))
    first, second = jax.grad(at, (0, 1))(jnp.asarray(Z), jnp.asarray(T))
    assert np.abs(first).max() > 1e-3
    assert not np.asarray(second).any()
    assert not np.asarray(jax.grad(lambda t, loss=loss: loss(jnp.asarray(Z), t, 2.0).sum())(jnp.asarray(T))).any()


def test_center_loss_in_bfloat16_is_summed_wide():
  f, c = jnp.asarray(Z, jnp.bfloat16), jnp.asarray(T[:2], jnp.bfloat16)
  y = np.array([1, 0, 1])
  got = losses.center_loss(f, jnp.asarray(y), c)
  assert got.dtype == jnp.float32
  want = 0.5 * ((np.asarray(f, np.float64) - np.asarray(c, np.float64)[y]) ** 2).sum(-1)
  near(got, want)


def test_reduce_of_narrow_losses_is_summed_wide():
  """300 halves in bfloat16, which holds no odd number above 256."""
  each, weight = jnp.full(301, 1, jnp.bfloat16), jnp.ones(301)
  assert float(losses.reduce(each, weight)) == 1
  assert float(losses.reduce(each, jnp.arange(301) < 257.0)) == 1
  assert losses.reduce(each, weight).dtype == jnp.float32
  assert float(losses.reduce(jnp.ones(301), jnp.ones(301, jnp.bfloat16))) == 1
  w = np.array([0.5, 2.0, 1.0])
  near(losses.reduce(jnp.array([1.0, 4.0, -2.0]), jnp.asarray(w)), (0.5 + 8 - 2) / 3.5)
  near(losses.reduce(jnp.array([1.0, np.nan, 3.0]), jnp.array([1.0, 0, 1])), 2)


def contrast_by_hand(i, s, t, y, other_y, weight, other_weight):
  """Anchor i pulls the rows kept of other classes; below the line stand all kept and the mates of its own class."""
  kept = [j for j in range(len(other_y)) if other_weight[j] > 0]
  mates = [j for j in range(len(y)) if j != i and weight[j] > 0 and y[j] == y[i]]
  pulled = [j for j in kept if other_y[j] != y[i]]
  bottom = sum(np.exp(s[i, j]) for j in kept) + sum(np.exp(t[i, j]) for j in mates)
  return -np.mean([np.log(np.exp(s[i, j]) / bottom) for j in pulled]) if pulled else 0.0


def test_contrast_and_its_slope_by_differences():
  """Vectors of several axes and lengths; an anchor whose kept rows are all of its own class gives 0."""
  a, o = RNG.normal(size=(3, 2, 2)), 3 * RNG.normal(size=(4, 2, 2))
  y, other_y = np.array([0, 0, 1]), np.array([1, 1, 0, 1])
  unit = lambda v: v.reshape(len(v), -1) / np.linalg.norm(v.reshape(len(v), -1), axis=1, keepdims=True)

  def by_hand(a, weight, other_weight):
    s, t = unit(a) @ unit(o).T / 0.4, unit(a) @ unit(a).T / 0.4
    return np.array([contrast_by_hand(i, s, t, y, other_y, weight, other_weight) for i in range(3)])

  def within_by_hand(a, weight):
    t = np.exp(unit(a) @ unit(a).T / 0.4)
    there = [j for j in range(3) if weight[j] > 0]
    others = [[j for j in there if y[j] != y[i]] for i in range(3)]
    log_p = [[np.log(t[i, j] / t[i, there].sum()) for j in others[i]] for i in range(3)]
    return np.array([-np.mean(row) if row else 0.0 for row in log_p])

  value = jax.jit(lambda a, w, ow: losses.contrast(a, y, o.astype(np.float32), other_y, w, ow, 0.4))
  within = jax.jit(lambda a, w: losses.contrast_within(a, y, w, 0.4))
  given = jnp.asarray(a, jnp.float32)
  for weight, other_weight in ((np.ones(3), np.ones(4)), (np.array([1.0, 0, 1]), np.array([1.0, 1, 0, 1]))):
    near(value(given, weight, other_weight), by_hand(a, weight, other_weight), 1e-4)
    near(within(given, weight), within_by_hand(a, weight), 1e-4)
  near(value(given, np.ones(3), np.array([1.0, 1, 0, 1]))[2], 0)
  for fn, plain in (
    (lambda a: value(a, np.ones(3), np.ones(4)), lambda a: by_hand(a, np.ones(3), np.ones(4))),
    (lambda a: within(a, np.ones(3)), lambda a: within_by_hand(a, np.ones(3))),
  ):
    got, want = slope(fn, given), np.zeros_like(a)
    for at in np.ndindex(a.shape):
      step = np.zeros_like(a)
      step[at] = 1e-6
      want[at] = (plain(a + step).sum() - plain(a - step).sum()) / 2e-6
    near(got, want, 1e-3, 1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_policy_gradient_by_numpy(masked):
  """Value and slope from the answers that the documented draw gives; rows whose answers all fare alike have none."""
  rng, key, samples = np.random.default_rng(4), jax.random.key(3), 5
  logits, y = np.float32(rng.normal(size=(7, 4)) * 2), rng.integers(0, 4, size=7)
  logits[0, y[0]] += 60  # always right
  mask = np.ones((7, 4), bool)
  if masked:
    mask[np.arange(7), (y + 1) % 4] = False
  z = np.where(mask, np.float64(logits), -np.inf)
  log_p = z - np.logaddexp.reduce(z, -1, keepdims=True)
  answers = np.asarray(jax.random.categorical(key, jnp.float32(log_p), shape=(samples, 7)))
  assert mask[np.arange(7), answers].all()
  r = (answers == y).astype(float)
  spread = r.std(0)
  advantage = np.where(spread > 0, (r - r.mean(0)) / np.where(spread > 0, spread, 1), 0)
  want = -(advantage * np.take_along_axis(log_p, answers.T, 1).T).mean(0)
  given = jnp.asarray(mask) if masked else None
  f = jax.jit(lambda z: losses.policy_gradient(key, z, jnp.asarray(y), samples, given))
  np.testing.assert_allclose(f(jnp.asarray(logits)), want, rtol=1e-4, atol=1e-5)
  assert want[0] == 0
  assert np.abs(want).max() > 0.05
  one_hot = np.eye(4)[answers]  # [G, B, C]
  slope = -(advantage[..., None] * (one_hot - np.exp(log_p))).mean(0)
  got = jax.jit(jax.grad(lambda z: losses.policy_gradient(key, z, jnp.asarray(y), samples, given).sum()))(logits)
  np.testing.assert_allclose(got, slope, rtol=1e-4, atol=1e-5)
  with pytest.raises(UsageError, match="policy_gradient: samples"):
    losses.policy_gradient(key, jnp.asarray(logits), jnp.asarray(y), 1)
  with pytest.raises(UsageError, match="y: has shape"):
    losses.policy_gradient(key, jnp.asarray(logits), jnp.asarray(y[:3]))


def test_a_policy_gradient_climbs_the_reward():
  """In the mean over draws its slope is along that of the expected reward ``p(y | x)``."""
  logits, y = jnp.float32([[0.3, -0.2, 0.5]]), jnp.array([1])
  slope = jax.grad(lambda z, k: losses.policy_gradient(k, z, y, 4)[0])
  mean = jax.jit(lambda: jax.vmap(lambda i: slope(logits, jax.random.key(i)))(jnp.arange(4000)).mean(0))()[0]
  p = np.exp(np.float64(logits[0])) / np.exp(np.float64(logits[0])).sum()
  up = p[1] * (np.eye(3)[1] - p)
  cosine = -(np.asarray(mean) @ up) / np.linalg.norm(mean) / np.linalg.norm(up)
  assert cosine > 0.99
