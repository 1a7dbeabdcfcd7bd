"""CoPE: rows are drawn to the prototype of their class and to one another; prototypes follow as running means."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  Replay,
  append,
  drawn,
  example_row,
  insert_pending,
  make_memory,
  offered,
  rows_of,
  scrub_memory,
  start,
)
from cljax.methods.replay.er_ace import labels_of
from cljax.models import heads
from cljax.objectives.rows import of_terms_alone

_FAR = -1e9  # in place of the logarithm of 0, where a slope is taken


class Evolving(NamedTuple):
  """The memory of :func:`cope`, and where its classes lie."""

  replay: Replay
  prototypes: Any  # [C, W] float32 of norm 1
  seen: Any  # [C] bool: which labels the rows have had


def _log_sum(values, where):
  """``log sum exp`` along the last axis over ``where``; far below 0 where there is nothing."""
  return jax.nn.logsumexp(jnp.where(where, values, _FAR), axis=-1)


def pseudo_prototypical(z, prototypes, y, weight, classes, temperature):
  """The attractor and repellor of each row, ``[B]``, by :func:`cope`'s formula.

  z ``[B, W]`` and prototypes ``[C, W]`` of norm 1; classes ``[B, C]`` bool, the prototypes that there are for a row.
  Rows of weight 0 are no pseudo-prototypes. Of the gradient, rows get what is theirs as rows; prototypes, and rows as
  pseudo-prototypes, get none.
  """
  fixed, there = jax.lax.stop_gradient((prototypes, z)), weight > 0
  to_class, to_row = z @ fixed[0].T / temperature, z @ fixed[1].T / temperature
  others = classes[:, None] & (jnp.arange(prototypes.shape[0])[None] != y[:, None])[None]  # [row, pseudo, class]
  rest = _log_sum(to_class[:, None], others)
  pseudo, own = to_row - rest, to_class[:, y] - rest  # logits of P; [row, pseudo] and the prototype of its class
  same, itself = y[:, None] == y[None], jnp.eye(y.shape[0], dtype=bool)
  # A row stands in its own place in the sum with the prototype of its class.
  near = jax.nn.log_sigmoid(jnp.where(itself, own, pseudo))
  mates = (same & there[None]) | itself
  attractor = jnp.log(jnp.sum(mates, -1, dtype=jnp.float32)) - _log_sum(near, mates)
  apart = jnp.logaddexp(jax.nn.log_sigmoid(-pseudo), jax.nn.log_sigmoid(-own)) - jnp.log(2.0)
  return attractor - jnp.sum(jnp.where(~same & there[None], apart, 0.0), axis=-1)


def moved(prototypes, z, y, weight, momentum):
  """The prototypes behind a step: ``unit(momentum p_c + (1 - momentum) mean z_c)`` of the classes that have rows."""
  of = jax.nn.one_hot(y, prototypes.shape[0], dtype=jnp.float32) * (weight > 0).astype(jnp.float32)[:, None]
  count = of.sum(0)[:, None]
  mean = of.T @ z / jnp.maximum(count, 1.0)
  return jnp.where(count > 0, heads.unit(momentum * prototypes + (1.0 - momentum) * mean), prototypes)


def cope(
  model, spec: Spec, *, temperature, momentum, capacity: int, policy: str = "class_balanced", replay_batch: int = 0,
  insert: str = "once", width: int = 32,
) -> Method:  # fmt: skip
  """CoPE: ``-mean_i [log mean_(u in U_i) P(u|i) + sum_(k: y_k != y_i) log(1 - (P(z_k|i) + P(p_(y_k)|i)) / 2)]``.

  ``P(u|i) = s(u) / (s(u) + sum_(c other than u's class) s(p_c))`` with ``s(u) = exp(u.z_i / T)``; U_i are the prototype
  of i's class and the other rows of that class. Rows are the current and stored ones of a step; z are a linear layer of
  the features to ``width`` numbers, of norm 1. It is the logarithm of the mean, summed over rows, and the whole is
  divided by their number; a row is none of its own pseudo-prototypes; with one class in the batch there is no repellor.
  Behind each step ``p_c <- unit(momentum p_c + (1 - momentum) mean z_c)`` of the classes in it, z from before its
  update; the paper's momentum is of a thousand steps a task, and fewer want less. Answers: ``p_c.z / T``, -inf for
  labels that no row has had yet; a request that takes a class whole makes it one of these again, at its first
  prototype; of other requests prototypes keep their share of a running mean.

  Deviations: pseudo-prototypes get no gradient from the repellor either, where the released code lets it through;
  prototypes begin as ``unit(U(-1, 1))``, where that code's have no negative entries; the memory is used in full by the
  classes there are, where it has a fixed part for each. Raises UsageError for a model without features. Spec A8; De
  Lange & Tuytelaars, 2021.
  """
  network = heads.with_embedding(model, spec, "cope", width, replaces=True)
  memory, classes = make_memory(spec, capacity, policy), spec.num_classes
  size, scrub_rows = min(replay_batch or spec.batch_size, capacity), scrub_memory(memory)

  def first(learner):
    """The prototypes that classes begin with."""
    draw = jax.random.uniform(fold(learner.key, "prototypes"), (classes, width), jnp.float32, -1.0, 1.0)
    return heads.unit(draw)

  def prepare(key, learner, batch):
    state, own = learner.method_state, slice(0, spec.batch_size)
    seen = state.seen | labels_of(batch.y[own], batch.weight[own], classes)
    replay = insert_pending(key, memory, state.replay)
    rows, weight = memory.sample(fold(key, "sample"), replay.memory, size)
    batch = of_terms_alone(append(batch, drawn(spec, rows, weight, batch.visit)))
    return learner._replace(method_state=state._replace(replay=replay, seen=seen)), batch

  def term(key, params, learner, batch, outputs):
    del key, params
    state = learner.method_state
    there = jnp.broadcast_to(state.seen, (*batch.weight.shape, classes))
    there = there if batch.class_mask is None else there & batch.class_mask
    each = pseudo_prototypical(outputs.features, state.prototypes, batch.y, batch.weight, there, temperature)
    return losses.reduce(each, batch.weight)

  def after_step(key, learner, info):
    del key
    state, batch = learner.method_state, info.batch
    prototypes = moved(state.prototypes, info.outputs.features, batch.y, batch.weight, momentum)
    replay = state.replay._replace(pending=rows_of(spec, batch), weight=offered(spec, batch, insert))
    return learner._replace(method_state=state._replace(replay=replay, prototypes=prototypes))

  def predict(key, learner, x, task):
    state, told = learner.method_state, {"task": network.task_for(task), "mask": None}
    out, _ = network.apply(learner.params, learner.model_state, x, train=False, key=key, **told)
    near = out.features @ state.prototypes.T / temperature
    return jnp.where((state.seen | ~state.seen.any())[None], near, -jnp.inf)

  def scrub(learner, request):
    state, gone = learner.method_state, request.classes
    replay = scrub_rows(learner._replace(method_state=state.replay), request).method_state
    prototypes = jnp.where(gone[:, None], first(learner), state.prototypes)
    return learner._replace(method_state=Evolving(replay, prototypes, state.seen & ~gone))

  def init(key, learner):
    del key
    return Evolving(start(memory, spec, example_row(spec)), first(learner), jnp.zeros(classes, bool))

  return Method(
    network, init, prepare=prepare, terms={"cope": term}, after_step=after_step, predict=predict, scrub=scrub
  )


register(
  "cope",
  Entry(
    cope,
    {
      "temperature": Option(0.1, 0, above=True),
      "momentum": Option(0.99, 0, 1),
      "width": Option(32, 1),
      **BUFFER,
      "policy": BUFFER["policy"]._replace(default="class_balanced"),
    },
    ACCESS._replace(needs=("classes", "plain_inputs")),
    "De Lange & Tuytelaars 2021",
  ),
)
