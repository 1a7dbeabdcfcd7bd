"""Importance from reversed logits (EWC-DR), in NumPy: where the Fisher information vanishes it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import backward, batch_of, forward, gradient, leaves, log_softmax

from cljax import UsageError, models, streams
from cljax.core.types import Rows, rows_from_arrays
from cljax.estimators import fisher_diagonal
from cljax.objectives import OBJECTIVES

MODEL = models.mlp((4,), 3, hidden=(5,))
RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=(7, 4)).astype(np.float32), np.asarray([0, 1, 2, 0, 1, 2, 0], np.int32)
PARAMS = MODEL.init(jax.random.key(1))[0]
MASK = np.asarray([[True, True, True]] * 5 + [[True, False, True]] * 2)


def slope(params, x, y, mask=None):
  """``d C(-z, y) / d theta`` of one row: its slope by the logits is ``e_y - softmax(-z)``, over the classes in play."""
  z = -forward(params, x)[1]
  z = z if mask is None else np.where(mask, z, -np.inf)
  return backward(params, x, np.eye(z.shape[1])[y] - np.exp(log_softmax(z)))


def by_hand(size, mask=None):
  out, batches = {}, range(0, 7, size)
  for start in batches:
    part = range(start, min(start + size, 7))
    each = [slope(PARAMS, X[[i]], Y[[i]], None if mask is None else mask[[i]]) for i in part]
    for n in each[0]:
      out[n] = out.get(n, 0) + np.mean([g[n] for g in each], 0) ** 2 / len(batches)
  return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["reversed", "reversed_batched"])
def test_reversed_importance_squares_the_loss_of_reversed_logits(kind, masked):
  """By row, and of each batch's mean gradient, as the release squares it: other numbers by an order of magnitude."""
  rows = rows_from_arrays(X, Y)
  if masked:
    wide = jnp.asarray(np.concatenate([MASK, np.ones((9, 3), bool)]))
    read, cut = rows.batch, lambda start, size: jax.lax.dynamic_slice(wide, (start, 0), (size, 3))
    rows = Rows(7, 7, lambda start, size: read(start, size)._replace(class_mask=cut(start, size)))
  got = leaves(fisher_diagonal(MODEL, PARAMS, {}, rows, kind=kind, batch_size=3))
  want = by_hand(1 if kind == "reversed" else 3, MASK if masked else None)
  for n, f in want.items():
    np.testing.assert_allclose(got[n], f, rtol=2e-4, atol=1e-6, err_msg=n)


def test_reversed_importance_stays_where_rows_are_fitted():
  """Logits (8, 0, 0) of class 0: EWC's slope (-.0007, .0003, .0003), the reversed one (1, -.5, -.5); of logits 0 both
  are the same but for the sign; of two classes the reversed loss of a label is the loss of the other."""
  linear = models.mlp((1,), 3, hidden=())
  name = next(n for n in leaves(linear.init(jax.random.key(0))[0]) if n.endswith("bias"))
  layer = name.split("/")[0]
  at = lambda z: {layer: {"kernel": jnp.zeros((1, len(z))), "bias": jnp.asarray(z, jnp.float32)}}
  row = rows_from_arrays(np.ones((1, 1), np.float32), np.zeros(1, np.int32))
  root = lambda z, kind: np.sqrt(leaves(fisher_diagonal(linear, at(z), {}, row, kind=kind))[name])
  np.testing.assert_allclose(root([8.0, 0, 0], "empirical"), [0.0007, 0.0003, 0.0003], atol=5e-5)
  np.testing.assert_allclose(root([8.0, 0, 0], "reversed"), [1.0, 0.5, 0.5], atol=1e-3)
  np.testing.assert_allclose(root([0.0, 0, 0], "reversed"), root([0.0, 0, 0], "empirical"), rtol=1e-5)
  np.testing.assert_allclose(root([80.0, 0, 0], "empirical"), 0, atol=1e-6)
  np.testing.assert_allclose(root([80.0, 0, 0], "reversed"), [1.0, 0.5, 0.5], atol=1e-6)
  linear = models.mlp((1,), 2, hidden=())
  other = rows_from_arrays(np.ones((1, 1), np.float32), np.ones(1, np.int32))
  far = leaves(fisher_diagonal(linear, at([1.0, -0.5]), {}, other, kind="empirical"))[name]
  np.testing.assert_allclose(root([1.0, -0.5], "reversed") ** 2, far, rtol=1e-5)


def test_reversed_importance_is_of_classes_alone():
  with pytest.raises(
    UsageError, match="kind: got 'reversed', which needs classes; the objective 'regression' has none"
  ):
    fisher_diagonal(MODEL, PARAMS, {}, rows_from_arrays(X, X[:, :3]), kind="reversed",
                    learned=OBJECTIVES["regression"].make(MODEL, None, noise=1.0))  # fmt: skip


def reversed_batches(params, x, y, size, clip):
  """The mean over batches of the squared mean gradient, cut off at ``clip``."""
  out, starts = {}, range(0, len(x), size)
  for s in starts:
    part = slice(s, s + size)
    for n, g in slope(params, x[part], y[part]).items():
      out[n] = out.get(n, 0) + (g / len(x[part])) ** 2 / len(starts)
  return {n: np.minimum(f, clip) for n, f in out.items()}


def test_online_ewc_is_ewc_dr_by_its_options(class_stream, small_model):
  """After two tasks of two classes each: ``omega <- omega / 2 + omega_new / 2`` of clipped reversed importances, one
  anchor, the pull ``strength omega (theta - theta*)``."""
  clip = 2e-3
  options = {"strength": 50.0, "decay": 1.0, "fisher": "reversed_batched", "fisher_clip": clip, "merge": "average"}
  bench = Bench("online_ewc", class_stream, small_model, {**options, "fisher_batch_size": 16})
  learner, omega = bench.start(), {}
  split = class_stream.dataset.train
  for task, old in ((0, 0.0), (1, 0.5)):
    learner = bench.step(learner, *bench.arguments(task, 0))[0]
    index = np.asarray(class_stream.train[task])
    new = reversed_batches(learner.params, split.x[index], split.y[index], 16, clip)
    omega = {n: old * omega.get(n, 0) + (1 - old) * f for n, f in new.items()}
    learner = bench.boundary("end_task", learner, task)
  assert any((f == clip).any() for f in new.values())
  assert any((f < clip).any() for f in new.values())
  got = leaves(learner.opt_state.penalty.importance)
  for n, f in omega.items():
    np.testing.assert_allclose(got[n], f, rtol=2e-3, atol=1e-7, err_msg=n)
  away = learner._replace(params=jax.tree.map(lambda v: v + 0.1, learner.params))
  after, theta = leaves(bench.step(away, *bench.arguments(1, 1))[0].params), leaves(away.params)
  for n, g in gradient(away.params, *batch_of(bench, 1, 1)).items():
    np.testing.assert_allclose(after[n], theta[n] - 0.1 * (g + 50.0 * omega[n] * 0.1), atol=1e-4, err_msg=n)


def test_tasks_that_share_their_classes_are_averaged_by_their_number(dataset, small_model):
  stream = streams.build(dataset, "permuted", tasks=2)
  bench = Bench("online_ewc", stream, small_model, {"strength": 1.0, "decay": 1.0, "merge": "average"})
  first = bench.boundary("end_task", bench.start(), 0)
  second = bench.boundary("end_task", first, 1)
  alone = bench.boundary("end_task", bench.start(), 1, met=())
  read = lambda l: leaves(l.opt_state.penalty.importance)
  for n, f in read(second).items():
    np.testing.assert_allclose(f, 0.5 * read(first)[n] + 0.5 * read(alone)[n], rtol=1e-4, atol=1e-7)
