"""CLS-ER: replay that is held to the better of two averages of the weights, a fast one and a slow one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import edits, losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import averaging
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  append,
  at_places,
  drawn,
  example_row,
  insert_pending,
  make_memory,
  offered,
  places,
  rows_of,
  scrub_memory,
  start,
)


class DualMemory(NamedTuple):
  """A memory of rows and two averages of the weights."""

  replay: Any
  plastic: Any  # averaging.Average, renewed often
  stable: Any  # renewed seldom; what answers


def better(first, second, y, class_mask):
  """``[B, C]``: of two models' logits, row by row, those under which the label is the likelier; if equal the first."""
  chance = lambda z: -losses.cross_entropy(z, y, class_mask)
  return jnp.where((chance(first) >= chance(second))[:, None], first, second)


def cls_er(
  model, spec: Spec, *, strength, decay, plastic_rate, stable_rate, capacity: int, policy: str = "reservoir",
  replay_batch: int = 0, insert: str = "once",
) -> Method:  # fmt: skip
  """CLS-ER: ``mean CE(current and memory) + strength mean MSE(f(x_B), z*)``; answers are the stable average's.

  z* are, of each stored row, the logits of that of two averages of the weights under which its label is the likelier.
  After step s (from 1) each is renewed, ``mean <- d mean + (1 - d) theta`` with ``d = min(1 - 1/(s + 1), decay)``, with
  a probability: ``plastic_rate`` and ``stable_rate``. MSE is the mean over rows and all logits. Where the published
  settings give the two averages decays of their own, these are equal in all of them. ``strength=0`` is ``er`` that
  answers by an average. A step passes twice more over the stored rows.

  Deviations: BatchNorm's statistics are averaged with the weights, and the averages are in eval mode; the released
  copies keep running statistics of their own. After a request the averages know what is to be forgotten: the edited
  parameters take their place. Spec A13; Arani et al., 2022.
  """
  memory = make_memory(spec, capacity, policy)
  size, scrub_rows = min(replay_batch or spec.batch_size, capacity), scrub_memory(memory)

  def of(learner, part):
    return learner._replace(method_state=getattr(learner.method_state, part))

  def prepare(key, learner, batch):
    state = learner.method_state
    replay = insert_pending(key, memory, state.replay)
    rows, weight = memory.sample(fold(key, "sample"), replay.memory, size)
    batch = batch._replace(extra={**batch.extra, "places": places(batch, size)})
    batch = append(batch, drawn(spec, rows, weight, batch.visit))
    return learner._replace(method_state=state._replace(replay=replay)), batch

  def term(key, params, learner, batch, outputs):
    del params
    at = batch.extra["places"]
    some = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, at[0], size), batch._replace(
      extra={}, visit=None, scale=None))  # fmt: skip

    def said(part):
      weights, state = averaging.current_average(of(learner, part))
      told = {"task": model.task_for(some.task), "mask": None}
      out, _ = model.apply(weights, state, some.x, train=False, key=key, **told)
      return out.logits.astype(jnp.float32)

    target = jax.lax.stop_gradient(better(said("plastic"), said("stable"), some.y, some.class_mask))
    gap = losses.logit_mse(at_places(outputs.logits, at), target)
    return strength * losses.reduce(gap, some.weight)

  def after_step(key, learner, info):
    state, d = learner.method_state, jnp.minimum(1.0 - 1.0 / (learner.step.astype(jnp.float32) + 1.0), decay)

    def renewed(part, rate):
      now = (learner.params, learner.model_state)
      params, model_state = edits.ema(averaging.current_average(of(learner, part)), now, d)
      new = averaging.Average(params, model_state, jnp.zeros((), bool))
      coin = jax.random.uniform(fold(key, part)) < rate
      return jax.tree.map(lambda a, b: jnp.where(coin, a, b), new, getattr(state, part))

    replay = state.replay._replace(pending=rows_of(spec, info.batch), weight=offered(spec, info.batch, insert))
    made = DualMemory(replay, renewed("plastic", plastic_rate), renewed("stable", stable_rate))
    return learner._replace(method_state=made)

  def scrub(learner, request):
    state = learner.method_state
    replay = scrub_rows(of(learner, "replay"), request).method_state
    stale = [getattr(state, p)._replace(stale=jnp.ones((), bool)) for p in ("plastic", "stable")]
    return learner._replace(method_state=DualMemory(replay, *stale))

  answer = averaging.predict_average(model)

  def init(key, learner):
    del key
    averages = averaging.start_average(learner), averaging.start_average(learner)
    return DualMemory(start(memory, spec, example_row(spec)), *averages)

  return Method(
    init=init,
    prepare=prepare,
    terms={"consistency": term},
    after_step=after_step,
    predict=lambda key, learner, x, task: answer(key, of(learner, "stable"), x, task),
    scrub=scrub,
  )


register(
  "cls_er",
  Entry(
    cls_er,
    {
      "strength": Option(0.15, 0),
      "decay": Option(0.999, 0, 1),
      "plastic_rate": Option(0.3, 0, 1),
      "stable_rate": Option(0.1, 0, 1),
      **BUFFER,
    },
    ACCESS._replace(needs=("classes", "plain_inputs")),
    "Arani et al. 2022",
  ),
)
