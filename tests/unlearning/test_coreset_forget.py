"""Which of the forget rows are chosen, in NumPy; and that an edit over them sees no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import forward, log_softmax

from cljax import UsageError, models, unlearning
from cljax.core.types import rows_from_arrays
from cljax.methods.unlearning.coreset import parsed

MODEL = models.mlp((4,), 3, hidden=(5,))
RNG = np.random.default_rng(11)
X = RNG.normal(size=(16, 4)).astype(np.float32)
Y = np.asarray([0, 1, 2, 0] * 4, np.int32)
WEIGHT = np.ones(8, np.float32)
WEIGHT[5] = 0
PARAMS = jax.tree.map(lambda a: a + 0.3, MODEL.init(jax.random.key(1))[0])
FORGET, RETAIN = rows_from_arrays(X[:8], Y[:8], WEIGHT), rows_from_arrays(X[8:], Y[8:])
apply_fn = lambda params, batch: MODEL.apply(params, {}, batch.x, train=False, key=None)[0]
score = jax.jit(
  lambda params, forget, selector: unlearning.coreset_scores(
    apply_fn, params, rows_from_arrays(*forget), RETAIN, selector=selector, key=jax.random.key(3), damping=0.05, batch=8
  ),
  static_argnames=("selector",),
)


def scores(selector, at=slice(None)):
  ids = jnp.arange(8)[at]
  return np.asarray(score(PARAMS, (X[:8][at], Y[:8][at], WEIGHT[at], ids), selector))


def parts(x, y):
  h, z = forward(PARAMS, x)
  p = np.exp(log_softmax(z))
  return np.concatenate([h, np.ones((len(x), 1))], 1), p, p - np.eye(3)[y], z


def by_hand(selector):
  a, p, d, z = parts(X[:8], Y[:8])
  here = WEIGHT > 0
  if selector == "gradient":
    return np.sqrt([np.sum(np.outer(a[i], d[i]) ** 2) for i in range(8)])
  if selector == "margin":
    return -np.asarray([z[i, Y[i]] - np.delete(z[i], Y[i]).max() for i in range(8)])
  if selector == "moderate":
    out = np.zeros(8)
    for c in range(3):
      mine = np.flatnonzero((Y[:8] == c) & here)
      away = np.linalg.norm(a[:, :-1] - a[mine, :-1].mean(0), axis=1)
      out = np.where(Y[:8] == c, -np.abs(away - np.median(away[mine])), out)
    return out
  kept_a, kept_p, _, _ = parts(X[8:], Y[8:])
  a_all, p_all = np.concatenate([a[here], kept_a]), np.concatenate([p[here], kept_p])
  inputs = a_all.T @ a_all / len(a_all)
  outputs = (np.diag(p_all.sum(0)) - p_all.T @ p_all) / len(a_all)
  gradients = np.stack([np.outer(a[i], d[i]).ravel() for i in range(8)])  # with the Kronecker product formed
  return gradients @ np.linalg.solve(
    np.kron(inputs, outputs) + 0.05 * np.eye(gradients.shape[1]), gradients[here].sum(0)
  )


@pytest.mark.parametrize("selector", ["gradient", "influence", "margin", "moderate"])
def test_scores_of_forget_rows_by_hand(selector):
  got, want = scores(selector), by_hand(selector)
  np.testing.assert_allclose(got[WEIGHT > 0], want[WEIGHT > 0], rtol=2e-4, atol=2e-5)
  assert got[5] == -np.inf


@pytest.mark.parametrize("selector", ["random", "influence", "moderate"])
def test_rows_in_another_order_have_their_scores_in_that_order(selector):
  order = np.asarray([3, 0, 7, 5, 1, 2, 6, 4])
  np.testing.assert_allclose(scores(selector, order), scores(selector)[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("share", "count"), [(0.05, 1), (0.3, 3), (1.0, 7)])
def test_a_coreset_is_the_share_of_the_highest_scores(share, count):
  """Of the seven rows that are there, rounded up, at least one; weights of the others 0, in their place."""
  core = unlearning.coreset_rows(apply_fn, PARAMS, FORGET, RETAIN, share=share, damping=0.05, batch=8)
  weight = np.asarray(core.batch(0, 8).weight)
  want, there = by_hand("influence")[WEIGHT > 0], np.flatnonzero(WEIGHT)
  best = set(there[np.argsort(-want)[:count]].tolist())
  assert np.asarray(core.batch(0, 8).id).tolist() == list(range(8))
  assert {int(i) for i, w in zip(np.asarray(core.batch(0, 8).id), weight, strict=True) if w} == best
  with pytest.raises(UsageError, match=r"coreset_rows: share must be between 0 and 1; got 1\.5"):
    unlearning.coreset_rows(apply_fn, PARAMS, FORGET, RETAIN, share=1.5)
  with pytest.raises(
    UsageError, match="selector must be one of random, gradient, influence, margin, moderate; got 'x'"
  ):
    unlearning.coreset_scores(apply_fn, PARAMS, FORGET, selector="x")
  with pytest.raises(UsageError, match="retain: selector 'influence' needs the rows to keep"):
    unlearning.coreset_scores(apply_fn, PARAMS, FORGET)


def test_a_coreset_of_all_rows_is_the_edit_to_the_bit(class_stream, small_model):
  """And one of a share of it is another edit."""
  options = {"options": "steps=3, learning_rate=0.2, bound=100.0, forget_weight=1.0"}
  plain = Bench(
    "graddiff", class_stream, small_model, {"steps": 3, "learning_rate": 0.2, "bound": 100.0, "forget_weight": 1.0}
  )
  part = Bench("coreset_forget", class_stream, small_model, {**options, "share": 1.0})
  learner = plain.start()
  want = plain.forget_class(learner)[0].params
  other = part.start()._replace(params=learner.params)
  assert_same(part.forget_class(other)[0].params, want)
  few = part.forget_class(other, share=0.1)[0].params
  assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(*map(jax.tree.leaves, (few, want)), strict=True))


def test_the_edit_sees_the_chosen_rows_alone(class_stream, small_model):
  """Gradient ascent over the half of a class with the smallest margins: what the edit makes of just these."""
  options = {"edit": "gradient_ascent", "options": "steps=2, bound=100.0, learning_rate=0.1"}
  part = Bench("coreset_forget", class_stream, small_model, {**options, "selector": "margin", "share": 0.5})
  plain = Bench("gradient_ascent", class_stream, small_model, {"steps": 2, "bound": 100.0, "learning_rate": 0.1})
  learner = part.start()
  after, (gone, held) = part.forget_class(learner)
  split = class_stream.dataset.train
  z = forward(learner.params, split.x[gone])[1]
  margin = z[:, 0] - np.delete(z, 0, 1).max(1)
  chosen = gone[np.sort(np.argsort(margin, kind="stable")[: -(-len(gone) // 2)])]
  other = plain.start()._replace(params=learner.params)
  want = plain.call("forget", other, *plain.request(chosen, held))[0]
  for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(want.params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  whole = plain.forget_class(other)[0]
  assert (
    max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (after.params, whole.params)), strict=True)) > 1e-4
  )


@pytest.mark.parametrize("damping", [1e-3, 10.0])
def test_the_method_scores_with_its_own_damping(damping, class_stream, small_model, monkeypatch):
  given = []
  real = unlearning.coreset_rows

  def told(*args, damping, **more):
    jax.debug.callback(lambda d: given.append(float(d)), damping)
    return real(*args, damping=damping, **more)

  monkeypatch.setattr(unlearning, "coreset_rows", told)
  part = Bench("coreset_forget", class_stream, small_model, {"options": "steps=1", "share": 0.5, "damping": damping})
  part.forget_class(part.start())
  jax.effects_barrier()
  assert given == [pytest.approx(damping)]


def test_options_of_the_edit_are_read_from_a_line():
  assert parsed("steps=20, learning_rate=0.1, forget_loss=npo") == {
    "steps": 20, "learning_rate": 0.1, "forget_loss": "npo"}  # fmt: skip
  with pytest.raises(UsageError, match=r"method\.options: got 'steps'; expected name=value"):
    parsed("steps")
