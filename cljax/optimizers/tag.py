"""TAG: a second moment per task, mixed by how the tasks' gradient directions relate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.checks import check_choice, check_scalar
from cljax.core.dtypes import wide
from cljax.core.opt_state import edit_states
from cljax.core.types import OptState, Scalar, UsageError


class TagState(NamedTuple):
  """Moments of the running task of :func:`scale_by_tag`, and directions and v of each finished one."""

  task: Any  # int32, tasks finished
  count: Any  # int32, steps in this task
  first: Any  # m of this task
  second: Any  # v of this task
  directions: Any  # [T, ...] m / ||m|| of each finished task
  seconds: Any  # [T, ...] v of each finished task


def scale_by_tag(
  num_tasks: int, b: Scalar = 5.0, b1: Scalar = 0.9, b2: Scalar = 0.99, base: str = "rmsprop", eps: Scalar = 1e-8
) -> optax.GradientTransformationExtraArgs:
  """Per tensor: ``g / (sqrt(V) + eps)`` with ``V = sum_{k<t} exp(-b cos(m, m_k)) v_k + exp(-b) v`` (``V = v`` at t =
  0).

  base: 'rmsprop' or 'adagrad' (``v += g^2``) step along g, 'adam' along the bias-corrected m. ``tag_next_task`` ends a
  task; moments and the count of the bias correction start anew then (the published code restarts the count every
  epoch). Memory: two copies of the parameters per task. ``exp(-b)`` on the own v makes the step ``exp(b/2)`` times the
  base optimizer's where old v are small: the learning rate must be smaller. A tensor without direction (m = 0) has
  cosine 0, where the published code gives NaN. Moments are kept in at least float32. Raises UsageError for a wrong
  base, num_tasks below 1, b below 0, or complex parameters. Malviya et al. 2022.
  """
  check_choice("tag", "base", base, ("rmsprop", "adagrad", "adam"))
  check_scalar("tag", "num_tasks", num_tasks, 1, whole=True)
  for argument, value in (("b1", b1), ("b2", b2)):
    check_scalar("tag", argument, value, 0, 1)
  check_scalar("tag", "b", b)
  check_scalar("tag", "eps", eps)

  def init(params):
    tree.refuse_complex("tag", params)
    zeros = lambda: jax.tree.map(lambda x: tree.empty_like(x, wide(x.dtype)), params)
    stacked = lambda: tree.zero_stack(zeros(), num_tasks)
    return TagState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), zeros(), zeros(), stacked(), stacked())

  def update(updates, state, params=None, **extra):
    del params, extra
    updates = tree.fit(updates, state.first, "tag: updates")
    count = state.count + 1
    adam = base == "adam"
    gain = 1.0 if base == "adagrad" else 1 - b2
    keep = 1.0 if base == "adagrad" else b2
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g.astype(m.dtype), state.first, updates)
    second = jax.tree.map(lambda v, g: keep * v + gain * jnp.square(g.astype(v.dtype)), state.second, updates)
    past = jnp.arange(num_tasks, dtype=jnp.int32) < state.task

    def step(g, m, v, directions, seconds):
      axes = tuple(range(1, directions.ndim))
      size = jnp.sqrt(jnp.sum(jnp.square(m)))
      cosine = jnp.sum(directions * m[None], axis=axes) / jnp.where(size > 0, size, 1)
      alpha = jnp.where(past, jnp.exp(-b * cosine), 0.0).astype(m.dtype)
      own = jnp.where(state.task > 0, jnp.exp(-jnp.asarray(b, m.dtype)), 1.0)
      mixed = jnp.sum(alpha.reshape(-1, *(1,) * m.ndim) * seconds, axis=0) + own * v
      along = g.astype(m.dtype)
      if adam:
        steps = count.astype(m.dtype)
        along, mixed = m / (1 - b1**steps), mixed / (1 - b2**steps)
      return (along / (jnp.sqrt(mixed) + eps)).astype(g.dtype)

    new = jax.tree.map(step, updates, first, second, state.directions, state.seconds)
    return new, state._replace(count=count, first=first, second=second)

  return optax.GradientTransformationExtraArgs(init, update)


def tag(
  learning_rate: optax.ScalarOrSchedule, num_tasks: int, b: Scalar = 5.0, b1: Scalar = 0.9, b2: Scalar = 0.99,
  base: str = "rmsprop", eps: Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """``scale_by_tag`` and the step ``-learning_rate``. Call ``tag_next_task`` at every task boundary."""
  rule = scale_by_tag(num_tasks, b, b1, b2, base, eps)
  return optax.with_extra_args_support(optax.chain(rule, optax.scale_by_learning_rate(learning_rate)))


def tag_next_task(opt_state: OptState) -> OptState:
  """Ends a task for every TAG state in ``opt_state``: its direction and v are stored, its moments start anew.

  Raises UsageError where there is no TAG state, or (concrete) where ``num_tasks`` tasks are stored already.
  """

  def end(state: TagState) -> TagState:
    capacity = jax.tree.leaves(state.seconds)[0].shape[0]
    task = state.task
    if not isinstance(task, jax.core.Tracer) and jnp.ndim(task) == 0 and int(task) >= capacity:
      raise UsageError(f"tag: num_tasks is {capacity} and all are stored; build tag with more")

    def unit(m):
      size = jnp.sqrt(jnp.sum(jnp.square(m)))
      return m / jnp.where(size > 0, size, 1)

    def store(stack, x):
      # A select, not a write by index: it leaves every device its part of a sharded stack.
      here = (jnp.arange(capacity, dtype=jnp.int32) == task).reshape(-1, *(1,) * x.ndim)
      return jnp.where(here, x[None], stack)

    return state._replace(
      task=task + 1,
      count=jnp.zeros_like(state.count),
      first=jax.tree.map(tree.empty_like, state.first),
      second=jax.tree.map(tree.empty_like, state.second),
      directions=jax.tree.map(lambda d, m: store(d, unit(m)), state.directions, state.first),
      seconds=jax.tree.map(store, state.seconds, state.second),
    )

  return edit_states(opt_state, TagState, end, "tag")
