"""What methods that judge stored rows share: drawing among some of them or by weight, picking the highest or those that
cover the others, the loss of each row, and numbers kept beside them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.types import Batch, Spec
from cljax.memory import slots
from cljax.objectives.objective import mean_loss, of_rows


def draw_among(key, memory, state, n: int, open_=None):
  """``(at [n], rows, weight [n])``: slots and rows drawn uniformly without replacement among those stored of which
  ``open_(rows) -> [capacity]`` bool holds (None: all); weight 0 where there are fewer. O(capacity)."""
  rows, there = memory.contents(state)
  allowed = (there > 0) if open_ is None else (there > 0) & open_(rows)
  size = there.shape[0]
  noise, at = jax.lax.top_k(jnp.where(allowed, jax.random.uniform(key, (size,)), -1.0), min(n, size))
  weight = (noise >= 0).astype(jnp.float32)
  at = jnp.where(weight > 0, at.astype(jnp.int32), size)
  return at, slots.read(rows, at), weight


def draw_by_weight(key, memory, state, n: int, of_rows):
  """``(at [n], rows, weight [n])``: slots and rows drawn without replacement among those stored, each draw with a
  chance in proportion to ``of_rows(rows) -> [capacity]``, numbers of at least 0; weight 0 where fewer are above 0."""
  rows, there = memory.contents(state)
  chance = jnp.where(there > 0, of_rows(rows), 0.0)
  size = there.shape[0]
  noise = jnp.log(chance) + jax.random.gumbel(key, (size,))  # the order of a race of exponentials
  noise, at = jax.lax.top_k(jnp.where(chance > 0, noise, -jnp.inf), min(n, size))
  weight = (noise > -jnp.inf).astype(jnp.float32)
  at = jnp.where(weight > 0, at.astype(jnp.int32), size)
  return at, slots.read(rows, at), weight


def highest(rows, weight, score, n: int):
  """``(rows, weight)``: the ``n`` rows of the highest ``score [C]`` among those of positive weight."""
  size = min(n, weight.shape[0])  # a ring may have fewer slots than its capacity
  at = jax.lax.top_k(jnp.where(weight > 0, score, -jnp.inf), size)[1]
  return slots.read(rows, at), weight[at]


def covering(rows, weight, likeness, value, strength, n: int):
  """``(rows, weight)``: ``n`` of the rows S of positive weight that make ``sum_i max_{j in S} likeness_ij + strength
  log(1 + sum_{j in S} value_j)`` large, found greedily; of equal gains the first.

  ``likeness [C, C]``, ``value [C]`` and ``strength`` are at least 0: facility location and a concave function of a sum,
  both monotone and submodular, so that the greedy set has at least ``1 - 1/e`` of the best one's. i runs over all rows
  that are there. Weight 0 where there are fewer than n. O(n C^2).
  """
  there = weight > 0
  size = min(n, weight.shape[0])
  likeness = jnp.where(there[:, None] & there[None], likeness, 0.0)
  value = jnp.where(there, value, 0.0)

  def pick(k, carry):
    at, covered, total, free = carry
    worth = jnp.log1p(total + value) - jnp.log1p(total)
    gain = jnp.maximum(likeness - covered[:, None], 0.0).sum(0) + strength * worth
    best = jnp.argmax(jnp.where(free, gain, -jnp.inf)).astype(jnp.int32)
    best = jnp.where(free.any(), best, jnp.int32(weight.shape[0]))
    grown = jnp.maximum(covered, likeness.at[:, best].get(mode="fill", fill_value=0))
    more = total + value.at[best].get(mode="fill", fill_value=0)
    return at.at[k].set(best), grown, more, free.at[best].set(False, mode="drop")

  start = (jnp.zeros(size, jnp.int32), jnp.zeros_like(value), jnp.zeros((), value.dtype), there)
  at = jax.lax.fori_loop(0, size, pick, start)[0]
  return slots.read(rows, at), weight.at[at].get(mode="fill", fill_value=0)


def with_numbers(state, at, **numbers):
  """The memory with other numbers beside the rows in the distinct slots ``at [n]``; slots past the end are dropped."""
  size = jax.tree.leaves(state.rows)[0].shape[0]
  place = jnp.where(at < size, at, size + jnp.arange(at.shape[0], dtype=at.dtype))
  changed = {f: slots.write(state.rows[f], v, place) for f, v in numbers.items()}
  return state._replace(rows={**state.rows, **changed})


def row_losses(model, spec: Spec, params, model_state, batch: Batch, key):
  """``[B]``: the objective's loss of each row, in eval mode; the rows are as they were read. 0 of those of weight 0."""
  x = spec.view(batch.x, batch.task)
  told = {"task": model.task_for(batch.task), "mask": None}
  out, _ = model.apply(params, model_state, x, train=False, key=key, **told)
  each = of_rows(*spec.objective.each(out.logits, batch._replace(x=x)))
  return jnp.where(batch.weight > 0, each, 0.0)


def train_loss(model, spec: Spec, params, model_state, batch: Batch, key):
  """The mean loss of rows as they were read, in train mode; what BatchNorm counted is left where it is."""
  x = spec.view(batch.x, batch.task)

  def apply(key, params, batch):
    mask = (batch.weight > 0).astype(jnp.float32)
    return model.apply(params, model_state, batch.x, train=True, key=key, task=model.task_for(batch.task), mask=mask)

  return mean_loss(spec.objective, key, apply, params, batch._replace(x=x, group=None, scale=None))


def own_rows(spec: Spec, batch: Batch) -> Batch:
  """The current rows of a batch alone, which stand first."""
  cut = lambda a: None if a is None else jax.tree.map(lambda v: v[: spec.batch_size], a)
  parts = {f: cut(getattr(batch, f)) for f in ("x", "y", "weight", "id", "task", "class_mask", "fresh")}
  return batch._replace(**parts, group=None, scale=None, extra={})
