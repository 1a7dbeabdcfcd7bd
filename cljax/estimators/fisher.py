"""The diagonal of the Fisher information, each kind by its name."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.types import Batch, Model, Params, Rows, Tree, UsageError
from cljax.estimators.per_sample import check_batch_size, per_sample_sums, rows_at_once, sum_over_batches, thinned

KINDS = ("exact", "sampled", "empirical", "batched", "reversed", "reversed_batched")
BATCHED = ("batched", "reversed_batched")


def _masked(logits, batch: Batch):
  return logits if batch.class_mask is None else jnp.where(batch.class_mask, logits, -jnp.inf)


def _toward(labels, probabilities, batch: Batch):
  """``d log p_label / d logits``, zero on the classes that take no part."""
  out = jax.nn.one_hot(labels, probabilities.shape[-1], dtype=probabilities.dtype) - probabilities
  return out if batch.class_mask is None else jnp.where(batch.class_mask, out, 0.0)


def _contrasts(p):
  """``(w [C - 1, B], v [C - 1, B, C])`` with ``sum_k w_k v_k v_k^T = diag(p) - p p^T``, the logits' Fisher information.

  Its Cholesky factor: ``v_k`` holds class ``k`` against those after it, ``e_k - sum_(j>k) (p_j / q_k) e_j`` with
  ``q_k = sum_(j>k) p_j``, and ``w_k = p_k q_k / (p_k + q_k)``. One backward pass fewer than over the classes.
  """
  after = jnp.cumsum(p[:, ::-1], -1)[:, ::-1]  # p_k + q_k
  q = after[:, 1:]
  weight = p[:, :-1] * q / jnp.where(after[:, :-1] > 0, after[:, :-1], 1.0)
  later = jnp.triu(jnp.ones((p.shape[-1],) * 2, p.dtype), 1)[:-1]
  share = later[None] * p[:, None] / jnp.where(q > 0, q, 1.0)[:, :, None]
  return weight.T, jnp.moveaxis(jnp.eye(p.shape[-1], dtype=p.dtype)[None, :-1] - share, 1, 0)


def default_kind(learned: Any) -> str:
  """The kind for an objective: 'exact' where it has a ``factor``, else 'sampled' where it has ``sample``, else
  'empirical'. Raises UsageError where it has no ``each`` either."""
  for kind, field in (("exact", "factor"), ("sampled", "sample"), ("empirical", "each")):
    if getattr(learned, field) is not None:
      return kind
  raise UsageError(f"objective: {learned.name!r} has no loss of one row, so no Fisher information")


def _check_learned(learned: Any, kind: str) -> None:
  if kind.startswith("reversed"):
    raise UsageError(f"kind: got {kind!r}, which needs classes; the objective {learned.name!r} has none")
  field = {"exact": "factor", "sampled": "sample"}.get(kind, "each")
  if getattr(learned, field) is None:
    raise UsageError(f"kind: got {kind!r}, which needs {field}; the objective {learned.name!r} has none")


def _row_sum(each, inside):
  """``[B]``: minus a row's log likelihood, over all its parts; what stands at a part of weight 0 reaches nothing."""
  each = each if inside is None else inside * jnp.where(inside != 0, each, 0.0)
  return each.reshape(each.shape[0], -1).sum(-1)


def _cotangents(learned: Any, kind: str, key, predictions, batch: Batch, first):
  """``(w [K, B], cotangent [K, B, ...])`` of an objective; ``first``: the place of the batch's first row."""
  if kind == "exact":
    factor = learned.factor(predictions, batch)  # [B, K, outputs of a row]
    moved = jnp.moveaxis(factor, 1, 0)
    return jnp.ones(moved.shape[:2], factor.dtype), moved.reshape(*moved.shape[:2], *predictions.shape[1:])
  if kind == "sampled":
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(batch.weight.shape[0]))
    alone = lambda t: jax.tree.map(lambda v: v[None], t)
    one = lambda k, p, row: jax.tree.map(lambda v: v[0], learned.sample(k, p[None], alone(row)).y)
    batch = batch._replace(y=jax.vmap(one)(keys, predictions, batch))
  slope = jax.grad(lambda p: _row_sum(*learned.each(p, batch)).sum())(predictions)
  first_leaf = jax.tree.leaves(slope)[0]
  return jnp.ones((1, first_leaf.shape[0]), first_leaf.dtype), jax.tree.map(lambda v: v[None], slope)


def fisher_diagonal(
  model: Model, params: Params, model_state: Tree, rows: Rows, *, kind: str = "exact", key: Any = None,
  batch_size: int = 64, samples: int | None = None, learned: Any = None,
) -> Tree:  # fmt: skip
  """``F = sum_n w_n E_y[(d log p(y | x_n) / d theta)^2] / sum_n w_n``, like ``params``, at eval mode.

  Made, and given, in at least float32 whatever the dtype of the parameters: a small square is lost in a narrower one.

  ``kind`` says over what ``y`` runs and what is squared:
    ``exact``      ``sum_c p(c|x) (...)^2`` over all classes: the diagonal of the true Fisher; C - 1 backward passes;
    ``sampled``    one ``y ~ p(. | x)`` a row, drawn with ``key``: unbiased for ``exact``;
    ``empirical``  the row's own label;
    ``batched``    the label's, but the *mean gradient of a batch* is squared, and batches are averaged with equal
                   weight: what several code bases call Fisher. It depends on ``batch_size`` and the order of rows.
    ``reversed``   the gradient of ``C(-z, y)``, the label's cross-entropy under reversed logits, in the place of log p:
                   ``e_y - softmax(-z)``, which stays where training has fitted the row and ``softmax(z) - e_y`` has
                   vanished. No Fisher information; EWC-DR's importance. ``reversed_batched`` squares it as ``batched``
                   does, as the released code has it.
  ``rows.count`` may be traced. Rows of weight 0 are as if absent (for ``batched``: they keep their place in the cut
  into batches). ``class_mask`` restricts a row's softmax. ``samples`` uses at most so many rows of positive weight,
  drawn with ``key`` (None: ``jax.random.key(0)``) without replacement. But for ``batched`` ones, ``batch_size`` changes
  speed and memory only, and which labels ``sampled`` draws; how many rows are passed over at once is chosen by the
  layers (:func:`rows_at_once`). No row of positive weight gives zeros.

  ``learned``: an :class:`~cljax.objectives.Objective` in the place of classification. ``log p`` is then minus the sum
  of ``each`` over a row's parts (a row of text: over its tokens), 'exact' takes its ``factor``, 'sampled' draws by its
  ``sample``, 'batched' squares the gradient of the weighted mean over all parts.

  Kirkpatrick et al. 2017 (EWC); Liu and Chang 2026 (EWC-DR; spec S11.4); kinds as in GMvandeVen/continual-learning,
  whose mean divides by n - 1; here by n.
  Raises UsageError for an unknown kind, a bad ``batch_size`` or ``samples``, ``sampled`` without ``key``, and a kind
  that the objective has nothing for.
  """
  if kind not in KINDS:
    raise UsageError(f"kind: got {kind!r}; allowed: {', '.join(KINDS)}")
  if kind == "sampled" and key is None:
    raise UsageError("key: kind='sampled' draws labels and needs a key; got None")
  check_batch_size(batch_size)
  if learned is not None:
    _check_learned(learned, kind)
  rows = thinned(rows, samples, key)
  if learned is not None and learned.inputs is not None:
    read = rows.batch
    rows = rows._replace(batch=lambda start, size: learned.inputs(read(start, size)))

  sign = -1 if kind.startswith("reversed") else 1

  def cotangents(logits, batch):
    if sign < 0:
      q = jax.nn.softmax(_masked(-logits, batch))
      return jnp.ones((1, q.shape[0]), q.dtype), _toward(batch.y, q, batch)[None]
    p = jax.nn.softmax(_masked(logits, batch))
    if kind == "exact":
      return _contrasts(p)
    y = batch.y
    if kind == "sampled":
      below = jnp.cumsum(p, -1) <= batch.extra["uniform"].astype(p.dtype)[:, None] * p.sum(-1, keepdims=True)
      y = jnp.minimum(below.sum(-1, dtype=jnp.int32), p.shape[-1] - 1)
    return jnp.ones((1, p.shape[0]), p.dtype), _toward(y, p, batch)[None]

  size = batch_size
  if kind not in BATCHED:
    size = rows_at_once(model, params, model_state, rows, batch_size, many=kind == "exact")
  if kind == "sampled" and learned is None:
    # one number a row, those that its batch has by itself, however many rows are passed over at once
    of_batch = lambda i: jax.random.uniform(jax.random.fold_in(key, i), (batch_size,), jnp.float32)
    numbers = jax.vmap(of_batch)(jnp.arange(-(-(rows.capacity + size) // batch_size))).reshape(-1)
  else:
    numbers = None

  def per_sample(batch, i):
    if numbers is not None:
      batch = batch._replace(extra={"uniform": jax.lax.dynamic_slice(numbers, (i * size,), (size,))})
    elif kind == "sampled":  # a row draws by its place, however many are passed over at once
      batch = batch._replace(extra={"place": i * size + jnp.arange(size, dtype=jnp.int32)})
    else:
      batch = batch._replace(extra={})

    def weighted(logits, batch):
      if learned is None:
        w, cotangent = cotangents(logits, batch)
      else:
        place = batch.extra.get("place", jnp.zeros(1, jnp.int32))[0]
        w, cotangent = _cotangents(learned, kind, key, logits, batch, place)
      w = w * batch.weight.astype(w.dtype)[None]
      there = lambda v: (batch.weight > 0).reshape(1, -1, *(1,) * (v.ndim - 2))
      return w, jax.tree.map(lambda v: jnp.where(there(v), v, 0.0), cotangent)

    return per_sample_sums(model, params, model_state, batch, weighted, jnp.square), batch.weight.sum()

  def batched(batch, i):
    del i

    def loss(p):
      task = batch.task if model.by_task else batch.task[0]
      logits = model.apply(p, model_state, batch.x, train=False, key=None, task=task)[0].logits
      if learned is not None:
        each, inside = learned.each(logits, batch)
        weight = batch.weight.reshape(-1, *(1,) * (each.ndim - 1)) * (jnp.ones_like(each) if inside is None else inside)
        return jnp.sum(jnp.where(weight > 0, each * weight, 0.0)) / jnp.maximum(weight.sum(), 1e-30)
      log_p = jax.nn.log_softmax(_masked(sign * logits.astype(wide(logits.dtype)), batch))
      nll = -jnp.take_along_axis(log_p, batch.y[:, None], 1)[:, 0]
      weight = batch.weight.astype(nll.dtype)
      return jnp.sum(jnp.where(weight > 0, nll * weight, 0.0)) / jnp.maximum(weight.sum(), 1e-30)

    square = lambda g: jnp.square(g.astype(wide(g.dtype)))
    return jax.tree.map(square, jax.grad(loss)(params)), (batch.weight.sum() > 0).astype(jnp.float32)

  like = (params, jax.ShapeDtypeStruct((), jnp.float32))
  total, weight = sum_over_batches(rows, size, like, batched if kind in BATCHED else per_sample)
  return tree.scale(1.0 / jnp.where(weight > 0, weight, 1.0), total)
