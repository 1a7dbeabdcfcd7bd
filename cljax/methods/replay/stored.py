"""What methods that judge stored rows share: drawing among some of them or by weight, the loss of each row, and
numbers kept beside them."""

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
