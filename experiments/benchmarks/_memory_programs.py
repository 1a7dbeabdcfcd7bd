"""What the memory suite times: buffers written and read inside a scan, the copies they must make, and a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import memory, models
from cljax.core.types import Memory

BATCH = 32  # rows added, and rows sampled, in a step
CLASSES, TASKS = 10, 5
ROWS: dict[str, tuple[tuple[int, ...], Any]] = {"64 float32": ((64,), jnp.float32), "784 uint8": ((784,), jnp.uint8)}
POLICIES: dict[str, Callable[[int], Memory]] = {
  "reservoir": lambda capacity: memory.reservoir(capacity),
  "ring": lambda capacity: memory.ring(capacity, TASKS),
  "class_balanced": lambda capacity: memory.class_balanced(capacity, CLASSES),
}


def example_row(kind: str):
  """One row as the replay methods store it: the input, its label, id and task."""
  shape, dtype = ROWS[kind]
  integer = jnp.zeros((), jnp.int32)
  return {"x": jnp.zeros(shape, dtype), "y": integer, "id": integer, "task": integer}


def rows(kind: str, n: int):
  """``n`` rows of noise, of every class and every task."""
  shape, dtype = ROWS[kind]
  rng = np.random.default_rng(0)
  x = rng.integers(0, 255, (n, *shape)).astype(np.uint8)
  at = np.arange(n, dtype=np.int32)
  return {
    "x": jnp.asarray(x, dtype),
    "y": jnp.asarray(at % CLASSES),
    "id": jnp.asarray(at),
    "task": jnp.asarray(at % TASKS),
  }


def full(policy: str, kind: str, capacity: int):
  """``(memory, state)``: a buffer that is full and has seen as many rows as it stores.

  Its rows are zeros, but for the labels and tasks: what is timed does not depend on what is stored.
  """
  made = POLICIES[policy](capacity)
  state = jax.jit(lambda: made.init(example_row(kind)))()
  at = jnp.arange(capacity, dtype=jnp.int32)
  if policy == "reservoir":
    state = state._replace(count=jnp.int32(capacity), seen=jnp.int32(capacity))
  elif policy == "ring":
    state = state._replace(seen=jnp.full(TASKS, capacity // TASKS, jnp.int32))
  else:
    group = at % CLASSES
    sizes = jnp.bincount(group, length=CLASSES).astype(jnp.int32)
    state = state._replace(group=group, count=jnp.int32(capacity), sizes=sizes)
  return made, state


def young(policy: str, state, capacity: int):
  """The buffer as if it had seen as many rows as it stores, so that new rows keep entering however long it is timed."""
  if policy == "reservoir":
    return state._replace(seen=jnp.int32(capacity))
  return state if policy == "ring" else state._replace(rate=jnp.ones_like(state.rate))


class Carried:
  """A program that is given its own last result, donated, as the engine's chunks are: no copy between calls."""

  def __init__(self, program: Callable, carry):
    self.program, self.carry = jax.jit(program, donate_argnums=0), carry

  def __call__(self):
    self.carry = self.program(self.carry)
    return self.carry


def add_and_sample(policy: str, kind: str, capacity: int, steps: int) -> Carried:
  """``steps`` times: the rows of the last step go into the full buffer, then as many are drawn.

  The rows drawn are those of the next step, so that nothing else is read or written.
  """
  made, state = full(policy, kind, capacity)

  def program(carry):
    key, state, pending = carry
    state = young(policy, state, capacity)

    def step(carry, i):
      state, pending = carry
      at = jax.random.fold_in(key, i)
      state = made.add(jax.random.fold_in(at, 0), state, pending, jnp.ones(BATCH))
      drawn, _ = made.sample(jax.random.fold_in(at, 1), state, BATCH)
      return (state, drawn), None

    state, pending = jax.lax.scan(step, (state, pending), jnp.arange(steps))[0]
    return jax.random.fold_in(key, steps), state, pending

  return Carried(program, (jax.random.key(0), state, rows(kind, BATCH)))


def row_copies(kind: str, capacity: int, steps: int) -> Carried:
  """The floor: as many rows written in one piece and read in one piece, at a place that moves."""
  store = jax.jit(lambda: jax.tree.map(lambda v: jnp.zeros((capacity, *v.shape), v.dtype), example_row(kind)))()

  def program(carry):
    def step(carry, i):
      store, pending = carry
      to, source = (i * 37) % capacity, (i * 61) % capacity  # slices are clamped at the end
      write = lambda v, u: jax.lax.dynamic_update_slice_in_dim(v, u, to, 0)
      store = jax.tree.map(write, store, pending)
      return (store, jax.tree.map(lambda v: jax.lax.dynamic_slice_in_dim(v, source, BATCH), store)), None

    return jax.lax.scan(step, carry, jnp.arange(steps))[0]

  return Carried(program, (store, rows(kind, BATCH)))


def whole_copy(kind: str, capacity: int):
  """One copy of the buffer: what each step would cost if it did not write in place."""
  store = jax.tree.map(lambda v: jnp.zeros((capacity, *v.shape), v.dtype), example_row(kind))
  copy = jax.jit(lambda v: jax.tree.map(jnp.copy, v))
  return lambda: copy(store)


def training(steps: int, hidden=(256, 256), batch: int = BATCH) -> Carried:
  """``steps`` hand-written steps of SGD on the 784-256-256-10 network, batch 32."""
  model = models.mlp((28, 28, 1), CLASSES, hidden=hidden)
  params, state = jax.jit(model.init)(jax.random.key(0))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(batch, 28, 28, 1)), jnp.float32)
  y = jnp.arange(batch) % CLASSES

  def loss(params):
    logits = model.apply(params, state, x, train=True, key=None, task=0)[0].logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  def program(params):
    step = lambda p, _: (jax.tree.map(lambda v, g: v - 1e-4 * g, p, jax.grad(loss)(p)), None)
    return jax.lax.scan(step, params, length=steps)[0]

  return Carried(program, params)
