"""ER with asymmetric metric learning: new rows are contrasted with few rows of the classes beside them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Batch, Spec, UsageError
from cljax.memory import slots
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  append,
  at_places,
  drawn,
  example_row,
  grouped,
  insert_pending,
  make_memory,
  offered,
  places,
  rows_of,
  scrub_memory,
  start,
)
from cljax.methods.replay.er_ace import labels_of

BASE = 0.07  # the loss is scaled by temperature / BASE


def pairs(key, y, weight, stored_y, stored, num_classes: int):
  """``(positive [B], negative [B], valid [B])``: for each row of the batch a place among ``[stored; batch]`` of a row
  of its label other than itself, and of one of another label that the batch has, both drawn uniformly; invalid where
  either is lacking, or the row."""
  size = y.shape[0]
  ys, there = jnp.concatenate([stored_y, y]), jnp.concatenate([stored > 0, weight > 0])
  alike = y[:, None] == ys[None]
  itself = jnp.arange(ys.shape[0])[None] == stored_y.shape[0] + jnp.arange(size)[:, None]
  beside = labels_of(y, weight, num_classes)[ys]
  noise = jax.random.uniform(key, (2, *alike.shape))
  which = jnp.stack([alike & ~itself & there[None], ~alike & (beside & there)[None]])
  at = jnp.argmax(jnp.where(which, noise, -1.0), axis=-1).astype(jnp.int32)
  return at[0], at[1], which.any(-1).all(0) & (weight > 0)


def asymmetric_contrast(anchors, others, y, other_y, valid, temperature):
  """``-T/0.07 mean_i mean_{p of y_i} log e^{a_i.c_p/T} / sum_j e^{a_i.c_j/T}`` over valid anchors; j runs over the
  others of all valid ones. anchors ``[B, D]``, others ``[2B, D]``, both of norm 1; 0 where none is valid."""
  there = jnp.concatenate([valid, valid])
  logits = jnp.where(there[None], anchors @ others.T / temperature, -1e9)
  log_p = jax.nn.log_softmax(logits, axis=-1)
  mine = (y[:, None] == other_y[None]) & there[None] & valid[:, None]
  each = -jnp.sum(jnp.where(mine, log_p, 0.0), axis=-1) / jnp.maximum(jnp.sum(mine, -1, dtype=jnp.float32), 1.0)
  return temperature / BASE * jnp.sum(jnp.where(valid, each, 0.0)) / jnp.maximum(jnp.sum(valid, dtype=jnp.float32), 1.0)


def er_aml(
  model, spec: Spec, *, beta, temperature, capacity: int, policy: str = "reservoir", replay_batch: int = 0,
  insert: str = "once",
) -> Method:  # fmt: skip
  """ER-AML: ``SupCon(current; positives, negatives) + beta mean CE(memory)``: new rows move features, not logits.

  Each current row has one positive and one negative from the memory and the batch (:func:`pairs`); a negative has a
  label of the batch, which stands for its task. Rows without either take no part. While nothing is stored the loss is
  the cross-entropy of the current rows. Features are normalised. A step passes over two rows more for each current one,
  and draws of all stored ones. Options else as in :func:`cljax.methods.replay.er_ace.er_ace`; ``temperature`` 0.1 is
  the paper's. Raises UsageError for a model without features. Spec A2; Caccia et al., 2022.
  """
  del model
  memory, classes = make_memory(spec, capacity, policy), spec.num_classes
  size = min(replay_batch or spec.batch_size, capacity)

  def prepare(key, learner, batch):
    state = insert_pending(key, memory, learner.method_state)
    stored, there = memory.contents(state.memory)
    own = rows_of(spec, batch)
    here = batch.weight[: spec.batch_size]
    positive, negative, valid = pairs(fold(key, "pairs"), own["y"], here, stored["y"], there, classes)
    at, first = jnp.concatenate([positive, negative]), there.shape[0]

    def one(kept, new):
      old = at < first
      found = slots.read(kept, jnp.where(old, at, first))
      return jnp.where(old.reshape(-1, *(1,) * (kept.ndim - 1)), found, new[jnp.maximum(at - first, 0)])

    picked = jax.tree.map(one, stored, own)
    weight = jnp.concatenate([valid, valid]).astype(jnp.float32)
    clear = lambda a: jnp.where(weight.reshape(-1, *(1,) * (a.ndim - 1)) > 0, a, jnp.zeros_like(a))
    others: Batch = drawn(spec, jax.tree.map(clear, picked), weight, batch.visit)
    begun = (there > 0).any()
    batch = grouped(batch)
    batch = batch._replace(
      scale=batch.scale.at[0].set(jnp.where(begun, 0.0, batch.scale[0])),
      extra={**batch.extra, "aml": (valid & begun, places(batch, 2 * spec.batch_size))},
    )
    batch = append(batch, others, scale=0.0)
    rows, weight = memory.sample(fold(key, "sample"), state.memory, size)
    batch = append(batch, drawn(spec, rows, weight, batch.visit), scale=beta)
    return learner._replace(method_state=state), batch

  def term(key, params, learner, batch, outputs):
    del key, params, learner
    if outputs.features is None:
      raise UsageError("method.name: 'er_aml' needs a model that returns features (Outputs.features is None)")
    valid, at = batch.extra["aml"]
    unit = lambda f: f / jnp.maximum(jnp.linalg.norm(f, axis=-1, keepdims=True), 1e-12)
    flat = lambda f: f.reshape(f.shape[0], -1).astype(jnp.float32)
    own = slice(0, spec.batch_size)
    anchors, others = flat(outputs.features[own]), flat(at_places(outputs.features, at))
    there = jnp.concatenate([valid, valid])
    # A row that is not there has features of norm 0, whose direction has no derivative.
    anchors, others = jnp.where(valid[:, None], anchors, 1.0), jnp.where(there[:, None], others, 1.0)
    y = jax.lax.dynamic_slice_in_dim(batch.y, at[0], at.shape[0])
    return asymmetric_contrast(unit(anchors), unit(others), batch.y[own], y, valid, temperature)

  def after_step(key, learner, info):
    del key
    weight = offered(spec, info.batch, insert)
    return learner._replace(
      method_state=learner.method_state._replace(pending=rows_of(spec, info.batch), weight=weight)
    )

  return Method(
    init=lambda key, learner: start(memory, spec, example_row(spec)),
    prepare=prepare,
    terms={"aml": term},
    after_step=after_step,
    scrub=scrub_memory(memory),
  )


register(
  "er_aml",
  Entry(er_aml, {"beta": Option(1.0, 0), "temperature": Option(0.1, 1e-6), **BUFFER}, ACCESS, "Caccia et al. 2022"),
)
