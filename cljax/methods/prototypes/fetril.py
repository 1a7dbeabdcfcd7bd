"""FeTrIL: a linear layer on frozen features, of old classes on features of new ones moved to the old means."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.estimators import class_moments
from cljax.methods.prototypes.frozen import FIRST, closed_form
from cljax.methods.prototypes.simplecil import normed
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.exemplars import in_blocks

MOMENTUM, DECAY = 0.9, 5e-4  # of PyCIL's linear layer, whose rate falls along a cosine to 0


def donors(means, new):
  """``[C]`` int32: of each class the class among ``new [C]`` bool whose mean is nearest to its own by the cosine."""
  near = jnp.matmul(normed(means), normed(means).T, precision="highest")
  return jnp.argmax(jnp.where(new[None], near, -jnp.inf), axis=1).astype(jnp.int32)


def translated(f, y, means, new, old):
  """``(moved [B, C, D], there [B, C])``: each row as class c, ``f - mu_y + mu_c``, and whether it is one: of its own
  class, as it is, and of the ``old`` classes whose donor its class is. So of an old class the moved rows have its mean,
  and its donor's covariance."""
  moved = (f - means[y])[:, None] + means[None]
  own = y[:, None] == jnp.arange(means.shape[0], dtype=y.dtype)[None]
  lent = old[None] & (donors(means, new)[None] == y[:, None])
  return jnp.where(own[..., None], f[:, None], moved), own | lent


def fitted_head(key, f, y, weight, means, new, old, *, learning_rate, passes: int, batch_size: int):
  """``(W [C, D], b [C])`` after SGD on cross-entropy over the classes there are, from zeros; a batch is of rows, each
  with all classes that it stands for. f ``[N, D]``, y, weight ``[N]``."""
  n, size = f.shape[0], min(batch_size, f.shape[0])
  count = jnp.sum(weight > 0, dtype=jnp.int32)
  steps = (count + size - 1) // size
  seen = new | old

  def loss(head, at, inside):
    moved, there = translated(f[at], y[at], means, new, old)
    z = jnp.matmul(moved, head[0].T, precision="highest") + head[1][None, None]
    log_p = jax.nn.log_softmax(jnp.where(seen[None, None], z, -jnp.inf), axis=-1)
    each = -jnp.diagonal(jnp.where(seen[None, None], log_p, 0), axis1=1, axis2=2)
    here = there & inside[:, None]
    return jnp.sum(jnp.where(here, each, 0)) / jnp.maximum(jnp.sum(here, dtype=f.dtype), 1)

  def one_pass(p, carry):
    bits = jax.random.bits(jax.random.fold_in(key, p), (n,), jnp.uint32)
    order = jnp.lexsort((bits, weight == 0))

    def step(i, carry):
      head, velocity = carry
      place = i * size + jnp.arange(size)
      at = order[jnp.minimum(place, n - 1)]
      grads = jax.grad(loss)(head, at, place < count)
      done = (p * steps + i).astype(f.dtype) / jnp.maximum(passes * steps, 1).astype(f.dtype)
      rate = learning_rate * (1 + jnp.cos(jnp.pi * done)) / 2
      velocity = jax.tree.map(lambda v, g, w: MOMENTUM * v + g + DECAY * w, velocity, grads, head)
      return jax.tree.map(lambda w, v: (w - rate * v).astype(w.dtype), head, velocity), velocity

    return jax.lax.fori_loop(0, steps, step, carry)

  zero = (jnp.zeros_like(means), jnp.zeros_like(means[:, 0]))
  return jax.lax.fori_loop(0, passes, one_pass, (zero, zero))[0]


def fetril(model, spec: Spec, *, learning_rate, first_task: str, passes: int = 50, batch_size: int = 128) -> Method:
  """FeTrIL: ``argmax W f(x) + b``, fitted when a task ends on its rows' features and, for each old class o, on
  ``f(x_n) - mu_n + mu_o``, n the new class with the mean nearest to mu_o by the cosine.

  The network is frozen after the first task (or from the start, ``first_task``); only means and counts ``[C, D]`` and
  the layer are kept. The layer begins at 0 each time and learns by ``passes`` of SGD with momentum 0.9 and weight decay
  5e-4, from ``learning_rate`` along a cosine to 0, in batches of ``batch_size`` rows, each with every class it stands
  for. With one new class a task all old ones borrow the same shape. A class that the task has too is new. A request
  clears the means of classes that go whole and their outputs; means and layer of others may hold its rows until a task
  is learned anew. Deviations: a linear layer as in PyCIL, where the released code fits support vectors. Raises
  UsageError for a model without features. Spec C4; Petit et al., 2023.
  """

  def choose(key, state, embedded, task):
    block = lambda start, size: embedded(task.rows.batch(start, size))
    f = in_blocks(block, task.rows.capacity)
    rows = task.rows.batch(0, task.rows.capacity)
    f = jnp.where((rows.weight > 0)[:, None], f, jnp.zeros((), f.dtype))
    moments = state.statistics
    label = jnp.where(rows.weight > 0, rows.y, spec.num_classes)
    new = jnp.zeros(spec.num_classes, bool).at[label].set(True, mode="drop")
    return fitted_head(
      fold(key, "head"), f, rows.y, rows.weight, moments.means, new, (moments.counts > 0) & ~new,
      learning_rate=learning_rate, passes=passes, batch_size=batch_size,
    )  # fmt: skip

  def layer(width):
    return jnp.zeros((spec.num_classes, width), jnp.float32), jnp.zeros(spec.num_classes, jnp.float32)

  method = closed_form(
    model, spec, class_moments("none"), first_task=first_task, requests="elsewhere", choose=choose, hint=layer,
    fit=lambda moments, hint: (), scores=lambda state, h: h @ state.hint[0].T + state.hint[1][None],
  )  # fmt: skip
  clear = method.scrub
  assert clear is not None

  def scrub(learner, request):
    learner = clear(learner, request)
    weights, bias = learner.method_state.hint
    gone = request.classes
    kept = jnp.where(gone[:, None], 0, weights), jnp.where(gone, 0, bias)
    return learner._replace(method_state=learner.method_state._replace(hint=kept))

  return method._replace(scrub=scrub)


register(
  "fetril",
  Entry(
    fetril,
    {
      "first_task": Option("train", choices=FIRST),
      "learning_rate": Option(0.05, 0),
      "passes": Option(50, 1),
      "batch_size": Option(128, 1),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Petit et al. 2023",
  ),
)
