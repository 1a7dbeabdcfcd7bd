"""Forgetting by matching outputs: those of models that never saw the rows, or a linear datamodel's guess of them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cljax.core import rows as picking
from cljax.core.dtypes import wide
from cljax.core.rows import RowsLike, as_rows
from cljax.core.tree import fold
from cljax.core.types import ApplyFn, Array, Batch, Params, Rows, Scalar
from cljax.objectives.objective import Objective
from cljax.unlearning._common import cross_entropy, drawn, key_of, mean_loss, minimize, moved2, outputs_of
from cljax.unlearning.groups import rows_with_ids


def oracle_matching(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  init_fn: Callable[[Array], Params] | None = None,
  key: Array | None = None,
  oracle_params: Params | None = None,
  oracles: int = 10,
  oracle_steps: int = 200,
  oracle_learning_rate: Scalar = 0.1,
  rows: int = 64,
  weight_decay: Scalar = 0.0,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """Oracle matching: ``min E_x |z_theta(x) - t(x)|^2 + weight_decay |theta - theta0|^2``, t the oracles' mean logits.

  x runs over at most ``rows`` forget rows and 3 times as many retain rows, drawn without replacement, in random batches
  (the release does not shuffle). Oracles are trained here, from ``init_fn(key) -> params``, by ``oracle_steps`` of SGD
  on random retain batches; or given as ``oracle_params``, a tree like ``params`` with a leading axis. A shift of a
  row's logits changes no prediction: t has the row mean of theta0's. Under an objective ``learned``, in the place of
  classification, z is its prediction as it is, and its loss trains the oracles. The default optimizer is Adam at 5e-4.
  A request without rows changes nothing. Spec B9; arXiv 2410.23232.
  """
  forget, retain, key = as_rows("forget", forget), as_rows("retain", retain), key_of(key, "oracle_matching")
  pool = matching_pool(key, forget, retain, rows)
  if oracle_params is None:
    train = lambda i: _trained(
      fold(jax.random.fold_in(key, i), "oracle"),
      apply_fn,
      init_fn,
      retain,
      oracle_steps,
      batch,
      oracle_learning_rate,
      learned,
    )
    found = jax.lax.map(lambda i: _logits(apply_fn, train(i), pool), jnp.arange(oracles))
  else:
    found = jax.lax.map(lambda p: _logits(apply_fn, p, pool), oracle_params)
  own = _logits(apply_fn, params, pool)
  off = found.mean(0) - own
  targets = own + (centred(off, pool.class_mask) if learned is None else off)
  given = {"weight_decay": weight_decay, "optimizer": optimizer, "batch": batch, "learned": learned}  # type: dict
  return fit_logits(apply_fn, params, pool, targets, key=key, steps=_unless_empty(steps, pool, rows), **given)


def datamodel_matching(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  init_fn: Callable[[Array], Params],
  key: Array | None = None,
  oracles: int = 100,
  oracle_steps: int = 200,
  oracle_learning_rate: Scalar = 0.1,
  inclusion: Scalar = 0.5,
  ridge: Scalar = 1.0,
  rescale: bool = False,
  multiplier: Scalar = 1.0,
  rows: int = 64,
  weight_decay: Scalar = 0.0,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """Datamodel matching: as :func:`oracle_matching` with ``t(x) = z_theta0(x) - multiplier sum_{i in D_f} tau_i(x)``.

  tau is a ridge regression of the (centred) logits of ``oracles`` nets on which rows each was trained on; a row is in
  with probability ``inclusion``, decided by its id, so both sides must carry ids of their own. Fewer nets than rows, or
  a large ``ridge``, shrink tau: to about their ratio, which ``rescale`` (a run's default; the release has nets enough)
  takes back (:func:`datamodel_effect`), with the noise of few nets. It extrapolates linearly from random subsets, none
  of which lacks all of a large forget set: **it forgets no whole class**, whatever its options. Spec B9; arXiv
  2410.23232.
  """
  forget, retain, key = rows_with_ids("forget", forget), rows_with_ids("retain", retain), key_of(key, "datamodel")
  pool, everything = matching_pool(key, forget, retain, rows), joined(forget, retain)
  first, second = forget.batch(0, forget.capacity), retain.batch(0, retain.capacity)
  ids, there = (jnp.concatenate([getattr(first, f), getattr(second, f)]) for f in ("id", "weight"))
  gone = jnp.concatenate([first.weight > 0, jnp.zeros(second.weight.shape, bool)])

  def one(i):
    own = jax.random.fold_in(key, i)
    subset, chosen = random_subset(fold(own, "subset"), everything, inclusion)
    net = _trained(fold(own, "net"), apply_fn, init_fn, subset, oracle_steps, batch, oracle_learning_rate, learned)
    z = _logits(apply_fn, net, pool)
    z = centred(z, pool.class_mask) if learned is None else z
    return z, jnp.where(there > 0, chosen(ids), 0.0)

  outputs, included = jax.lax.map(one, jnp.arange(oracles))
  targets = _logits(apply_fn, params, pool) - multiplier * datamodel_effect(outputs, included, gone, ridge, rescale)
  given = {"weight_decay": weight_decay, "optimizer": optimizer, "batch": batch, "learned": learned}  # type: dict
  return fit_logits(apply_fn, params, pool, targets, key=key, steps=_unless_empty(steps, pool, rows), **given)


def datamodel_effect(outputs: Array, included: Array, gone: Array, ridge: Scalar, rescale: bool = False) -> Array:
  """``sum_{i in gone} tau_i``, shape ``[...]``: what a linear datamodel says the rows ``gone [N]`` add to an output.

  ``outputs [M, ...]`` of M models, ``included [M, N]`` 0/1; ``tau = A^T (A A^T + ridge I)^-1 Z``, both centred over
  models. Exact for additive outputs and ``ridge`` to 0, where the models tell the rows apart. Fewer models than rows
  give ``P tau`` of an additive output, ``P = A^T (A A^T + ridge I)^-1 A``, of which a row has ``tr P / N`` on average
  over who is included: ``rescale`` divides by that, N the rows that some models have and others lack.
  """
  a = included - included.mean(0, keepdims=True)
  z = (outputs - outputs.mean(0, keepdims=True)).reshape(outputs.shape[0], -1)
  dual = jax.scipy.linalg.solve(a @ a.T + ridge * jnp.eye(a.shape[0], dtype=a.dtype), z, assume_a="pos")
  effect = ((a @ gone.astype(a.dtype)) @ dual).reshape(outputs.shape[1:])
  if not rescale:
    return effect
  values = jnp.maximum(jnp.linalg.eigvalsh(a @ a.T), 0.0)
  varies = jnp.any(a != 0, 0).sum().astype(a.dtype)
  trace = jnp.sum(values / (values + ridge))
  return effect * jnp.where(trace > 0, varies / jnp.where(trace > 0, trace, 1.0), 1.0).astype(effect.dtype)


def fit_logits(
  apply_fn, params, pool: Batch, targets, *, key, steps, batch: int, weight_decay=0.0, optimizer=None, learned=None
):
  """``steps`` on ``mean_b sum_c (z - t)^2 + weight_decay |theta - theta0|^2``, on random batches of ``pool``.

  ``targets [P, C]`` belong to the rows of ``pool`` by place; classes outside a row's mask do not
  count, nor do parts of a row that the objective ``learned`` does not count (tokens).
  """
  original = params

  def objective(key, params, step):
    del step
    # By weight: rows that are not there are not drawn.
    at = jax.random.categorical(key, jnp.log(pool.weight), shape=(batch,))
    some = jax.tree.map(lambda a: a[at], pool)
    off = _logits(apply_fn, params, some) - targets[at]
    off = off if some.class_mask is None else jnp.where(some.class_mask, off, 0.0)
    if learned is not None:
      inside = None if learned.parts is None else learned.parts(some)
      off = off if inside is None else off * inside.reshape(*inside.shape, *(1,) * (off.ndim - inside.ndim))
      off = off.reshape(batch, -1)
    return jnp.square(off).sum(-1).mean() + weight_decay * moved2(params, original)

  return minimize(key, objective, params, steps=steps, optimizer=optimizer or optax.adam(5e-4))


def matching_pool(key, forget: Rows, retain: Rows, rows: int) -> Batch:
  """At most ``rows`` forget rows and 3 times as many retain rows, drawn without replacement."""
  sides = ("forget", forget, rows), ("retain", retain, 3 * rows)
  parts = [picking.sample(fold(key, f"{name}_pool"), side, size) for name, side, size in sides]
  return jax.tree.map(lambda f, r: jnp.concatenate([f, r]), *parts)


def joined(first: Rows, second: Rows) -> Rows:
  """The rows of both sets, one behind the other."""

  def one(at):
    a, b = first.batch(at, 1), second.batch(jnp.maximum(at - first.count, 0), 1)
    return jax.tree.map(lambda u, v: jnp.where(at < first.count, u, v)[0], a, b)

  def batch(start, size):
    return jax.vmap(one)(start + jnp.arange(size))

  return Rows(first.capacity + second.capacity, first.count + second.count, batch)


def centred(logits, class_mask=None):
  """Logits less their mean over the classes that take part; 0 at the others."""
  if class_mask is None:
    return logits - logits.mean(-1, keepdims=True)
  mean = jnp.sum(logits, -1, keepdims=True, where=class_mask) / jnp.maximum(
    class_mask.sum(-1, keepdims=True), 1
  ).astype(logits.dtype)
  return jnp.where(class_mask, logits - mean, 0.0)


def random_subset(key, rows: Rows, inclusion):
  """``(rows with weight 0 for those left out, chosen(ids) -> 0/1)``: each row is in by its id, with one probability."""

  def chosen(ids):
    draws = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), dtype=jnp.float32))(ids)
    return (draws < inclusion).astype(jnp.float32)

  def batch(start, size):
    some = rows.batch(start, size)
    return some._replace(weight=some.weight * chosen(some.id))

  return Rows(rows.capacity, rows.count, batch), chosen


def _trained(key, apply_fn, init_fn, rows: Rows, steps, batch, learning_rate, learned=None):
  """A net from ``init_fn``, after SGD on random batches of ``rows``."""
  loss_fn = cross_entropy(apply_fn, learned)
  objective = lambda key, params, step: mean_loss(loss_fn, params, *drawn(key, batch, rows=rows))
  return minimize(
    fold(key, "order"), objective, init_fn(fold(key, "init")), steps=steps, optimizer=optax.sgd(learning_rate)
  )


def _logits(apply_fn, params, pool: Batch):
  logits = outputs_of(apply_fn, params, pool).logits
  if not isinstance(logits, jax.Array):  # of several arrays all numbers of a row
    logits = jnp.concatenate([a.reshape(a.shape[0], -1) for a in jax.tree.leaves(logits)], -1)
  return logits.astype(wide(logits.dtype))


def _unless_empty(steps: int, pool: Batch, rows: int):
  return jnp.where(pool.weight[:rows].sum() > 0, steps, 0)
