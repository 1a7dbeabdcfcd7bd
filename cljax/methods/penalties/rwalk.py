"""RWalk: importance from a running Fisher, and from what a weight gave to the loss per distance in its metric."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import regularizers
from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.method import Method
from cljax.core.types import Access
from cljax.methods.penalties.pulls import DECOUPLED, consolidated, quadratic
from cljax.methods.registry import Entry, Option, register


class Walk(NamedTuple):
  """What :func:`rwalk` keeps: trees like the parameters in at least float32; those of the path () without a score."""

  fisher: Any  # the running mean of squared gradients
  gained: Any  # -sum of gradient * movement since the last block of steps ended
  moved: Any  # the movement since then
  gathered: Any  # the running task's score
  score: Any  # that of the finished tasks
  steps: Any  # int32, in this block
  tasks: Any  # int32, finished


def normalised(values):
  """``(x - min) / (max - min)`` over all leaves together, each in [0, 1]; zeros where all numbers are equal."""
  leaves = jax.tree.leaves(values)
  low = functools.reduce(jnp.minimum, [x.min() for x in leaves])
  span = functools.reduce(jnp.maximum, [x.max() for x in leaves]) - low
  return jax.tree.map(lambda x: (x - low) / jnp.where(span > 0, span, 1), values)


def walked(state: Walk, gradient, movement, decay, every: int, damping) -> Walk:
  """The state one step later: ``F <- decay F + (1 - decay) g^2``, and the score where a block of steps ends."""
  square = lambda f, g: decay * f + (1 - decay) * tree.product(g.astype(f.dtype), g.astype(f.dtype))
  state = state._replace(fisher=jax.tree.map(square, state.fisher, gradient))
  if isinstance(state.score, tuple):
    return state
  gain = lambda w, g, u: w - tree.product(g.astype(w.dtype), u.astype(w.dtype))
  state = state._replace(
    gained=jax.tree.map(gain, state.gained, gradient, movement),
    moved=jax.tree.map(lambda m, u: m + u.astype(m.dtype), state.moved, movement),
    steps=state.steps + 1,
  )
  return scored(state, state.steps >= every, damping)


def scored(state: Walk, ends, damping) -> Walk:
  """Where ``ends``: ``gathered += relu(gained) / (F moved^2 / 2 + damping)``, and the next block begins."""

  def add(s, w, f, m):
    return s + jnp.where(ends, jnp.maximum(w, 0) / (0.5 * f * tree.product(m, m) + damping), 0.0)

  cleared = lambda t: jax.tree.map(lambda x: jnp.where(ends, jnp.zeros_like(x), x), t)
  return state._replace(
    gathered=jax.tree.map(add, state.gathered, state.gained, state.fisher, state.moved),
    gained=cleared(state.gained), moved=cleared(state.moved), steps=jnp.where(ends, 0, state.steps),
  )  # fmt: skip


def averaged(state: Walk) -> Walk:
  """At the end of a task ``score <- (score + gathered) / 2``; of the first, what was gathered."""
  first = state.tasks == 0
  mean = lambda s, n: jnp.where(first, n, (s + n) / 2)
  score = jax.tree.map(mean, state.score, state.gathered)
  zeros = jax.tree.map(jnp.zeros_like, state.gathered)
  return state._replace(score=score, gathered=zeros, tasks=state.tasks + 1)


def rwalk(
  model, spec, *, strength, decay, damping, every: int = 10, score: bool = True, decoupled: bool = False
) -> Method:
  """RWalk: ``strength sum (n(F) + n(s)) (theta - theta*)^2``, ``n`` min-max over all weights, both parts in [0, 1].

  ``F <- decay F + (1 - decay) g^2`` at each step, ``g`` the batch's mean gradient of the loss; ``s`` adds up, once in
  ``every`` steps, ``relu(-sum g . step) / (F D^2 / 2 + damping)`` with ``D`` the movement in those steps: the loss that
  a weight took off per distance in Fisher's metric. At a boundary ``s`` of the finished tasks becomes the mean of it
  and of the new one, and ``theta*`` the parameters. ``score=False`` is EWC++: F alone. ``decoupled`` as of
  :func:`cljax.methods.penalties.pulls.ewc`, with ``a = 2 rate * strength * (n(F) + n(s))``. ``damping`` in units of
  the loss. SGD diverges where ``4 rate * strength > 2``. No row is read but the step's own; no task's share can be
  taken out of F and s. Errors: those of the options. Chaudhry et al. 2018; spec E1.

  Deviations: the release adds ``(s + new) / 2`` to s, here s becomes it; F begins at 0, as released, and is not
  corrected for it; steps after the last whole block count at the boundary as a block of their own.
  """
  del model, spec
  penalty = functools.partial(regularizers.mas, name="rwalk")  # of importances that are given; the newest alone holds

  def init(key, learner):
    del key
    moved = jax.tree.map(lambda p: jnp.zeros(p.shape, wide(p.dtype)), learner.params)
    real = lambda: jax.tree.map(jnp.real, moved)
    none = jnp.zeros((), jnp.int32)
    if not score:
      return Walk(real(), (), (), (), (), none, none)
    return Walk(real(), real(), moved, real(), real(), none, none)

  def after_step(key, learner, info):
    del key
    state = walked(learner.method_state, info.gradient, info.updates, decay, every, damping)
    return learner._replace(method_state=state)

  def end_task(key, learner, task):
    del key, task
    state = learner.method_state
    importance = normalised(state.fisher)
    if score:
      state = averaged(scored(state, jnp.asarray(True), damping))
      importance = tree.add(importance, normalised(state.score))
    return consolidated(learner._replace(method_state=state), "rwalk", importance)

  return Method(
    init=init, after_step=after_step, end_task=end_task, **quadratic(penalty, strength, 0.0, decoupled=decoupled)
  )


register(
  "rwalk",
  Entry(
    rwalk,
    {
      "strength": Option(0.1, 0),
      "decay": Option(0.9, 0, 1),
      "damping": Option(1e-8, 0, above=True, needs={"score": (True,)}),
      "every": Option(10, 1, needs={"score": (True,)}),
      "score": Option(True),
      **DECOUPLED,
    },
    Access(task_boundaries=True, needs=()),
    "Chaudhry et al. 2018",
  ),
)
