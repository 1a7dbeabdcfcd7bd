"""Models that read the task of their rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.types import Model, UsageError


def each_row(task, x):
  """``[B]`` int32: the task of each row of ``x [B, ...]`` (a tree too), of a scalar or of ``[B]``."""
  if task is None:
    raise UsageError("task: this model reads the task of its rows; got None")
  count = jax.tree.leaves(x)[0].shape[0]
  if jnp.ndim(task) > 1 or (jnp.ndim(task) and task.shape[0] != count):
    raise UsageError(f"task: has shape {jnp.shape(task)}; expected a scalar or one for each of {count} rows")
  return jnp.broadcast_to(jnp.asarray(task, jnp.int32), (count,))


def by_row(model: Model, num_tasks: int) -> Model:
  """A model that takes the task of each row out of one that takes one task for all: ``f(x_b, task_b)`` for each row b.

  ``task [B]`` makes one pass of ``model`` for each of ``num_tasks`` tasks, of which each row keeps its own task's: the
  cost is that of as many passes. A pass has the ``mask`` of its task's rows, so that BatchNorm sees those alone, and
  hands its ``model_state`` to the next. A scalar, or a single row, is one pass, ``model`` to the bit. There is no
  ``capture``. Raises UsageError for ``num_tasks`` below 1.
  """
  if num_tasks < 1:
    raise UsageError(f"num_tasks: got {num_tasks}; must be at least 1")

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    given = {"train": train, "key": key}
    if task is not None and jnp.shape(task) == (1,):
      task = task[0]
    if task is None or jnp.ndim(task) == 0:
      return model.apply(params, model_state, x, task=task, mask=mask, **given)
    task = each_row(task, x)
    there = jnp.ones(task.shape, jnp.float32) if mask is None else mask

    def one(state, number):
      own = jnp.where(task == number, there, jnp.zeros((), there.dtype))
      outputs, state = model.apply(params, state, x, task=number, mask=own, **given)
      return state, outputs

    state, every = jax.lax.scan(one, model_state, jnp.arange(num_tasks, dtype=jnp.int32))
    rows = jnp.arange(task.shape[0], dtype=jnp.int32)
    return jax.tree.map(lambda a: a[task, rows], every), state

  return model._replace(apply=apply, capture=None, by_task=True)
