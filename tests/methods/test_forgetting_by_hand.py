"""Each registered answer to a Forget event on models of one's own: its steps by its own optimizer, in float64 NumPy.

With one row to forget and one to keep every random batch is that row, so that the steps are exactly known.
"""

from __future__ import annotations

import functools
import types as python

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from linear_by_hand import OTHER, PARAMS, W, X, Y, ce, kl, outer, softmax

from cljax import methods, tree, types
from cljax.unlearning._common import drawn, key_of
from cljax.unlearning.gs_lora import factors_of
from cljax.unlearning.matching import random_subset

KEY = jax.random.key(3)
RATE = 0.05


def rows(x, y, ids):
  return types.rows_from_arrays(x, y, ids=jnp.asarray(ids, jnp.int32))


FORGET, RETAIN = rows(X[:1], Y[:1], [7]), rows(X[1:], Y[1:], [8])
CLASSES = jnp.array([False, True, False, False])


def linear(x, params):
  z = x @ params["w"]
  return types.Outputs(z, x)


def deep(x, params):
  """Three linear layers."""
  h = x @ params["a"]
  f = h @ params["b"]
  return types.Outputs(f @ params["c"], f, (h, f))


DRAW = np.random.default_rng(11)
DEEP = {k: DRAW.normal(size=s) * 0.7 for k, s in {"a": (5, 3), "b": (3, 3), "c": (3, 4)}.items()}


def model_of(forward, initial):
  """A model that is asked in eval mode alone."""

  def apply(params, state, x, *, train, key, task=None, mask=None):
    assert not train
    return forward(x, params), state

  return types.Model(lambda key: (initial, {}), apply)


MODEL = model_of(linear, {"w": jnp.asarray(OTHER)})
DEEP_MODEL = model_of(deep, None)


def forgotten(name, params=PARAMS, *, model=MODEL, forget=FORGET, retain=RETAIN, groups=None, state=(), **options):
  """The parameters, in float64, and the method's state after a registered method has answered a request."""

  def program(params, state):
    method = methods.make(name, model, python.SimpleNamespace(num_classes=4), **options)
    learner = types.Learner(jnp.int32(9), KEY, params, {}, "momentum", state)
    request = types.Request(forget, retain, None, CLASSES, groups)
    tools = types.Tools(None, None, lambda learner: learner._replace(opt_state="fresh"))
    after = method.forget(KEY, learner, request, tools)
    assert after.opt_state == "fresh"  # momentum holds gradients of the rows that are gone
    return after.params, after.method_state

  params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
  after, state = jax.jit(program)(params, state)
  return jax.tree.map(lambda a: np.asarray(a, np.float64), after), state


@functools.partial(jax.jit, static_argnames=("size", "names"))
def ids_of(key, sets, size, names):
  """The ids of the rows that a step draws."""
  given = {n: rows(*sets[n]) for n in names}
  return [some.id for some in drawn(key, size, **given)]


def near(value, want, rtol=1e-3, atol=2e-5):
  np.testing.assert_allclose(value, want, rtol, atol)


def sgd(w, gradient, steps, rate=RATE):
  for i in range(steps):
    w = w - rate * gradient(w, i)
  return w


def adam(w, gradient, steps, rate=RATE, decay=0.0):
  w = w.astype(np.float64)
  m = v = 0.0 * w
  for i in range(steps):
    g = gradient(w, i)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    w = w - rate * (m / (1 - 0.9 ** (i + 1)) / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8) + decay * w)
  return w


def slope(f, w, eps=1e-5):
  """The gradient of ``f`` by central differences."""
  out = np.zeros(w.size)
  for i, e in enumerate(eps * np.eye(w.size)):
    out[i] = (f(w + e.reshape(w.shape)) - f(w - e.reshape(w.shape))) / (2 * eps)
  return out.reshape(w.shape)


def loss(z, label):
  z = z - z.max()
  return np.log(np.exp(z).sum()) - z[label]


def divergence(teacher, z):
  """``KL(softmax(teacher) || softmax(z))``."""
  p, q = softmax(teacher), softmax(z)
  return (p * np.log(p / q)).sum()


LR = {"learning_rate": RATE, "batch": 2}
STARTS = W.astype(np.float64)


def entropy_pull(w, i):
  return outer(0, softmax(X[0] @ w) - 0.25)


def contraction(w, i):
  z = X[0] @ w
  return ce(w, 1) + 0.7 * outer(0, z / np.sqrt((z**2).sum()))


def scrubbed(w, i):
  """A round is one step away and two back; away in the first two rounds."""
  if i % 3 == 0 and i < 6:
    return -kl(w, 0, W, 2.0) if i else 0.0 * w  # at first it is where it was: Adam would blow up a rounding
  return 0.8 * ce(w, 1) + 0.5 * kl(w, 1, W, 2.0)


def erased(w, i):
  return kl(w, 0, OTHER, 2.0) if i < 2 else ce(w, 1) + kl(w, 1, W, 2.0)


def two_teachers(w, i):
  share = 1 / (1 + 0.5)
  return share * kl(w, 0, OTHER, 1.5) + (1 - share) * kl(w, 1, W, 1.5)


CASES = {
  "finetune_retain": (sgd, lambda w, i: ce(w, 1), {"steps": 3}),
  "gradient_ascent": (sgd, lambda w, i: -ce(w, 0), {"steps": 3}),
  "graddiff": (
    sgd, lambda w, i: 0.7 * ce(w, 1) - 0.3 * ce(w, 0), {"steps": 3, "forget_weight": 0.3, "retain_weight": 0.7},
  ),
  "graddiff-kl": (
    sgd, lambda w, i: 0.7 * kl(w, 1, W) - 0.3 * ce(w, 0),
    {"steps": 3, "forget_weight": 0.3, "retain_weight": 0.7, "retain_loss": "kl"},
  ),
  "bad_teacher": (adam, two_teachers, {"steps": 3, "retain_fraction": 0.5, "temperature": 1.5}),
  "stochastic_teacher": (adam, erased, {"steps": 2, "erase_steps": 2, "temperature": 2.0}),
  "scrub": (
    adam, scrubbed, {"steps": 8, "max_steps": 1, "min_steps": 2, "max_rounds": 2, "ce_weight": 0.8, "kl_weight": 0.5},
  ),
  "famr": (adam, lambda w, i: entropy_pull(w, i) + 0.3 * (w - STARTS), {"steps": 4, "anchor": 0.3}),
  "one_point_contraction": (adam, contraction, {"steps": 3, "forget_weight": 0.7}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_registered_descents_by_hand(case):
  optimizer, gradient, options = CASES[case]
  steps = options["steps"] + options.get("erase_steps", 0)
  after = forgotten(case.partition("-")[0], **options, **LR)[0]["w"]
  want = optimizer(STARTS, gradient, steps)
  assert np.abs(want - W).max() > 0.02
  near(after, want)


def test_random_labels_by_hand():
  """One of the three wrong labels, and the same at each step."""
  options = {"forget": FORGET, "retain": rows(np.repeat(X[1:], 3, 0), np.repeat(Y[1:], 3), [8, 9, 10])}
  after = forgotten("random_labels", steps=3, **options, **LR)[0]["w"]
  fits = [
    np.abs(adam(STARTS, lambda w, i, c=c: 0.25 * ce(w, 0, c) + 0.75 * ce(w, 1), 3) - after).max() for c in range(4)
  ]
  assert np.argmin(fits) != Y[0]
  assert sorted(fits)[0] < 1e-4 < 1e-2 < sorted(fits)[1]


@pytest.mark.parametrize(("constraint", "history"), [("descent", 1), ("orthogonal", 0)])
def test_geometric_disentanglement_by_hand(constraint, history):
  """Against SciPy: the nearest update with ``<g_r, d> <= 0``, or 0, for this gradient and those before it."""
  a, b, w, past = 0.6, 0.2, STARTS, []
  for _ in range(4):
    past = [*past, ce(w, 1).ravel()][-1 - history :]
    basis, d = np.stack(past, 1), RATE * a * ce(w, 0).ravel()
    solve = scipy.optimize.nnls if constraint == "descent" else lambda m, v: np.linalg.lstsq(m, v, rcond=None)
    d = d - basis @ solve(basis, d)[0]
    w = w + d.reshape(w.shape) - RATE * b * ce(w, 1)
  options = {"forget_weight": a, "retain_weight": b, "constraint": constraint, "history": history, "steps": 4}
  near(forgotten("geometric_disentanglement", **options, **LR)[0]["w"], w)


def test_adaptive_orthogonality_by_hand():
  """``b L_r - a L_f + strength AO`` by differences, once with gradients in conflict and once without."""
  a, b, strength, gamma = 0.4, 0.8, 0.6, 1.5
  options = {"forget_weight": a, "retain_weight": b, "strength": strength, "gamma": gamma, "steps": 2}
  for sign in (1.0, -1.0):
    x = np.stack([X[0], sign * X[0] + 0.1 * X[1]]).astype(np.float32)
    y = np.array([1, 1 if sign > 0 else 2])
    grad = lambda w, row, x=x, y=y: np.outer(x[row], softmax(x[row] @ w) - np.eye(4)[y[row]])
    conflicts = []

    def objective(w, x=x, y=y, grad=grad, conflicts=conflicts):
      u, v = -grad(w, 0).ravel(), grad(w, 1).ravel()
      cosine = u @ v / np.sqrt(u @ u) / np.sqrt(v @ v)
      conflicts.append(cosine < 0)
      penalty = ((1 - cosine) / 2) ** gamma if cosine < 0 else 0.0
      return b * loss(x[1] @ w, y[1]) - a * loss(x[0] @ w, y[0]) + strength * penalty

    want = sgd(STARTS, lambda w, i, f=objective: slope(f, w), 2)
    assert np.all(conflicts) or not np.any(conflicts)
    sets = {"forget": rows(x[:1], y[:1], [7]), "retain": rows(x[1:], y[1:], [8])}
    near(forgotten("adaptive_orthogonality", **sets, **options, **LR)[0]["w"], want, atol=1e-4)


def test_unsir_by_hand():
  """Noise is learned by Adam at 0.1 on the class; then both are trained on, then the retain row alone."""
  noise_rows, noise_steps, penalty, steps = 3, 4, 0.2, 2
  n = np.asarray(jax.random.normal(tree.fold(key_of(KEY, "unsir"), "noise"), (noise_rows, 5)), np.float64)
  mean, std = X[1].mean(), X[1].std()

  def unlikely(n, i):
    p = softmax((mean + std * n) @ W)
    return (2 * penalty * n - std * (p - np.eye(4)[1]) @ W.T) / noise_rows

  x = mean + std * adam(n, unlikely, noise_steps, 0.1)
  of = lambda w: sum(np.outer(v, softmax(v @ w) - np.eye(4)[1]) for v in x)

  def repaired(w, i):
    return (2 * ce(w, 1) + of(w)) / (2 + noise_rows) if i < steps else ce(w, 1)

  options = {"noise_rows": noise_rows, "noise_steps": noise_steps, "noise_penalty": penalty, "steps": steps}
  near(forgotten("unsir", **options, **LR)[0]["w"], adam(STARTS, repaired, 2 * steps))


def unpacked(flat):
  out, at = {}, 0
  for k, v in DEEP.items():
    out[k], at = flat[at : at + v.size].reshape(v.shape), at + v.size
  return out, flat[at:]


def packed(params):
  return np.concatenate([np.asarray(params[k], np.float64).ravel() for k in DEEP])


def stages(p, x):
  h = x @ p["a"]
  f = h @ p["b"]
  return h, f, f @ p["c"]


@pytest.mark.parametrize("variant", ["against_retain", "within_forget"])
def test_erase_at_the_core_by_hand(variant):
  """Contrast and cross-entropy at both stages, the first under a linear head that is trained along; by differences."""
  weight, stage, temperature = 0.9, 0.6, 0.8
  x = np.stack([X[0], X[1], 0.5 * X[0] - X[1]]).astype(np.float64)
  forget_x, forget_y = (x[:1], np.array([1])) if variant == "against_retain" else (x[[0, 0]], np.array([1, 1]))
  unit = lambda v: v / np.sqrt((v**2).sum())

  def contrast(h, other):
    if variant == "within_forget":
      return 0.0  # of one class alone: nothing to contrast with
    far, own = unit(h) @ unit(other) / temperature, 1 / temperature
    return np.log(2 * np.exp(far) + np.exp(own)) - far  # two copies of the retain row, one mate: the row's copy

  def objective(flat, at):
    p, rest = unpacked(flat)
    kernel, bias = rest[:12].reshape(3, 4), rest[12:]
    (h, f, _), (kept_h, _, z) = stages(p, x[0]), stages(p, x[1])
    other_h, other_f, _ = stages(unpacked(at)[0], x[1])  # what is kept is contrasted with, and not moved by it
    last = weight * contrast(f, other_f) + loss(z, 2)
    return last + stage * (weight * contrast(h, other_h) + loss(kept_h @ kernel + bias, 2))

  want = adam(np.r_[packed(DEEP), np.zeros(16)], lambda w, i: slope(lambda v: objective(v, w), w), 3)
  options = {"forget_weight": weight, "stage_weight": stage, "temperature": temperature, "variant": variant, "steps": 3}
  sets = {"forget": rows(np.float32(forget_x), forget_y, np.arange(len(forget_y)))}
  after, _ = forgotten("erase_at_the_core", DEEP, model=DEEP_MODEL, **sets, **options, **LR)
  near(packed(after), want[:-16], atol=2e-4)


@pytest.mark.parametrize("prototypes", [False, True])
@pytest.mark.parametrize("bound", [0.0, 5.0])
def test_gs_lora_by_hand(prototypes, bound):
  """AdamW on the factors of three kernels, whose start is read from the same draw; a bound of 0 stops the ascent."""
  rank, steps, weight, sparsity = 2, 6, 0.4, 0.3
  more = (0.7, 0.5, 1.0 if bound else 0.0) if prototypes else (0.0, 0.0, 1.0)
  start = factors_of(tree.fold(key_of(KEY, "gs_lora"), "factors"), jax.tree.map(jnp.float32, DEEP), rank)
  shapes = {k: (v[0].shape, v[1].shape) for k, v in start.items()}
  centres = {1: stages(DEEP, X[0])[1], 2: stages(DEEP, X[1])[1]}

  def factors(flat):
    out, at = {}, 0
    for k, both in shapes.items():
      pair = []
      for s in both:
        pair.append(flat[at : at + s[0] * s[1]].reshape(s))
        at += s[0] * s[1]
      out[k] = pair
    return out

  def objective(flat, i):
    low = factors(flat)
    p = {k: v + low[k][0] @ low[k][1] for k, v in DEEP.items()}
    (_, f, gone), (_, kept_f, kept) = stages(p, X[0]), stages(p, X[1])
    total = loss(kept, 2) + weight * max(0.0, bound * np.log(4) - loss(gone, 1))
    if i >= 0.2 * steps:
      total += sparsity * sum(np.sqrt((a**2).sum() + (b**2).sum()) for a, b in low.values())
    away = max(0.0, more[2] * np.log(3) - divergence(centres[1], f))
    return total + more[0] * away + more[1] * divergence(centres[2], kept_f)

  flat = np.concatenate([np.asarray(m, np.float64).ravel() for k in shapes for m in start[k]])
  end = adam(flat, lambda w, i: np.where(np.abs(g := slope(lambda v: objective(v, i), w)) < 1e-9, 0, g), steps, RATE,
             0.05)  # fmt: skip
  want = {k: DEEP[k] + a @ b for k, (a, b) in factors(end).items()}
  options = {"rank": rank, "forget_weight": weight, "bound": bound, "sparsity": sparsity, "steps": steps}
  if prototypes:
    options |= {"prototypes": True, "prototype_forget_weight": more[0], "prototype_retain_weight": more[1],
                "prototype_bound": more[2]}  # fmt: skip
  after, _ = forgotten("gs_lora", DEEP, model=DEEP_MODEL, **options, **LR)
  near(packed(after), packed(want), atol=1e-3)


def test_iau_by_hand():
  both = rows(np.stack([X[1], X[0] - X[1]]), np.array([2, 0]), [8, 9])
  other = X[0] - X[1]
  g_f = ce(W, 0)
  g_r = ce(W, 1) + np.outer(other, softmax(other @ W) - np.eye(4)[0])
  near(forgotten("iau", retain=both, learning_rate=0.01)[0]["w"], W + 0.01 * (g_f - g_r))
  released = forgotten("iau", retain=both, learning_rate=0.01, variant="released")[0]["w"]
  near(released, W + 0.01 * np.sign(g_f - g_r / 2), atol=1e-5)


@pytest.mark.parametrize("first", [0.02, 0.5])
def test_slug_by_hand(first):
  """The whole search over three kernels, on rows that are right before; a bias is never changed."""
  x = X[0] + 0.1 * MANY  # rows like it, which each layer's step would take along or not
  label, keep = int(stages(DEEP, X[0])[2].argmax()), stages(DEEP, x)[2].argmax(1)
  of_forget = lambda flat: loss(stages(unpacked(flat)[0], X[0])[2], label)
  of_retain = lambda flat: np.mean([loss(z, c) for z, c in zip(stages(unpacked(flat)[0], x)[2], keep, strict=True)])
  g_f, g_r = (unpacked(slope(of, packed(DEEP)))[0] for of in (of_forget, of_retain))
  length = lambda v: np.sqrt((v**2).sum())
  importance = {k: length(g_f[k]) / length(DEEP[k]) for k in DEEP}
  alignment = {k: abs((g_f[k] * g_r[k]).sum()) / length(g_f[k]) / length(g_r[k]) for k in DEEP}
  front = [k for k in DEEP if not any(importance[j] > importance[k] and alignment[j] < alignment[k] for j in DEEP)]
  moved = lambda k, r: {**DEEP, k: DEEP[k] + r * g_f[k]}
  tried = {}
  for k in DEEP:
    r, low, high = first * length(DEEP[k]) / length(g_f[k]), 0.0, None
    for _ in range(6):
      if stages(moved(k, r), X[0])[2].argmax() == label:
        low = r
      else:
        high = r
      r = 2 * r if high is None else (low + high) / 2
    r = low if high is None else high
    tried[k] = (high is not None) + np.mean(stages(moved(k, r), x)[2].argmax(1) == keep), r
  best = max(front, key=lambda k: tried[k][0])
  assert first < 0.1 or len({tried[k][0] for k in front}) > 1  # the retain rows decide

  def biased(x, params):
    out = deep(x, params)
    return out._replace(logits=out.logits + params["d"])

  sets = {"forget": rows(X[:1], np.array([label]), [7]), "retain": rows(x, keep, np.arange(10))}
  options = {"model": model_of(biased, None), "first_step": first, "search": 6, "rows": 12, "batch": 4}
  after, _ = forgotten("slug", {**DEEP, "d": np.zeros(4)}, **options, **sets)
  near(packed(after), packed(moved(best, tried[best][1])))
  assert not after["d"].any()


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_fisher_forgetting_by_hand(variant):
  """The noise is read from the same draw; its size is that of the retain row's exact Fisher."""
  alpha, p = 1e-2, softmax(X[1].astype(np.float64) @ W)
  fisher = sum(p[c] * outer(1, p - np.eye(4)[c]) ** 2 for c in range(4))
  noise = np.asarray(jax.random.normal(tree.fold(key_of(KEY, "fisher_forgetting"), "w"), W.shape), np.float64)
  variance = alpha * np.minimum(1 / (fisher + 1e-8), 1e3)
  mean = STARTS.copy()
  if variant == "released":  # a column for each class: the head
    variance = np.tile(alpha * np.minimum(1 / (fisher + 1e-8), 1e2).mean(0), (5, 1))
    mean[:, 1], variance[:, 1] = 0, 1e-4
    variance = variance * 10
  near(forgotten("fisher_forgetting", alpha=alpha, variant=variant)[0]["w"], mean + np.sqrt(variance) * noise)


MANY = DRAW.normal(size=(10, 5)).astype(np.float32)
LABELS = DRAW.integers(0, 4, 10).astype(np.int32)


def affine(x, params):
  return types.Outputs(x @ params["w"] + params["b"])


@pytest.mark.parametrize("name", ["ntk", "fast_ntk"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_tangent_steps_by_hand(name, variant):
  """``theta + scale (w_r - w_D)`` with the Jacobian written out, at what the leaves were before training."""
  decay, scale = 0.2, 0.7
  before, now = ({"b": DRAW.normal(size=4), "w": DRAW.normal(size=(5, 4))} for _ in range(2))
  every = name == "ntk"
  at = before if every else {"w": now["w"], "b": before["b"]}
  z = MANY.astype(np.float64) @ at["w"] + at["b"]
  error = (np.stack([softmax(v) for v in z]) - np.eye(4)[LABELS]).ravel()
  of_b = np.tile(np.eye(4), (10, 1))
  of_w = np.stack([np.outer(x, e).ravel() for x in MANY for e in np.eye(4)])
  jacobian = np.hstack([of_b, of_w]) if every else of_b

  def step(some):
    j, n = jacobian[some], some.stop is None and 10 - some.start // 4
    return -j.T @ np.linalg.solve(j @ j.T + n * decay * np.eye(len(j)), error[some])

  of_all, of_rest = step(slice(0, None)), step(slice(4 * 3, None))
  move = of_rest - of_all
  flat = lambda p: np.concatenate([p["b"], p["w"].ravel()]) if every else p["b"]
  if variant == "released":
    rest = flat(now) - flat(before) - of_rest
    cosine = move @ rest / np.sqrt((move @ move) * (rest @ rest))
    scale *= 1 + 2 * abs(cosine) * np.sqrt(rest @ rest) / np.sqrt(move @ move)
  want = flat(now) + scale * move

  model = model_of(affine, None)
  leaves = {} if every else {"leaves": "^b$"}
  method = methods.make(name, model, None, **leaves)
  first = types.Learner(jnp.int32(0), KEY, jax.tree.map(jnp.float32, before), {}, (), ())
  state = method.init(KEY, first)
  sets = {"forget": rows(MANY[:3], LABELS[:3], np.arange(3)), "retain": rows(MANY[3:], LABELS[3:], np.arange(3, 10))}
  options = {"scale": 0.7, "weight_decay": decay, "rows": 12, "variant": variant, **leaves}
  after, _ = forgotten(name, now, model=model, state=state, **sets, **options)
  near(flat(after), want, atol=1e-4)
  if not every:
    np.testing.assert_array_equal(np.float32(after["w"]), np.float32(now["w"]))


SAME = rows(X[:1], Y[1:], [8])  # the forget row's input: whatever a batch draws, its logits are these


def centred(z):
  return z - z.mean()


def test_oracle_matching_by_hand():
  """An oracle starts where ``model.init`` does and takes SGD steps on retain rows; then its logits are matched."""
  options = {"oracles": 2, "oracle_steps": 3, "oracle_learning_rate": 0.2, "rows": 2, "weight_decay": 0.3, "steps": 3}
  at_x0 = lambda w: np.outer(X[0], softmax(X[0] @ w) - np.eye(4)[Y[1]])
  oracle = sgd(OTHER.astype(np.float64), lambda w, i: at_x0(w), 3, 0.2)
  own = X[0] @ STARTS
  target = own + centred(X[0] @ oracle - own)
  pull = lambda w, i: 2 * outer(0, X[0] @ w - target) + 2 * 0.3 * (w - STARTS)
  near(forgotten("oracle_matching", retain=SAME, **options, **LR)[0]["w"], adam(STARTS, pull, 3))


def test_datamodel_matching_by_hand():
  """Which rows a net saw is read from the same draw: the net, the ridge regression and the matching are NumPy's."""
  oracles, ridge, multiplier = 5, 0.5, 0.8
  weight = jnp.array([1.0, 0.0])  # the second row is absent
  forget = types.rows_from_arrays(np.repeat(X[:1], 2, 0), np.repeat(Y[1:], 2), weight, ids=jnp.array([7, 9]))
  key = key_of(KEY, "datamodel")
  seen = []
  for i in range(oracles):
    own = tree.fold(jax.random.fold_in(key, i), "subset")
    seen.append(np.asarray(random_subset(own, FORGET, 0.5)[1](jnp.array([7, 8]))))
  included = np.stack(seen).astype(np.float64)
  assert 0 < included[:, 0].mean() < 1
  assert not included.any(1).all()  # one saw nothing
  at_x0 = lambda w: np.outer(X[0], softmax(X[0] @ w) - np.eye(4)[Y[1]])
  net = sgd(OTHER.astype(np.float64), lambda w, i: at_x0(w), 3, 0.2)
  z = np.stack([centred(X[0] @ (net if any(s) else OTHER)) for s in included])
  a = included - included.mean(0)
  tau = a.T @ np.linalg.solve(a @ a.T + ridge * np.eye(oracles), z - z.mean(0))
  target = X[0] @ STARTS - multiplier * tau[0]
  pull = lambda w, i: 2 * outer(0, X[0] @ w - target)
  options = {"oracles": oracles, "oracle_steps": 3, "oracle_learning_rate": 0.2, "rows": 2, "steps": 3, "ridge": ridge,
             "multiplier": multiplier, "learning_rate": RATE, "batch": 40}  # fmt: skip
  near(forgotten("datamodel_matching", forget=forget, retain=SAME, **options)[0]["w"], adam(STARTS, pull, 3))


def test_group_reweight_by_hand():
  """Batches are read from the same draw; a row weighs as many as its group has lost."""
  sets = {"forget": (MANY[4:], LABELS[4:], np.arange(4, 10)), "retain": (MANY[:4], LABELS[:4], np.arange(4))}
  groups = np.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 1])
  weight = np.bincount(groups) / np.bincount(groups[:4])
  key, w = key_of(KEY, "group_reweight"), STARTS
  for i in range(3):
    (at,) = map(np.asarray, ids_of(jax.random.fold_in(key, i), sets, 5, ("retain",)))
    g = 0.0
    for r in at:
      g = g + weight[groups[r]] * np.outer(MANY[r], softmax(MANY[r] @ w) - np.eye(4)[LABELS[r]])
    w = w - RATE * g / weight[groups[at]].sum()
  given = {"groups": jnp.asarray(groups), **{k: rows(*v) for k, v in sets.items()}}
  near(forgotten("group_reweight", **given, steps=3, learning_rate=RATE, batch=5)[0]["w"], w)


def test_upcore_by_hand():
  """Seven rows alike and one far off, which is left out: the rest is GradDiff on the seven."""
  x = np.concatenate([np.repeat(X[:1], 7, 0), 40 * X[1:]])
  gone = rows(x[[0, 1, 7, 2, 3, 4, 5, 6]], np.full(8, Y[0]), np.arange(8))
  options = {"contamination": 0.12, "forget_weight": 0.3, "retain_weight": 0.7, "steps": 3}
  want = sgd(STARTS, lambda w, i: 0.7 * ce(w, 1) - 0.3 * ce(w, 0), 3)
  near(forgotten("upcore", forget=gone, **options, **LR)[0]["w"], want)


def critic_scores(c, z, g):
  v = np.concatenate([z, np.eye(2)[g]], 1) @ c["in"] + c["bias"]
  return np.maximum(v, 0) @ c["out"], v


def bound(c, z, g, other, weight):
  """Donsker and Varadhan's, of rows of these weights."""
  joint, marginal = critic_scores(c, z, g)[0], critic_scores(c, z, other)[0]
  return (weight @ joint - weight.sum() * np.log(weight @ np.exp(marginal) / weight.sum())) / weight.sum()


def test_miu_by_hand():
  """Critics, their running mean and the model's steps; what is random is read from the same draws."""
  sets = {"forget": (MANY[4:], LABELS[4:], np.arange(4, 10)), "retain": (MANY[:4], LABELS[:4], np.arange(4))}
  groups = np.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 1])
  weights, share = np.bincount(groups) / np.bincount(groups[:4]), 0.6
  hidden, batch, rate, calibration, steps = 3, 4, 0.3, 20.0, 4
  key = key_of(KEY, "miu")
  random = lambda name, *s: np.asarray(jax.random.normal(tree.fold(key, name), s), np.float64) / np.sqrt(s[0])
  features = lambda w, at: np.maximum(MANY[at] @ w, 0)

  def others(key, n):
    return np.asarray(jax.random.randint(tree.fold(key, "group"), (n,), 0, 2))

  def drawn_at(key):
    return [np.asarray(at) for at in ids_of(key, sets, batch, ("forget", "retain"))]

  def tuned(key, c, mean, w):
    at = np.concatenate(drawn_at(key))
    weight = np.repeat([share, 1 - share], batch)
    z, g, o = features(w["a"], at), groups[at], others(key, 2 * batch)
    (_, v), (marginal, u) = critic_scores(c, z, g), critic_scores(c, z, o)
    weight = weight / weight.sum()
    mean = 0.99 * mean + 0.01 * weight @ np.exp(marginal)
    out = {k: 0.0 * x for k, x in c.items()}
    for slope_of, pre, group in ((-weight, v, g), (weight * np.exp(marginal) / mean, u, o)):
      inputs = np.concatenate([z, np.eye(2)[group]], 1)
      back = slope_of[:, None] * c["out"] * (pre > 0)
      out = {"in": out["in"] + inputs.T @ back, "bias": out["bias"] + back.sum(0),
             "out": out["out"] + np.maximum(pre, 0).T @ slope_of}  # fmt: skip
    return {k: c[k] - rate * out[k] for k in c}, mean

  def tune(key, c, mean, w, n):
    for i in range(n):
      c, mean = tuned(jax.random.fold_in(key, i), c, mean, w)
    return c, mean

  start = {"a": DRAW.normal(size=(5, 3)), "c": DRAW.normal(size=(3, 4))}
  flat = lambda w: np.concatenate([w["a"].ravel(), w["c"].ravel()])
  back = lambda v: {"a": v[:15].reshape(5, 3), "c": v[15:].reshape(3, 4)}
  fresh = {"in": random("in", 5, hidden), "bias": np.zeros(hidden), "out": random("out", hidden)}
  first, mean = tune(tree.fold(key, "warmup"), fresh, 1.0, start, 2)
  c, w = first, flat(start)
  for i in range(steps):
    step = jax.random.fold_in(key, i)
    c, mean = tune(tree.fold(step, "critic"), c, mean, back(w), 2)
    f, r = drawn_at(step)
    weight, other = weights[groups[r]], others(step, batch)
    about = lambda c, p, at, weight, other: bound(c, features(p["a"], at), groups[at], other, weight)
    old = about(first, start, r, weight, other)

    def objective(v, i=i, c=c, f=f, r=r, weight=weight, other=other, old=old, about=about):
      p = back(v)
      off = about(c, p, r, weight, other) - old
      z = features(p["a"], r) @ p["c"]
      each = np.array([loss(a, b) for a, b in zip(z, LABELS[r], strict=True)])
      unlink = about(c, p, f, np.ones(batch), other) if 2 * i < steps else 0.0
      return unlink + weight @ each / weight.sum() + calibration * off**2

    w = w - RATE * slope(objective, w)

  def net(x, params):
    h = jax.nn.relu(x @ params["a"])
    return types.Outputs(h @ params["c"], h)

  given = {"groups": jnp.asarray(groups), "model": model_of(net, None), **{k: rows(*v) for k, v in sets.items()}}
  options = {"calibration": calibration, "hidden": hidden, "critic_warmup": 2, "critic_steps": 2, "steps": steps,
             "critic_learning_rate": rate, "learning_rate": RATE, "batch": batch}  # fmt: skip
  near(flat(forgotten("miu", start, **given, **options)[0]), w, atol=1e-4)


@pytest.mark.parametrize("importance", ["empirical", "batched"])
def test_ssd_measures_batches_as_the_released_code(importance):
  """Squares of each row's gradient, or of a batch's mean."""
  grads = [np.outer(x, softmax(x @ W) - np.eye(4)[y]) for x, y in zip(MANY.astype(np.float64), LABELS, strict=True)]

  def measured(some):
    size = 2 if importance == "batched" else 1
    parts = [some[i : i + size] for i in range(0, len(some), size)]
    squares = [len(p) * np.mean([grads[r] for r in p], 0) ** 2 for p in parts]
    return sum(squares) / len(some)

  of_forget, of_retain = measured(range(4)), measured(range(4, 10))
  whole = 0.4 * of_forget + 0.6 * of_retain
  want = np.where(of_forget > 1.1 * whole, W * np.minimum(0.7 * whole / of_forget, 1), W)
  assert 3 < (want != W).sum() < 17
  sets = {"forget": rows(MANY[:4], LABELS[:4], np.arange(4)), "retain": rows(MANY[4:], LABELS[4:], np.arange(4, 10))}
  options = {"alpha": 1.1, "dampening": 0.7, "importance": importance, "importance_batch": 2}
  near(forgotten("ssd", **sets, **options)[0]["w"], want, atol=1e-6)
