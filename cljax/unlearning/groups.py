"""Forgetting requests that fall on one group: retain rows are weighed so that the groups keep their shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import losses
from cljax.core import tree
from cljax.core.dtypes import lenient
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, LossFn, Params, Rows, Scalar, UsageError
from cljax.estimators.per_sample import sum_over_batches
from cljax.objectives.objective import Objective
from cljax.unlearning._common import cross_entropy, drawn, if_asked, key_of, mean_loss, minimize, outputs_of, share_of


def group_weights(forget: Rows, retain: Rows, groups: Array, num_groups: int, batch: int = 256) -> Array:
  """``[G]``: ``n_g(all) / n_g(retain)``, rows counted by weight; 0 for a group of which no row is left.

  ``groups [N]`` is the group of each row id. Sampling retain rows by these weights restores the groups' shares.
  """
  gone, left = (_counts(rows, groups, num_groups, batch) for rows in (forget, retain))
  return jnp.where(left > 0, (gone + left) / jnp.where(left > 0, left, 1.0), 0.0)


def _counts(rows: Rows, groups, num_groups: int, batch: int = 256):
  """``[G]``: the rows of each group, by weight."""

  def part(some, start):
    del start
    return jnp.zeros(num_groups, jnp.float32).at[groups[some.id]].add(some.weight)

  return sum_over_batches(rows, batch, jnp.zeros(num_groups, jnp.float32), part)


def group_reweight(
  loss_fn: LossFn, params: Params, *, forget: RowsLike, retain: RowsLike, groups: Array, key: Array | None = None,
  steps: int = 50, batch: int = 64, optimizer: optax.GradientTransformation | None = None,
) -> Params:  # fmt: skip
  """REWEIGHT: fine-tuning on retain rows weighed by ``n_g(all) / n_g(retain)`` of their group g.

  ``groups [N]`` int is the group of each row id, 0 to N - 1; rows must carry ids. The weights multiply the losses of
  uniformly drawn rows, where the release draws rows by them: the same in expectation up to O(1/batch). A group of which
  no row is left weighs nothing (release: infinity). The default optimizer is SGD at 0.05. Spec B13; arXiv 2503.09330.
  """
  forget, retain = rows_with_ids("forget", forget), rows_with_ids("retain", retain)
  groups = _checked(groups, jnp.shape(groups)[0])
  weights = group_weights(forget, retain, groups, groups.shape[0])

  def objective(key, params, step):
    del step
    (rows,) = drawn(key, batch, retain=retain)
    return mean_loss(loss_fn, params, rows._replace(weight=rows.weight * weights[groups[rows.id]]))

  return minimize(
    key_of(key, "group_reweight"), objective, params, steps=steps, optimizer=optimizer or optax.sgd(0.05), forget=forget
  )


class Critic(NamedTuple):
  """MINE's critic and the running mean of ``exp T`` under the product of marginals."""

  params: Any
  mean: Any


def donsker_varadhan(joint: Array, marginal: Array, weight: Array) -> Array:
  """``E T(z, g) - log E exp T(z, g')``, a lower bound on mutual information; ``[B]`` each. 0 for a constant T."""
  log_weight = jnp.log(jnp.where(weight > 0, weight, 1.0))
  each = jnp.where(weight > 0, marginal + log_weight, -jnp.inf)
  total = weight.sum()
  bound = losses.reduce(joint, weight) - jax.nn.logsumexp(each) + jnp.log(jnp.where(total > 0, total, 1.0))
  return jnp.where(total > 0, bound, 0.0)


def miu(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  groups: Array,
  key: Array | None = None,
  calibration: Scalar = 1.0,
  num_groups: int = 2,
  hidden: int = 512,
  critic_warmup: int = 100,
  critic_steps: int = 1,
  critic_learning_rate: Scalar = 0.01,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """MIU: ``min 1[first half] max(I_theta(z; g on D_f), 0) + CE + c (I_theta(z; g) - I_theta0(z; g))^2`` on retain rows.

  I is MINE's bound with a critic on features ``z / sqrt(1 + E |z_theta0|^2)`` and group g (one hidden layer of
  ``hidden``), its gradient corrected by a running mean (rate 0.01); g' is uniform over the groups that have rows, so
  that of one group there is nothing to unlink. Retain rows are weighed as in :func:`group_reweight`; c is
  ``calibration``. The critic of theta0 is trained ``critic_warmup`` steps on theta0's features and then stands still
  (the release goes on tuning it on the unlearned model's); the other starts from it and takes ``critic_steps`` a step.
  What I bounds is 0 at least and the logarithm of the number of groups at most, while the bound of a critic that lags
  falls without end: on forget rows nothing is minimised below 0, and the two that are compared are cut to that range.
  The release has neither, and gives its critic features as they are. ``apply_fn`` gives Outputs with features;
  ``groups [N]`` is the group of each row id, 0 to ``num_groups - 1``. The release makes passes over D_f and D_r in turn
  where this adds the two. Default optimizer: SGD at 0.05. ``learned``: an objective in the place of classification.
  Spec B13; arXiv 2503.09330.
  """
  forget, retain = rows_with_ids("forget", forget), rows_with_ids("retain", retain)
  groups, key = _checked(groups, num_groups), key_of(key, "miu")
  optimizer = lenient(optimizer or optax.sgd(0.05))
  weights = group_weights(forget, retain, groups, num_groups)
  loss_fn, original = cross_entropy(apply_fn, learned), params
  share = share_of(forget, retain)
  here = _counts(forget, groups, num_groups) + _counts(retain, groups, num_groups) > 0
  first_here, kinds = jnp.argsort(~here, stable=True), jnp.maximum(here.sum(), 1)
  most = jnp.log(kinds.astype(jnp.float32))

  def scores(critic, features, group):
    x = jnp.concatenate([features, jax.nn.one_hot(group, num_groups, dtype=features.dtype)], -1)
    return jax.nn.relu(x @ critic["in"] + critic["bias"][None]) @ critic["out"]

  def features(params, rows):
    found = outputs_of(apply_fn, params, rows).features
    if found is None:
      raise UsageError("apply_fn: miu needs the features of its rows; return cljax.Outputs with features")
    return found.reshape(found.shape[0], -1).astype(jnp.float32)

  def squares(some, start):
    del start
    each = jnp.square(features(original, some)).sum(-1)
    return jnp.stack([jnp.sum(jnp.where(some.weight > 0, some.weight * each, 0.0)), some.weight.sum()])

  # A critic's curvature is as the features' square: of large ones it diverges at any fixed rate, and to NaN.
  total, number = sum(sum_over_batches(rows, batch, jnp.zeros(2, jnp.float32), squares) for rows in (forget, retain))
  size = jnp.sqrt(1.0 + total / jnp.maximum(number, 1.0))

  def pair(key, critic, params, rows):
    z, place = features(params, rows) / size, jax.random.randint(tree.fold(key, "group"), rows.weight.shape, 0, kinds)
    return scores(critic, z, groups[rows.id]), scores(critic, z, first_here[place])

  def information(key, critic, params, rows):
    joint, marginal = pair(key, critic, params, rows)
    return donsker_varadhan(joint, marginal, rows.weight)

  def tuned(key, critic, params):
    """One step of a critic, on forget and retain rows in their shares."""
    f, r = drawn(key, batch, forget=forget, retain=retain)
    f, r = f._replace(weight=f.weight * share), r._replace(weight=r.weight * (1 - share))
    rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), f, r)
    seen = jax.lax.stop_gradient(losses.reduce(jnp.exp(pair(key, critic.params, params, rows)[1]), rows.weight))
    mean = 0.99 * critic.mean + 0.01 * seen

    def loss(c):
      joint, marginal = pair(key, c, params, rows)
      return losses.reduce(jnp.exp(marginal), rows.weight) / mean - losses.reduce(joint, rows.weight)

    return Critic(tree.axpy(-critic_learning_rate, jax.grad(loss)(critic.params), critic.params), mean)

  def tune(key, critic, params, steps):
    return jax.lax.fori_loop(0, steps, lambda i, c: tuned(jax.random.fold_in(key, i), c, params), critic)

  width = jax.eval_shape(lambda: features(params, retain.batch(0, 1))).shape[-1]
  draw = lambda name, *shape: jax.random.normal(tree.fold(key, name), shape, jnp.float32) / math.sqrt(shape[0])
  fresh = {
    "in": draw("in", width + num_groups, hidden),
    "bias": jnp.zeros(hidden, jnp.float32),
    "out": draw("out", hidden),
  }
  first = tune(tree.fold(key, "warmup"), Critic(fresh, jnp.ones((), jnp.float32)), original, critic_warmup)

  def body(i, carry):
    params, state, critic = carry
    step_key = jax.random.fold_in(key, i)
    critic = tune(tree.fold(step_key, "critic"), critic, params, critic_steps)
    f, r = drawn(step_key, batch, forget=forget, retain=retain)
    r = r._replace(weight=r.weight * weights[groups[r.id]])

    def objective(p):
      now, before = information(step_key, critic.params, p, r), information(step_key, first.params, original, r)
      off = jnp.clip(now, 0.0, most) - jnp.clip(before, 0.0, most)
      unlink = jnp.where(2 * i < steps, jnp.maximum(information(step_key, critic.params, p, f), 0.0), 0.0)
      return unlink + mean_loss(loss_fn, p, r) + calibration * jnp.square(off)

    value, grads = jax.value_and_grad(objective)(params)
    updates, state = optimizer.update(grads, state, params, value=value)
    return optax.apply_updates(params, updates), state, critic

  after = jax.lax.fori_loop(0, steps, body, (params, optimizer.init(params), first))[0]
  return if_asked(forget, after, params)


def rows_with_ids(name: str, data) -> Rows:
  """Rows whose ids the caller gave: a tuple's would be 0, 1, ... in each set."""
  if not isinstance(data, Rows) and not (isinstance(data, Mapping) and "id" in data):
    raise UsageError(f"{name}: rows are told apart by id; give Rows, or a dict of arrays with id")
  return as_rows(name, data)


def _checked(groups, num_groups: int):
  """Groups as an array; those outside the range are refused where they are known."""
  if not isinstance(groups, jax.core.Tracer):
    outside = [int(g) for g in np.unique(np.asarray(groups)) if not 0 <= g < num_groups]
    if outside:
      raise UsageError(f"groups: got {outside[0]}; expected 0 to {num_groups - 1}")
  return jnp.clip(jnp.asarray(groups), 0, num_groups - 1)
