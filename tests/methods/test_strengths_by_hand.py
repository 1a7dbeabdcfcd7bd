"""How far edits go by their defaults, in float64 NumPy: where ascents end, which strength a search finds."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from forgetting_by_hand import CLASSES, forgotten, near, rows
from linear_by_hand import W, X, Y, ce, numeric, outer, softmax

from cljax import methods, objectives, unlearning
from cljax.core import types
from cljax.core.types import Outputs
from cljax.unlearning import _strength
from cljax.unlearning.class_statistics import FeatureStatistics

STAYS = jnp.array([False, False, False, True])
DRAW = np.random.default_rng(21)
MANY = DRAW.normal(size=(10, 5)).astype(np.float32)
LABELS = np.array([1, 1, 1, 0, 2, 3, 0, 2, 3, 0])
SETS = {"forget": rows(MANY[:3], LABELS[:3], np.arange(3)), "retain": rows(MANY[3:], LABELS[3:], np.arange(3, 10))}


def loss(w, row):
  return -np.log(softmax(X[row] @ w)[Y[row]])


def probability(w, some):
  return np.mean([softmax(MANY[i] @ w)[LABELS[i]] for i in some])


def mean_gradient(w, some):
  return np.mean([np.outer(MANY[i], softmax(MANY[i] @ w) - np.eye(4)[LABELS[i]]) for i in some], 0)


def looked_for(forgets, start, tries):
  low, high, now = 0.0, None, start
  for _ in range(tries):
    if forgets(now):
      high = now
    else:
      low = now
    now = 2 * now if high is None else (low + high) / 2
  return low if high is None else high


@pytest.mark.parametrize(("classes", "end"), [(CLASSES, np.log(4)), (STAYS, np.log(4 / 3))])
@pytest.mark.parametrize("name", ["gradient_ascent", "famr"])
def test_an_ascent_ends_where_a_row_is_known_no_better_than_by_chance(name, classes, end):
  """The class of the row goes whole, or stays: beyond ``bound ln 4``, or ``bound ln 4/3``, it has no gradient."""
  w, moved, bound = W.astype(np.float64), 0, 0.8
  while loss(w, 0) > 0.5 * end:  # known well, at first
    w = w - 0.3 * ce(w, 0)
  first, steps, rate = w.copy(), 60, 0.1
  for _ in range(steps):
    pull = -ce(w, 0) if name == "gradient_ascent" else outer(0, softmax(X[0] @ w) - 0.25)
    below = loss(w, 0) < bound * end
    moved += below
    w = w - rate * (below * pull + (0.02 * (w - first) if name == "famr" else 0))
  assert 0 < moved < steps
  options = {"anchor": 0.02} if name == "famr" else {}
  options |= {"bound": bound, "learning_rate": rate, "steps": steps, "batch": 1, "classes": classes}
  near(forgotten(name, {"w": first}, **options)[0]["w"], w)


@pytest.mark.parametrize("whole", [True, False])
def test_iau_looks_for_its_rate(whole):
  """``theta + r [mean_f grad - mean_r grad]`` at the least rate that was tried by doubling and halving."""
  classes = jnp.arange(4) == (1 if whole else 3)
  f, r = range(3), range(3, 10)
  step = mean_gradient(W, f) - mean_gradient(W, r)
  goal = 0.25 if whole else 0.9 * probability(W, r)
  rate = looked_for(lambda s: probability(W + s * step, f) <= goal, 0.01, 14)
  assert 0 < rate < 0.01 * 2**13
  options = {"learning_rate": 0.01, "search": 14, "batch": 4, "classes": classes, **SETS}
  near(forgotten("iau", **options)[0]["w"], W + rate * step, 1e-3, 1e-4)


def test_ssd_looks_for_its_threshold():
  """alpha is halved until the rows are known no better than by chance, then raised between the last two."""
  squares = lambda some: np.mean([mean_gradient(W, [i]) ** 2 for i in some], 0)
  i_f, i_all = squares(range(3)), squares(range(10))

  def edited(t):
    alpha = 5.0 / t
    factor = np.minimum(0.8 * i_all / i_f, 1)
    return np.where(i_f > alpha * i_all, W * factor, W)

  t = looked_for(lambda t: probability(edited(t), range(3)) <= 0.25, 1.0, 8)
  assert (edited(t) != W).any()
  options = {"alpha": 5.0, "dampening": 0.8, "search": 8, "importance_batch": 2, **SETS}
  near(forgotten("ssd", **options)[0]["w"], edited(t), atol=1e-6)


def test_what_a_row_may_be_known_by():
  """``s / K`` of the share s of rows whose class goes whole, and 0.9 of the retain rows' mean p(y) for the rest."""
  loss_fn = lambda params, batch: -jax.nn.log_softmax(batch.x @ params)[jnp.arange(len(batch.y)), batch.y]
  both = rows(MANY[[0, 1, 3, 4]], LABELS[[0, 1, 3, 4]], np.arange(4))
  found = _strength.level(loss_fn, jnp.asarray(W), both, SETS["retain"], CLASSES, 3)
  np.testing.assert_allclose(found, 0.5 / 4 + 0.5 * 0.9 * probability(W, range(3, 10)), rtol=1e-5)


@pytest.mark.parametrize(
  ("at", "want", "found"), [(0.0, 0.0, True), (5.0, 5.0, True), (6.5, 6.5, True), (99.0, 32.0, False)]
)
def test_the_least_strength_that_was_tried(at, want, found):
  strength, gone = _strength.least(lambda s: s >= at, 1.0, 6)
  assert bool(gone) is found
  tries = looked_for(lambda s: s >= at, 1.0, 6)
  assert float(strength) == tries
  assert abs(tries - want) <= (2.0 if found else 0.0)


def test_streaming_edits_the_head_by_bounded_ascent():
  """The body stands still, and the objective is divided by ``1 + E|h|^2``."""
  draw = np.random.default_rng(5)
  body, head = draw.normal(size=(5, 3)), draw.normal(size=(3, 4))
  h = np.tanh(MANY @ body)
  f, kept = 0, 4  # a row of each class; what is left is one point
  while softmax(h[f] @ head)[LABELS[f]] < 0.6:
    head = head - 0.5 * np.outer(h[f], softmax(h[f] @ head) - np.eye(4)[LABELS[f]])
  one = np.eye(4)[LABELS[[f, kept]]]
  stats = FeatureStatistics(
    one.sum(0), one.T @ h[[f, kept]], np.einsum("bc,bi,bj->cij", one, h[[f, kept]], h[[f, kept]])
  )
  stats = FeatureStatistics(*(jnp.asarray(a, jnp.float32) for a in stats))

  def apply_fn(p, batch):
    z = jnp.tanh(batch.x @ p["body"])
    return Outputs(z @ p["head"], z)

  params = {"body": jnp.asarray(body, jnp.float32), "head": jnp.asarray(head, jnp.float32)}
  after, _ = unlearning.streaming(
    apply_fn, lambda p, z: z @ p["head"], params, forget=rows(MANY[:1], LABELS[:1], [0]), statistics=stats, part="head",
    classes=CLASSES, stay_weight=0.7, steps=60, batch=1, optimizer=optax.sgd(2.0),
  )  # fmt: skip
  w, at, label = head.copy(), h[kept], LABELS[kept]
  size, old, risen = 1 + h[kept] @ h[kept], softmax(h[kept] @ head), 0
  for _ in range(60):
    now = softmax(at @ w)
    g = np.outer(at, now - np.eye(4)[label] + 0.7 * (now - old))
    p = softmax(h[f] @ w)
    if p[LABELS[f]] > 0.25:
      g, risen = g - 0.5 * np.outer(h[f], p - np.eye(4)[LABELS[f]]), risen + 1
    w = w - 2.0 * g / size
  assert 0 < risen < 60
  near(after["head"], w, 1e-2, 1e-2)  # a covariance of rounding errors has a root of a thousandth
  np.testing.assert_array_equal(after["body"], params["body"])


def test_units_are_ranked_by_what_they_are_to_the_forget_rows_beyond_the_rest():
  """Fidelity on forget rows less ``contrast`` times that on retain rows; the least share that forgets is looked for."""
  kernel = W.astype(np.float64)
  for _ in range(100):
    kernel = kernel - 0.5 * mean_gradient(kernel, range(7))

  def fidelity(some):
    parts = MANY[some][:, :, None].astype(np.float64) * kernel[None]
    y = parts.sum(1)
    return np.einsum("nc,nuc->u", y, parts) ** 2 / ((parts**2).sum((0, 2)) * (y**2).sum())

  order = np.argsort(-(fidelity(range(3)) - 0.9 * fidelity(range(3, 10))))
  assert list(order) != list(np.argsort(-fidelity(range(3))))
  cut = lambda share: np.where(np.isin(np.arange(5), order[: round(5 * share)])[:, None], 0, kernel)
  known = lambda share: np.mean([softmax(MANY[i] @ cut(share))[LABELS[i]] for i in range(3)])
  level = known(0.4) + 1e-6  # of a K that is no number of classes here: what two units out reach
  share = looked_for(lambda s: known(s) <= level, 0.2, 5)
  loss_fn = lambda p, batch: (
    -jnp.take_along_axis(jax.nn.log_softmax(batch.x @ p["k"]), jnp.clip(batch.y, 0, 3)[:, None], 1)[:, 0]
    + np.log(level * 4)
  )
  params = {"k": jnp.asarray(kernel, jnp.float32)}
  after = unlearning.modhifi_u(
    lambda p, batch: {"k": batch.x}, params, **SETS, share=0.2, contrast=0.9, search=5, loss_fn=loss_fn,
    classes=CLASSES, batch=4,
  )  # fmt: skip
  near(after["k"], cut(share), 1e-6, 1e-7)
  assert (cut(share) == 0).any()


def test_slug_leaves_rows_of_a_class_that_stays_as_right_as_the_others():
  """One kernel: the least step at which at most the retain rows' share of the forget rows is right."""
  right = lambda w, some: np.mean([np.argmax(MANY[i] @ w) == LABELS[i] for i in some])
  w = W.astype(np.float64)
  for _ in range(100):
    w = w - 0.5 * mean_gradient(w, range(7))
  assert right(w, range(3)) == 1 > right(w, range(3, 10)) > 0.3
  g = mean_gradient(w, range(3))
  start = 0.1 * np.sqrt((w**2).sum() / (g**2).sum())
  goal = right(w, range(3, 10))
  r = looked_for(lambda r: right(w + r * g, range(3)) <= goal, start, 10)
  whole = looked_for(lambda r: right(w + r * g, range(3)) <= 0, start, 10)
  assert 0 < r < whole
  given = {"first_step": 0.1, "rows": 12, "batch": 4, **SETS}
  near(forgotten("slug", {"w": w}, classes=STAYS, **given)[0]["w"], w + r * g, 1e-2)
  near(forgotten("slug", {"w": w}, classes=CLASSES, **given)[0]["w"], w + whole * g, 1e-2)


def test_iau_trains_under_its_gradient_s_norm():
  """``restriction sum_tensors |d loss / d tensor|_2`` of a batch's mean loss, and its own gradient by differences."""
  bias = np.array([0.3, -0.2, 0.1, 0.5])
  apply = lambda p, state, x, *, train, key, task=None, mask=None: (types.Outputs(x @ p["w"] + p["b"], x), state)
  model = types.Model(lambda key: ({}, {}), apply)
  spec = SimpleNamespace(num_classes=4, objective=objectives.chosen("classification")(model, None, {}))
  method = methods.make("iau", model, spec, restricted=True, restriction=0.3)
  batch = SETS["retain"].batch(0, 7)
  learner = types.Learner(jnp.int32(0), jax.random.key(0), {}, {}, (), ())

  def by_hand(flat):
    w, b = flat[:20].reshape(5, 4), flat[20:]
    errors = np.stack([softmax(MANY[i] @ w + b) - np.eye(4)[LABELS[i]] for i in range(3, 10)])
    g_w, g_b = MANY[3:].astype(np.float64).T @ errors / 7, errors.mean(0)
    return 0.3 * (np.sqrt((g_w**2).sum()) + np.sqrt((g_b**2).sum()))

  params = {"w": jnp.asarray(W), "b": jnp.asarray(bias, jnp.float32)}
  term = lambda p: method.terms["gradient_norm"](jax.random.key(1), p, learner, batch, None)
  value, grads = jax.jit(jax.value_and_grad(term))(params)
  flat = np.concatenate([W.astype(np.float64).ravel(), bias])
  np.testing.assert_allclose(value, by_hand(flat), rtol=1e-5)
  want = numeric(by_hand, flat)
  near(np.concatenate([grads["w"].ravel(), grads["b"]]), want, 1e-3, 1e-5)
  assert not methods.make("iau", model, spec).terms


def test_without_classes_an_ascent_ends_where_a_row_is_less_likely_than_before():
  """``|z - y|^2 / 2`` of a row: beyond ``bound ln 4/3`` above what it was there is no gradient, however many steps."""
  x, y, w, bound, rate, moved = MANY[:1].astype(np.float64), 0.7, W[:, :1].astype(np.float64), 0.8, 0.05, 0
  squared = lambda w: 0.5 * float((x @ w).item() - y) ** 2
  start = squared(w)
  loss_fn = lambda p, batch: 0.5 * jnp.square((batch.x @ p["w"])[:, 0] - y)
  given = {"forget": rows(MANY[:1], LABELS[:1], [0]), "bound": bound, "steps": 60, "batch": 1}
  found = unlearning.gradient_ascent(
    loss_fn, {"w": jnp.float32(w)}, classes=jnp.zeros(0, bool), optimizer=optax.sgd(rate), **given
  )
  for _ in range(60):
    below = squared(w) < start + bound * np.log(4 / 3)
    moved += below
    w = w + rate * below * x.T * ((x @ w).item() - y)
  assert 0 < moved < 60
  near(np.asarray(found["w"], np.float64), w)
