"""What the Fisher estimators are timed against: a training epoch, and two plain ways to square a gradient per row."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import models
from cljax.core import tree
from cljax.core.types import Model, Rows, rows_from_arrays
from cljax.estimators import fisher_diagonal

BATCH = 32  # rows of a training step
CLASSES = 10


class Normed(nn.Module):
  """784-256-256-10 with LayerNorm behind the first layer and BatchNorm behind the second."""

  widths: tuple[int, int]

  @nn.compact
  def __call__(self, x, train=False):
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(nn.LayerNorm()(nn.Dense(self.widths[0])(x)))
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(self.widths[1])(x)))
    return nn.Dense(CLASSES)(x)


class Workload(NamedTuple):
  """A model, its parameters, and noise to pass over: ``x [N, ...]``, ``y [N]``."""

  model: Model
  params: Any
  state: Any
  x: Any
  y: Any

  @property
  def size(self) -> int:
    return tree.size(self.params)


def workload(kind: str, rows: int, shape=(28, 28, 1), hidden=(256, 256)) -> Workload:
  """``kind``: dense, conv, norm or attention."""
  model = {
    "dense": lambda: models.mlp(shape, CLASSES, hidden=hidden),
    "conv": lambda: models.cnn(shape, CLASSES),
    "norm": lambda: models.from_linen(Normed(tuple(hidden)), shape, init=models.flat_init),
    "attention": lambda: models.vit(shape, CLASSES, depth=2),
  }[kind]()
  params, state = jax.jit(model.init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(rows, *shape)), jnp.float32)
  return Workload(model, params, state, x, jnp.asarray(rng.integers(0, CLASSES, rows), jnp.int32))


def negative_log_likelihood(work: Workload, params, x, y):
  """The mean over rows, at eval mode, as the Fisher has it."""
  logits = work.model.apply(params, work.state, x, train=False, key=None, task=0)[0].logits
  return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def epoch(work: Workload):
  """``f(count) -> params``: one epoch of SGD over the first ``count`` rows in batches of 32, a hand-written loop.

  The loss is at train mode with BatchNorm's statistics carried along.
  """

  def loss(params, state, x, y):
    mask = jnp.ones(BATCH)
    outputs, state = work.model.apply(params, state, x, train=True, key=None, task=0, mask=mask)
    return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, y).mean(), state

  @jax.jit
  def run(params, state, x, y, order, count):
    def step(i, carry):
      params, state = carry
      at = jax.lax.dynamic_slice(order, (i * BATCH,), (BATCH,))
      gradient, state = jax.grad(loss, has_aux=True)(params, state, x[at], y[at])
      # a small rate: what is timed is the arithmetic, and it must stay finite over all rounds
      return jax.tree.map(lambda p, g: p - 1e-4 * g, params, gradient), state

    return jax.lax.fori_loop(0, count // BATCH, step, (params, state))[0]

  order = jnp.asarray(np.random.default_rng(1).permutation(len(work.y)), jnp.int32)
  return lambda count: run(work.params, work.state, work.x, work.y, order, jnp.int32(count))


def fisher(work: Workload, kind: str):
  """``f(count)``: the library's Fisher diagonal of the first ``count`` rows."""

  @jax.jit
  def run(params, state, x, y, count):
    rows = rows_from_arrays(x, y)

    def counted(start, size):
      batch = rows.batch(start, size)
      return batch._replace(weight=jnp.where(start + jnp.arange(size) < count, batch.weight, 0.0))

    key = jax.random.key(0)
    return fisher_diagonal(work.model, params, state, Rows(rows.capacity, count, counted), kind=kind, key=key)

  return lambda count: run(work.params, work.state, work.x, work.y, jnp.int32(count))


def one_at_a_time(work: Workload, rows: int, exact: bool = False):
  """``f()``: the same diagonal by a gradient for each of ``rows`` rows in turn (and for each class, if ``exact``)."""
  score = lambda params, x, y: negative_log_likelihood(work, params, x[None], y[None])

  @jax.jit
  def run(params, xs, ys):
    def empirical(sums, row):
      return jax.tree.map(lambda s, g: s + g * g, sums, jax.grad(score)(params, *row)), None

    def every_class(sums, row):
      def one(sums, label):
        value, gradient = jax.value_and_grad(score)(params, row[0], label)
        return jax.tree.map(lambda s, g: s + jnp.exp(-value) * g * g, sums, gradient), None

      return jax.lax.scan(one, sums, jnp.arange(CLASSES))[0], None

    total = jax.lax.scan(every_class if exact else empirical, tree.zeros_like(params), (xs, ys))[0]
    return tree.scale(1 / rows, total)

  return lambda: run(work.params, work.x[:rows], work.y[:rows])


def vmapped(work: Workload, rows: int):
  """``f()``: the empirical diagonal with the gradients of ``rows`` rows made all at once by vmap."""
  score = lambda params, x, y: negative_log_likelihood(work, params, x[None], y[None])

  @jax.jit
  def run(params, xs, ys):
    each = jax.vmap(jax.grad(score), (None, 0, 0))(params, xs, ys)
    return jax.tree.map(lambda g: jnp.square(g).mean(0), each)

  return lambda: run(work.params, work.x[:rows], work.y[:rows])


def inner_products(jaxpr) -> float:
  """Floating-point operations of the products without a parameter, which have batch axes: attention's two."""
  total = 0.0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contracted, _), (batched, _) = eqn.params["dimension_numbers"]
      if batched:
        total += 2.0 * eqn.outvars[0].aval.size * float(np.prod([eqn.invars[0].aval.shape[i] for i in contracted]))
    elif eqn.primitive.name in ("jit", "pjit", "custom_jvp_call", "custom_vjp_call"):
      inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
      total += inner_products(getattr(inner, "jaxpr", inner))
  return total


def operations(work: Workload, kind: str = "empirical") -> float:
  """Floating-point operations of the matrix products of a row: the arithmetic floor of a kind, or of an ``epoch``.

  Forward, gradients of the layers' outputs (the first layer's input needs none), and the squares: one product a kernel,
  but for layers with positions one for each backward pass, of which the exact kind has C - 1. A training step has
  gradients for squares. Elementwise work, unfolding and norms are not counted.
  """
  capture = work.model.capture
  assert capture is not None
  passes = CLASSES - 1 if kind == "exact" else 1
  each: list[tuple[float, bool]] = []  # operations and whether there are positions, by layer as they are called

  def forward(params, x):
    logits, calls = capture(params, work.state, x, None)
    for call in calls.values():
      if "kernel" in call.params:
        kernel = call.params["kernel"]
        each.append((2.0 * call.output.size * kernel.size / kernel.shape[-1], call.output.ndim > 2))
    return logits

  inner = inner_products(jax.make_jaxpr(forward)(work.params, work.x[:1]).jaxpr)
  squares = sum(n * (passes if positions else 1) for n, positions in each)
  return sum(n for n, _ in each) + inner + passes * (sum(n for n, _ in each[1:]) + 2 * inner) + squares
