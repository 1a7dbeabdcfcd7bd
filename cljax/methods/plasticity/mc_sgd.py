"""Mode connectivity SGD: behind a task, the point whose straight lines to the old and to the new optimum stay low."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.projection.gradients import EPISODIC, Episodes, episodic
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import drawn
from cljax.methods.replay.inner import loss_of


class Connected(NamedTuple):
  """What :func:`mc_sgd` keeps: rows of finished tasks, and the parameters with which the current one began; between
  tasks those of now, so that nothing older outlives a request."""

  episodes: Episodes
  before: Any


def between(a, b, share):
  """``a + share (b - a)``, leaf by leaf."""
  return jax.tree.map(lambda x, y: (x + share * (y - x)).astype(x.dtype), a, b)


def line_slope(slope: Callable, anchor, at, points: int):
  """The derivative with respect to ``at`` of ``sum_a L(anchor + a (at - anchor))``, a the ``points`` even steps from 0
  to 1: ``sum_a a slope(...)``, slope being that of L. What is at a = 0 does not move with ``at``."""

  def add(total, a):
    return tree.axpy(a, slope(between(anchor, at, a)), total), None

  shares = jnp.arange(1, points, dtype=jnp.float32) / (points - 1)
  return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, at), shares)[0]


def mc_sgd(model, spec: Spec, *, rate, start, steps: int = 100, points: int = 11, capacity: int = 200) -> Method:
  """MC-SGD: when a task ends ``theta <- argmin sum_a L_old(b + a (theta - b)) + L_new(e + a (theta - e))``.

  b are the parameters with which the task began, e those that plain training ended with; a goes from 0 to 1 in
  ``points`` even steps, L_old is the mean loss of a batch of stored rows of earlier tasks, L_new that of one of the
  task's. It is found by ``steps`` steps of SGD at ``rate`` from ``b + start (e - b)``, each with two batches of the
  run's size and ``2 (points - 1)`` gradients. The first task keeps e; where nothing is stored any more, so does each.
  The memory holds ``capacity // num_tasks`` rows of each finished task. BatchNorm's running statistics stay as training
  left them. ``rate``, ``steps`` and ``capacity`` are UNVERIFIED.

  Third-party code leaves out the factor a that the chain rule gives each point's gradient, takes one step and divides
  means of batches by their size: none of it is done here. Mirzadeh et al., 2021; spec E5.
  """
  ring, begin, stored, scrub_rows = episodic(spec, capacity)
  size = min(spec.batch_size, capacity)

  def init(key, learner):
    return Connected(begin(key, learner), tree.copy(learner.params))

  def start_task(key, learner, task):
    del key, task
    return learner._replace(method_state=learner.method_state._replace(before=tree.copy(learner.params)))

  def inner(learner):
    return learner._replace(method_state=learner.method_state.episodes)

  def end_task(key, learner, task):
    state, ended = learner.method_state, learner.params
    connects = (ring.contents(state.episodes.memory)[1] > 0).any() & (task.visit.others > 0)

    def slope_on(key, batch):
      return jax.grad(lambda p: loss_of(model, spec, learner.model_state, key, p, batch, True))

    def step(i, at):
      own = jax.random.fold_in(key, i)
      rows, weight = ring.sample(fold(own, "old"), state.episodes.memory, size)
      old = drawn(spec, rows, weight, task.visit)
      old = old._replace(x=spec.view(old.x, old.task), visit=task.visit)
      new = picking.random(fold(own, "new"), task.rows, spec.batch_size)._replace(visit=task.visit)
      of = lambda name, batch, anchor: line_slope(slope_on(fold(own, name), batch), anchor, at, points)
      slope = tree.add(of("old", old, state.before), of("new", new, ended))
      return tree.axpy(-rate, slope, at)

    found = jax.lax.fori_loop(0, jnp.where(connects, steps, 0), step, between(state.before, ended, start))
    params = jax.tree.map(lambda f, e: jnp.where(connects, f, e), found, ended)
    episodes = stored(key, inner(learner), task).method_state
    return learner._replace(params=params, method_state=Connected(episodes, tree.copy(params)))

  def scrub(learner, request):
    episodes = scrub_rows(inner(learner), request).method_state
    return learner._replace(method_state=learner.method_state._replace(episodes=episodes))

  def after_forget(learner, before):
    del before
    return learner._replace(method_state=learner.method_state._replace(before=tree.copy(learner.params)))

  return Method(init=init, start_task=start_task, end_task=end_task, scrub=scrub, after_forget=after_forget)


register(
  "mc_sgd",
  Entry(
    mc_sgd,
    {
      "rate": Option(0.01, 0),
      "start": Option(0.25, 0, 1),
      "steps": Option(100, 0),
      "points": Option(11, 2),
      "capacity": Option(200, 1),
    },
    EPISODIC._replace(needs=("plain_inputs",)),
    "Mirzadeh et al. 2021",
  ),
)
