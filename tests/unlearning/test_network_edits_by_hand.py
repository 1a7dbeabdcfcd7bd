"""Edits of small networks against NumPy: every depth, learned noise, one searched layer, tangent kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_by_hand import PARAMS, RATE, K, W, X, Y, apply_fn, ce_of, loss_fn, numeric, softmax, steps_of

import cljax
from cljax import losses, unlearning
from cljax.core.tree import fold

SGD = optax.sgd(RATE)
X64, W64 = X.astype(np.float64), W.astype(np.float64)
START = jax.random.key(0)
RNG = np.random.default_rng(13)


def near(value, wanted, rtol=1e-3, atol=1e-5):
  np.testing.assert_allclose(value, wanted, rtol, atol)


XS, YS = RNG.normal(size=(4, 5)), np.array([1, 3, 2, 1], np.int32)  # two rows to forget, two to keep
SHAPES = {"a": (5, 6), "b": (6, 3), "c": (3, K)}


def deep(params, x, xp=np):
  """``(pooled first stage, features, logits)``; the first stage has two places of three channels."""
  first = xp.tanh(x @ params["a"])
  features = xp.tanh(first @ params["b"])
  return first.reshape(-1, 2, 3), features, features @ params["c"]


def unit(v):
  return v / np.linalg.norm(v, axis=1, keepdims=True)


def contrast(h, y, other, other_y, within):
  """The mean over anchors of the mean over what pulls of ``-log`` of its share among what takes part."""
  a, o = unit(h), unit(other)
  if within:
    s, pull = a @ a.T / 0.5, y[:, None] != y[None]
    taken = np.ones_like(pull)
  else:
    s = np.c_[a @ o.T, a @ a.T] / 0.5
    pull = np.c_[y[:, None] != other_y[None], np.zeros((len(y), len(y)), bool)]
    taken = np.c_[np.ones((len(y), len(other_y)), bool), (y[:, None] == y[None]) & ~np.eye(len(y), dtype=bool)]
  log_p = s - np.log((np.exp(s) * taken).sum(1, keepdims=True))
  return np.mean([-log_p[i][pull[i]].mean() if pull[i].any() else 0 for i in range(len(y))])


@pytest.mark.parametrize("within", [False, True])
def test_erase_at_the_core_by_hand(within):
  """Three steps on the network and on a head of its first stage, which starts at 0. No gradient goes to the retain
  rows' features in the contrast."""
  params = {n: RNG.normal(size=s) for n, s in SHAPES.items()}

  def outputs_fn(p, batch):
    first, features, logits = deep(p, batch.x, jnp)
    return cljax.Outputs(logits, features, (first, features))

  rows = lambda at: (np.float32(XS[at]), YS[at])
  options = {"forget": rows(slice(2)), "retain": rows(slice(2, 4)), "batch": 4, "optimizer": SGD}
  variant = "within_forget" if within else "against_retain"
  program = jax.jit(
    lambda p, steps, traced: unlearning.erase_at_the_core(
      outputs_fn, p, steps=steps, variant=variant, **options, **traced
    )
  )
  given = {"forget_weight": 0.8, "stage_weight": 0.7, "temperature": 0.5}
  start = {n: jnp.asarray(v, jnp.float32) for n, v in params.items()}
  sizes = [*SHAPES.values(), (3, K), (K,)]
  cuts = np.cumsum([np.prod(s) for s in sizes])[:-1]

  def named(v):
    parts = (part.reshape(size) for part, size in zip(np.split(v, cuts), sizes, strict=True))
    return dict(zip([*SHAPES, "kernel", "bias"], parts, strict=True))

  both = np.concatenate([*(params[n].ravel() for n in SHAPES), np.zeros(3 * K + K)])
  key = fold(START, "erase_at_the_core")
  for i in range(3):
    for name, got in program(start, i, given).items():
      near(got, named(both)[name])
    now = jax.random.fold_in(key, i)
    draw = lambda name, now=now: np.asarray(jax.random.randint(fold(now, name), (4,), 0, 2))
    f, r = draw("forget"), 2 + draw("retain")
    assert len(set(YS[f])) == 2

    def stages(v, at):
      first, features, logits = deep(named(v), XS[at])
      return first.mean(1), features, logits

    frozen = stages(both, r)

    def value(v, f=f, r=r, frozen=frozen):
      gone, kept = stages(v, f), stages(v, r)
      ce = lambda z: -np.log(softmax(z)[np.arange(4), YS[r]]).mean()
      far = [contrast(gone[s], YS[f], frozen[s], YS[r], within) for s in (0, 1)]
      head = named(v)
      return 0.8 * far[1] + ce(kept[2]) + 0.7 * (0.8 * far[0] + ce(kept[0] @ head["kernel"] + head["bias"]))

    both = both - RATE * numeric(value, both)


def adam(gradient, x, steps, rate=0.1):
  m = v = np.zeros_like(x)
  for t in range(1, steps + 1):
    g = gradient(x)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
  return x


def test_unsir_learns_noise_then_impairs_then_repairs():
  """Noise of five rows for two classes in turn, in the units of the retain row's entries."""
  classes = np.array([False, True, False, True])
  call = steps_of(unlearning.unsir, loss_fn, forget=None, classes=classes, noise_rows=5, noise_steps=3, optimizer=SGD)
  mean, std = X64[1].mean(), X64[1].std()
  wanted = [1, 3, 1, 3, 1]
  start = np.asarray(jax.random.normal(fold(fold(START, "unsir"), "noise"), (5, 5)), np.float64)

  def gradient(n):
    rise = [(softmax((mean + std * row) @ W64) - np.eye(K)[c]) @ W64.T for row, c in zip(n, wanted, strict=True)]
    return (0.3 * 2 * n - std * np.array(rise)) / 5

  noise = mean + std * adam(gradient, start, 3)
  for steps in (0, 1, 2):
    w = W64
    for i in range(2 * steps):
      each = [ce_of(X64[1], Y[1], w)] * 2
      if i < steps:
        each += [ce_of(row, c, w) for row, c in zip(noise, wanted, strict=True)]
      w = w - RATE * np.mean(each, 0)
    near(call(steps, noise_penalty=0.3), w)


DATA = RNG.normal(size=(30, 5))
NET = {
  "a": {"kernel": RNG.normal(size=(5, 6)), "bias": 0.1 * RNG.normal(size=6)},
  "b": {"kernel": RNG.normal(size=(6, 4)), "bias": 0.1 * RNG.normal(size=4)},
  "head": {"kernel": RNG.normal(size=(4, 3)), "bias": np.zeros(3)},
}


def net(params, x, xp=np):
  h = xp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"])
  h = xp.tanh(h @ params["b"]["kernel"] + params["b"]["bias"])
  return h @ params["head"]["kernel"] + params["head"]["bias"]


LABELS = net(NET, DATA + 0.1 * RNG.normal(size=DATA.shape)).argmax(1).astype(np.int32)


def test_slug_by_the_search_of_its_release():
  """Each class in turn: the front, and in each of its layers doubling, then halving, for the least step that works."""
  as_jax = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), NET)
  side = lambda weight: {"x": np.float32(DATA), "y": LABELS, "weight": weight}
  call = jax.jit(
    lambda weight: unlearning.slug(
      lambda p, b: net(p, b.x, jnp),
      as_jax,
      forget=side(weight),
      retain=side(1 - weight),
      first_step=0.2,
      search=7,
      rows=30,
    )
  )
  slopes = jax.jit(
    jax.grad(lambda p, w: losses.cross_entropy(net(p, jnp.float32(DATA), jnp), jnp.asarray(LABELS)) @ w / w.sum())
  )
  names, moved = ("a", "b", "head"), set()
  for c in range(3):
    weight = (c == LABELS).astype(np.float32)
    g_f, g_r = (
      {n: np.asarray(v["kernel"], np.float64) for n, v in slopes(as_jax, w).items()} for w in (weight, 1 - weight)
    )
    size = np.linalg.norm
    high = [size(g_f[n]) / size(NET[n]["kernel"]) for n in names]
    low = [abs((g_f[n] * g_r[n]).sum()) / size(g_f[n]) / size(g_r[n]) for n in names]
    front = [not any(high[j] > high[i] and low[j] < low[i] for j in range(3)) for i in range(3)]

    def tried(n, r, g_f=g_f):
      return {**NET, n: {**NET[n], "kernel": NET[n]["kernel"] + r * g_f[n]}}

    def right(params, among):
      return (net(params, DATA).argmax(1) == LABELS)[among].mean()

    best = None
    for i, n in enumerate(names):
      r, least, most = 0.2 * size(NET[n]["kernel"]) / size(g_f[n]), 0.0, None
      for _ in range(7):
        if right(tried(n, r), c == LABELS) > 0:
          least = r
          r = 2 * r if most is None else (least + most) / 2
        else:
          most = r
          r = (least + most) / 2
      r = least if most is None else most
      score = (most is not None) + right(tried(n, r), c != LABELS)
      if front[i] and (best is None or score > best[0]):
        best = score, n, r
    want, got = tried(best[1], best[2]), call(weight)
    moved.add(best[1])
    for n in names:
      near(got[n]["kernel"], want[n]["kernel"], 1e-3, 1e-4)
      np.testing.assert_array_equal(got[n]["bias"], as_jax[n]["bias"])
  assert len(moved) > 1


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_tangent_kernels_by_the_normal_equations(variant, loss):
  """Six rows of a linear model, of which two are forgotten and one is not there; at parameters that are not the
  trained ones."""
  x, y = RNG.normal(size=(7, 5)), RNG.integers(0, K, 7)
  first = W64 + 0.5 * RNG.normal(size=W.shape)
  weight = np.array([1, 0, 1], np.float32)
  forget, retain = {"x": np.float32(x[:3]), "y": y[:3], "weight": weight}, (np.float32(x[3:]), y[3:])
  given = {"forget": forget, "retain": retain, "rows": 4, "loss": loss, "variant": variant}
  initial = {"w": jnp.asarray(first, jnp.float32)}

  def solution(at):
    jacobian = np.einsum("ni,ck->ncik", x[at], np.eye(K)).reshape(len(at) * K, 5 * K)
    z = x[at] @ first
    e = ((softmax(z) if loss == "cross_entropy" else z) - np.eye(K)[y[at]]).ravel()
    left = jacobian.T @ jacobian + len(at) * 0.4 * np.eye(5 * K)
    return -np.linalg.solve(left, jacobian.T @ e).reshape(5, K)

  of_retain, step = solution([3, 4, 5, 6]), solution([3, 4, 5, 6]) - solution([0, 2, 3, 4, 5, 6])
  scale = 0.7
  if variant == "released":
    rest = W64 - first - of_retain
    cosine = (step * rest).sum() / np.linalg.norm(step) / np.linalg.norm(rest)
    turn = np.sin(np.arccos(cosine) - np.pi / 2) if cosine < 0 else cosine
    scale *= 1 + 2 * turn * np.linalg.norm(rest) / np.linalg.norm(step)
  for call, more in ((unlearning.ntk, {}), (unlearning.fast_ntk, {"leaves": "w"})):
    run = jax.jit(
      lambda p, call=call, more=more: call(apply_fn, p, initial=initial, weight_decay=0.4, scale=0.7, **given, **more)
    )
    near(run(PARAMS)["w"], W64 + scale * step, 2e-3, 1e-4)
