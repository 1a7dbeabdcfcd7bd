"""Registered answers to a Forget event that work on layers, factors or critics, against float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forgetting_by_hand import (
  DEEP,
  DEEP_MODEL,
  DRAW,
  KEY,
  LABELS,
  LR,
  MANY,
  RATE,
  adam,
  deep,
  forgotten,
  ids_of,
  loss,
  model_of,
  near,
  packed,
  rows,
  slope,
  stages,
  unpacked,
)
from linear_by_hand import X, softmax

from cljax.core import tree, types
from cljax.unlearning._common import key_of
from cljax.unlearning.gs_lora import factors_of


def divergence(teacher, z):
  """``KL(softmax(teacher) || softmax(z))``."""
  p, q = softmax(teacher), softmax(z)
  return (p * np.log(p / q)).sum()


@pytest.mark.parametrize("variant", ["against_retain", "within_forget"])
def test_registered_erase_at_the_core_by_hand(variant):
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
  options |= {"rate_schedule": "constant"} | ({"ema_decay": 0.0} if prototypes else {})
  if prototypes:
    options |= {"prototypes": True, "prototype_forget_weight": more[0], "prototype_retain_weight": more[1],
                "prototype_bound": more[2]}  # fmt: skip
  after, _ = forgotten("gs_lora", DEEP, model=DEEP_MODEL, **options, **LR)
  near(packed(after), packed(want), atol=1e-3)


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
  sets["classes"] = jnp.arange(4) == label
  options = {"model": model_of(biased, None), "first_step": first, "search": 6, "rows": 12, "batch": 4}
  after, _ = forgotten("slug", {**DEEP, "d": np.zeros(4)}, **options, **sets)
  near(packed(after), packed(moved(best, tried[best][1])))
  assert not after["d"].any()


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
  plain = lambda w, at: np.maximum(MANY[at] @ w, 0)
  features = lambda w, at: plain(w, at) / np.sqrt(1 + (plain(start["a"], range(10)) ** 2).sum(1).mean())

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
    old = np.clip(about(first, start, r, weight, other), 0, np.log(2))

    def objective(v, i=i, c=c, f=f, r=r, weight=weight, other=other, old=old, about=about):
      p = back(v)
      off = np.clip(about(c, p, r, weight, other), 0, np.log(2)) - old
      z = plain(p["a"], r) @ p["c"]
      each = np.array([loss(a, b) for a, b in zip(z, LABELS[r], strict=True)])
      unlink = max(about(c, p, f, np.ones(batch), other), 0) if 2 * i < steps else 0.0
      return unlink + weight @ each / weight.sum() + calibration * off**2

    w = w - RATE * slope(objective, w)

  def net(x, params):
    h = jax.nn.relu(x @ params["a"])
    return types.Outputs(h @ params["c"], h)

  given = {"groups": jnp.asarray(groups), "model": model_of(net, None), **{k: rows(*v) for k, v in sets.items()}}
  options = {"calibration": calibration, "hidden": hidden, "critic_warmup": 2, "critic_steps": 2, "steps": steps,
             "critic_learning_rate": rate, "learning_rate": RATE, "batch": batch}  # fmt: skip
  near(flat(forgotten("miu", start, **given, **options)[0]), w, atol=1e-4)
