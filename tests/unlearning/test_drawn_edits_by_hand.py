"""Edits whose steps depend on draws, with the draws repeated and all else written out in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_by_hand import RATE, K, W, X, Y, apply_fn, ce, ce_of, loss_fn, numeric, softmax, steps_of

import cljax
from cljax import unlearning
from cljax.core.tree import fold
from cljax.unlearning.class_statistics import FeatureStatistics

SGD = optax.sgd(RATE)
X64, W64 = X.astype(np.float64), W.astype(np.float64)
START = jax.random.key(0)
RNG = np.random.default_rng(11)


def near(value, wanted, rtol=1e-3, atol=1e-5):
  np.testing.assert_allclose(value, wanted, rtol, atol)


def outputs_fn(params, batch):
  return cljax.Outputs(apply_fn(params, batch), batch.x)


def at_random(key, name, size, count):
  """Which of ``count`` rows a batch of the set ``name`` holds."""
  return np.asarray(jax.random.randint(fold(key, name), (size,), 0, count))


def init_fn(key):
  return {"w": jax.random.normal(key, (5, K))}


def init(key):
  return np.asarray(init_fn(key)["w"], np.float64)


def centred(z):
  return z - z.mean(-1, keepdims=True)


def fitted(key, targets, steps, size, decay):
  """Descent on ``|z - t|^2 + decay |w - W|^2`` over random batches of the two rows, in a pool with room for four."""
  w, there = W64, jnp.array([0.0, 0, -np.inf, -np.inf])
  for i in range(steps):
    at = np.asarray(jax.random.categorical(jax.random.fold_in(key, i), there, shape=(size,)))
    pull = np.mean([np.outer(X64[n], 2 * (X64[n] @ w - targets[n])) for n in at], 0)
    w = w - RATE * (pull + 2 * decay * (w - W64))
  return w


@pytest.mark.parametrize("trained", [False, True])
def test_oracle_matching_descends_on_the_distance_to_the_mean_oracle(trained):
  key = fold(START, "oracle_matching")
  more = {"rows": 1, "weight_decay": 0.3, "optimizer": SGD}
  if trained:  # of the retain row alone, from weights of their own
    more |= {"init_fn": init_fn, "oracles": 3, "oracle_steps": 2, "oracle_learning_rate": 0.4}
    oracles = []
    for i in range(3):
      w = init(fold(fold(jax.random.fold_in(key, i), "oracle"), "init"))
      for _ in range(2):
        w = w - 0.4 * ce(w, 1)
      oracles.append(w)
  else:
    oracles = list(RNG.normal(size=(2, 5, K)))
    more |= {"oracle_params": {"w": jnp.asarray(np.stack(oracles), jnp.float32)}}
  call = steps_of(unlearning.oracle_matching, batch=3, **more)
  own, mean = X64 @ W64, np.mean([X64 @ w for w in oracles], 0)
  for steps in (0, 1, 3):
    near(call(steps), fitted(key, own + centred(mean - own), steps, 3, 0.3))


def test_datamodel_matching_by_nets_on_random_subsets():
  call = steps_of(
    unlearning.datamodel_matching, init_fn=init_fn, oracles=9, oracle_steps=2, rows=1, batch=3, optimizer=SGD
  )
  given = {"oracle_learning_rate": 0.5, "inclusion": 0.6, "ridge": 0.8, "multiplier": 1.3, "weight_decay": 0.2}
  key, found, included = fold(START, "datamodel"), [], []
  for i in range(9):
    own = jax.random.fold_in(key, i)
    toss = [jax.random.uniform(jax.random.fold_in(fold(own, "subset"), n), dtype=jnp.float32) for n in (7, 8)]
    there, net = np.array([float(t < 0.6) for t in toss]), fold(own, "net")
    w = init(fold(net, "init"))
    for step in range(2):
      at = at_random(jax.random.fold_in(fold(net, "order"), step), "rows", 3, 2)
      if there[at].any():
        w = w - 0.5 * np.average([ce(w, n) for n in at], 0, there[at])
    found.append(centred(X64 @ w))
    included.append(there)
  a, z = np.array(included) - np.mean(included, 0), (np.array(found) - np.mean(found, 0)).reshape(9, 8)
  assert np.linalg.matrix_rank(a) == 2
  tau = np.linalg.lstsq(np.r_[a, np.sqrt(0.8) * np.eye(2)], np.r_[z, np.zeros((2, 8))], rcond=None)[0]
  targets = X64 @ W64 - 1.3 * tau[0].reshape(2, K)
  for steps in (1, 3):
    near(call(steps, **given), fitted(key, targets, steps, 3, 0.2))
  # A row that is not there is in no net's subset, whatever its id would have drawn.
  absent = {"x": X[[1, 0]], "y": Y[[1, 0]], "id": np.int32([8, 5]), "weight": np.float32([1, 0])}
  padded = steps_of(
    unlearning.datamodel_matching, init_fn=init_fn, oracles=9, oracle_steps=2, rows=1, batch=3, optimizer=SGD,
    retain=absent,
  )  # fmt: skip
  near(padded(3, **given), call(3, **given))


XS = RNG.normal(size=(5, 5))
YS = np.array([1, 0, 2, 3, 1], np.int32)
GROUPS = np.array([1, 0, 0, 1, 1])
GONE, LEFT = {"x": XS[:2], "y": YS[:2], "id": [0, 1]}, {"x": XS[2:], "y": YS[2:], "id": [2, 3, 4]}
GONE, LEFT = ({**v, "x": np.float32(v["x"])} for v in (GONE, LEFT))
WEIGHT = np.array([2 / 1, 3 / 2])[GROUPS]  # of a row's group: rows of it, over those that are kept


def test_reweighting_by_the_groups_shares():
  """Also where rows have weights of their own, which the shares multiply."""
  for own in (np.ones(3), np.array([1, 0.25, 0.5])):
    left = {**LEFT, "weight": np.float32(own)}
    call = steps_of(unlearning.group_reweight, loss_fn, forget=GONE, retain=left, groups=GROUPS, batch=4, optimizer=SGD)
    share = np.bincount(GROUPS[2:], own)
    weight = ((np.bincount(GROUPS[:2]) + share) / share)[GROUPS[2:]] * own
    key, w = fold(START, "group_reweight"), W64
    for i in range(4):
      near(call(i), w)
      at = at_random(jax.random.fold_in(key, i), "retain", 4, 3)
      w = w - RATE * np.average([ce_of(XS[2 + n], YS[2 + n], w) for n in at], 0, weight[at])


def test_upcore_leaves_the_outlier_alone():
  """Nine times the one row and a row far away, which the core is without: GradDiff on the one row."""
  forget = np.r_[np.repeat(X[:1], 9, 0), X[:1] + 9], np.repeat(Y[:1], 10)
  call = steps_of(unlearning.upcore, outputs_fn, forget=forget, optimizer=SGD)
  w = W64
  for i in range(3):
    near(call(i, forget_weight=0.4, retain_weight=0.7, contamination=0.1), w)
    w = w - RATE * (0.7 * ce(w, 1) - 0.4 * ce(w, 0))


def test_streaming_replays_the_gaussians_of_what_is_left():
  """The class of the forget row goes; the other's two rows vary in one direction, of which the sign is free."""
  turn = 2 * RNG.normal(size=5)
  rows = X64[1] + np.outer([1, -1], turn)
  count, total, outer = np.zeros(K), np.zeros((K, 5)), np.zeros((K, 5, 5))
  for label, members in ((1, X64[:1]), (2, rows)):
    count[label], total[label], outer[label] = len(members), members.sum(0), members.T @ members
  statistics = FeatureStatistics(*(jnp.asarray(v, jnp.float32) for v in (count, total, outer)))
  head_fn = lambda p, h: h @ p["w"]
  kept = []

  def run(apply, params, **given):
    after, left = unlearning.streaming(apply, head_fn, params, statistics=statistics, **given)
    kept.append(jax.eval_shape(lambda: left))
    return {"w": after["w"], "left": left}

  program = jax.jit(
    lambda steps: run(
      outputs_fn, {"w": jnp.asarray(W)}, forget=(X[:1], Y[:1]), steps=steps, batch=3, stay_weight=0.6, optimizer=SGD
    )
  )
  left = program(1)["left"]
  np.testing.assert_array_equal(left.count, [0, 0, 2, 0])
  near(left.total[2], total[2])
  near(left.outer[2], outer[2])
  assert not np.asarray(left.total[1]).any()

  def after(steps, sign):
    w = W64
    for i in range(steps):
      noise = jax.random.normal(fold(jax.random.fold_in(fold(START, "streaming"), i), "feature"), (3, 5))
      drawn = X64[1] + sign * np.outer(np.asarray(noise, np.float64)[:, -1], turn)
      pull = [ce_of(h, 2, w) + 0.6 * np.outer(h, softmax(h @ w) - softmax(h @ W64)) for h in drawn]
      w = w - RATE * (np.mean(pull, 0) - ce(w, 0) / 3)
    return w

  for steps in (1, 3):
    got = np.asarray(program(steps)["w"])
    assert min(np.abs(got - after(steps, sign)).max() for sign in (1, -1)) < 1e-3
    assert np.abs(got - W).max() > 0.1


def test_miu_by_two_critics():
  """MINE's critic, its own two steps before the first and one before each; then the bound on the forget rows for the
  first half of the steps, and the change of the bound on the weighted retain rows, squared."""
  options = {"groups": GROUPS, "hidden": 3, "critic_warmup": 2, "critic_steps": 1, "batch": 4, "optimizer": SGD}
  features_fn = lambda p, b: cljax.Outputs(apply_fn(p, b), apply_fn(p, b))
  call = steps_of(unlearning.miu, features_fn, forget=GONE, retain=LEFT, **options)
  key, share = fold(START, "miu"), 2 / 5
  draw = lambda name, *shape: np.asarray(jax.random.normal(fold(key, name), shape), np.float64) / np.sqrt(shape[0])
  size = np.sqrt(1 + ((XS @ W64) ** 2).sum(1).mean())
  flat = np.concatenate([draw("in", K + 2, 3).ravel(), np.zeros(3), draw("out", 3)])

  def scores(critic, w, at, group):
    x = np.c_[XS[at] @ w / size, np.eye(2)[group]]
    return np.maximum(x @ critic[:18].reshape(6, 3) + critic[18:21], 0) @ critic[21:]

  def pair(key, critic, w, at):
    other = np.asarray(jax.random.randint(fold(key, "group"), (len(at),), 0, 2))
    return scores(critic, w, at, GROUPS[at]), scores(critic, w, at, other)

  def bound(key, critic, w, at, weight):
    joint, marginal = pair(key, critic, w, at)
    return np.average(joint, weights=weight) - np.log(np.average(np.exp(marginal), weights=weight))

  def both(key):
    return at_random(key, "forget", 4, 2), 2 + at_random(key, "retain", 4, 3)

  def tuned(key, critic, mean, w):
    at, weight = np.concatenate(both(key)), np.repeat([share, 1 - share], 4)
    mean = 0.99 * mean + 0.01 * np.average(np.exp(pair(key, critic, w, at)[1]), weights=weight)

    def lost(critic):
      joint, marginal = pair(key, critic, w, at)
      return np.average(np.exp(marginal), weights=weight) / mean - np.average(joint, weights=weight)

    return critic - 0.2 * numeric(lost, critic), mean

  first, seen = flat, 1.0
  for i in range(2):
    first, seen = tuned(jax.random.fold_in(fold(key, "warmup"), i), first, seen, W64)

  def after(steps):
    w, critic, mean = W64, first, seen
    for i in range(steps):
      now = jax.random.fold_in(key, i)
      critic, mean = tuned(jax.random.fold_in(fold(now, "critic"), 0), critic, mean, w)
      forget, retain = both(now)

      def value(w, now=now, critic=critic, forget=forget, retain=retain, i=i):
        weight = WEIGHT[retain]
        two = bound(now, critic, w, retain, weight), bound(now, first, W64, retain, weight)
        off = np.subtract(*np.clip(two, 0, np.log(2)))
        lost = [-np.log(softmax(XS[n] @ w)[YS[n]]) for n in retain]
        unlink = max(bound(now, critic, w, forget, np.ones(4)), 0) if 2 * i < steps else 0.0
        return unlink + np.average(lost, weights=weight) + 1.7 * off**2

      signs.append(np.sign(bound(now, critic, w, forget, np.ones(4))) if 2 * i < steps else 0)
      w = w - RATE * numeric(value, w)
    return w

  signs = []
  for steps in (1, 2, 3):
    near(call(steps, calibration=1.7, critic_learning_rate=0.2), after(steps), 2e-3, 1e-4)
  assert signs == [1, 1, 0, 1, -1, 0]  # below 0 there is nothing to unlink
