"""A normal distribution of the features of each class, and a classifier that is learned on features drawn from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.tree import fold
from cljax.estimators import class_moments
from cljax.methods.prototypes.frozen import over
from cljax.models import heads

TEMPERATURE = 0.8  # of :func:`apart`
RIDGE = 1e-4  # on the diagonal of each covariance
MOMENTUM, DECAY = 0.9, 5e-4  # of the classifier's SGD, in SLCA's and MOS's code alike


class Gaussians(NamedTuple):
  """Of each class the features that its task's rows had when that ended; float32."""

  counts: Any  # [C] rows; 0 where a class has none
  means: Any  # [C, D]
  roots: Any  # [C, D, D]: of the covariance (over n - 1) and its ridge, as :func:`root` has them
  order: Any  # [C] int32: how many tasks had been met then


def none(num_classes: int, width: int) -> Gaussians:
  zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
  return Gaussians(
    zeros(num_classes), zeros(num_classes, width), zeros(num_classes, width, width), jnp.zeros(num_classes, jnp.int32)
  )


def moments(features: Callable, rows, num_classes: int, width: int, scatter: str = "none"):
  """:class:`cljax.estimators.Moments` of ``features(batch) -> [B, width]`` over ``rows``, in float32."""
  statistics = class_moments(scatter)
  add = lambda s, b: statistics.add(s, features(b).astype(jnp.float32), b.y, b.weight)
  return over(rows, add, statistics.start(num_classes, width, jnp.float32))


def root(covariance):
  """The symmetric ``R [D, D]`` with ``R R = S + RIDGE I`` of a covariance S.

  Rounding may leave S a negative eigenvalue, at which Cholesky's factor is NaN; and R, unlike the eigenvectors, is one
  and the same whatever order of sums S came of, so that draws are too.
  """
  values, vectors = jnp.linalg.eigh(covariance)
  return jnp.matmul(vectors * jnp.sqrt(jnp.maximum(values, 0.0) + RIDGE)[None], vectors.T, precision="highest")


def measured(state: Gaussians, features: Callable, rows, visit) -> Gaussians:
  """The state in which the classes of ``rows`` are as ``features(batch) -> [B, D]`` has them now; others stand."""
  classes, width = state.means.shape
  found = moments(features, rows, classes, width, "class")
  here = found.counts > 0
  covariance = found.scatter / jnp.maximum(found.counts - 1.0, 1.0)[:, None, None]
  # One by one: a batch of them waits for XLA's own threads on CPUs, which wait for it where there are few.
  roots = jax.lax.map(lambda a: jax.lax.cond(a[0], root, jnp.zeros_like, a[1]), (here, covariance))
  of = lambda new, old: jnp.where(here.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
  order = jnp.broadcast_to(visit.seen.sum(dtype=jnp.int32), state.order.shape)
  return jax.tree.map(of, Gaussians(found.counts, found.means, roots, order), state)


def apart(state: Gaussians, features, weight):
  """``CE(M M^T / 0.8, diag)``, the mean over the rows of M: the means of the classes there are, and ``features [B,
  D]`` of rows of a ``weight [B]`` above 0. What MOS and HiDe-Prompt add to keep new features off old classes."""
  rows = jnp.concatenate([state.means, heads.flat(features)])
  some = jnp.concatenate([state.counts > 0, weight > 0])
  near = jnp.matmul(rows, rows.T, precision="highest") / TEMPERATURE
  each = losses.cross_entropy(near, jnp.arange(len(rows), dtype=jnp.int32), jnp.broadcast_to(some[None], near.shape))
  return jnp.sum(jnp.where(some, each, 0.0)) / jnp.maximum(some.sum(dtype=jnp.float32), 1.0)


def plain(head, f, y, there):
  """The mean cross-entropy of a linear classifier over the classes that are ``there``."""
  return jnp.mean(losses.cross_entropy(heads.linear(head, f), y, there))


def cleared(state: Gaussians, gone) -> Gaussians:
  """Without the classes ``gone [C]``."""
  return jax.tree.map(lambda a: jnp.where(gone.reshape(-1, *(1,) * (a.ndim - 1)), jnp.zeros_like(a), a), state)


def drawn(key, state: Gaussians, size: int):
  """``[C, size, D]``: of each class so many draws of N(mean, covariance + RIDGE I)."""
  noise = jax.random.normal(key, (state.means.shape[0], size, state.means.shape[1]), jnp.float32)
  return state.means[:, None] + jnp.einsum("cnd,ced->cne", noise, state.roots, precision="highest")


def aligned(key, head, state: Gaussians, loss: Callable, *, learning_rate, passes: int, samples: int):
  """The classifier after SGD with momentum 0.9 and weight decay 5e-4 on drawn features alone.

  ``loss(head, f [N, D], y [N], there [C] bool) -> scalar``, ``there`` being the classes that have a Gaussian. A pass
  draws ``samples`` features of each of these and takes them in a random order, in as many batches as classes; the rate
  falls from pass to pass along a cosine to 0.
  """
  classes, width = state.means.shape
  there = state.counts > 0
  label = jnp.repeat(jnp.arange(classes, dtype=jnp.int32), samples)

  def one_pass(p, carry):
    own = jax.random.fold_in(key, p)
    f = drawn(fold(own, "features"), state, samples).reshape(-1, width)
    order = jnp.lexsort((jax.random.bits(fold(own, "order"), label.shape, jnp.uint32), ~there[label]))
    rate = learning_rate * (1.0 + jnp.cos(jnp.pi * p.astype(jnp.float32) / passes)) / 2.0

    def step(i, carry):
      head, velocity = carry
      at = jax.lax.dynamic_slice_in_dim(order, i * samples, samples)
      grads = jax.grad(loss)(head, f[at], label[at], there)
      velocity = jax.tree.map(lambda v, g, w: MOMENTUM * v + g + DECAY * w, velocity, grads, head)
      return jax.tree.map(lambda w, v: (w - rate * v).astype(w.dtype), head, velocity), velocity

    return jax.lax.fori_loop(0, there.sum(dtype=jnp.int32), step, carry)

  return jax.lax.fori_loop(0, passes, one_pass, (head, jax.tree.map(jnp.zeros_like, head)))[0]
