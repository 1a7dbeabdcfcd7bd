"""HAL: made-up rows that would be forgotten most, and outputs that a step may not change on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Batch, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import finetuning
from cljax.methods.replay.buffers import (
  BUFFER,
  append,
  drawn,
  example_row,
  insert_pending,
  make_memory,
  offered,
  rows_of,
  scrub_memory,
  start,
)
from cljax.models import heads
from cljax.objectives.objective import of_rows, reduced
from cljax.objectives.rows import stored as as_stored


class Anchored(NamedTuple):
  """A memory, and of each class of each task an anchor."""

  replay: Any
  anchors: Any  # [L, ...] float32, as the network eats rows
  there: Any  # [L] bool
  mean: Any  # [D] float32: running mean of the features of the current task


def hal(
  model, spec: Spec, *, strength, rate, decay, closeness, anchor_rate, capacity: int, anchor_steps: int = 100,
  policy: str = "ring", replay_batch: int = 0, insert: str = "once", reduction: str = "sum",
) -> Method:  # fmt: skip
  """HAL: ``mean CE(current and memory) + strength sum_anchors |f_theta(e) - f_theta~(e)|^2``.

  ``theta~ = theta - rate grad of the first term``, not differentiated; the sum is over the anchors of finished tasks,
  one for each class of each. When a task ends its anchors are made, from standard normal numbers, by ``anchor_steps``
  of descent at ``anchor_rate`` on ``l(theta_t) - l(theta_M) + closeness |phi(e) - phi_t|^2``: rows that theta_M, which
  is theta_t after one pass of plain SGD at ``rate`` over the memory, has unlearned; phi are features, phi_t their mean,
  ``mean <- decay mean + (1 - decay) batch mean`` from 0. Later tasks leave them. ``strength=0`` is ``er`` under the
  same policy. A step takes a gradient more, and two passes over the anchors, in eval mode.

  A request's rows leave the memory at once; anchors of classes that are gone whole are erased, others and the running
  mean are made of many rows and of weights, and stay. ``reduction`` 'sum': of squares over anchors and outputs, as
  printed; 'mean': over both, as Mammoth takes it. Raises UsageError for inputs that are no array of real numbers and a
  model without features. Spec A11; Chaudhry et al., 2021.
  """
  shown = spec.shown
  if not hasattr(shown, "shape") or (spec.scale is None and not jnp.issubdtype(shown.dtype, jnp.floating)):
    raise UsageError("method.name: 'hal' makes rows up by descent; expected inputs that are one array of real numbers")
  memory, learned = make_memory(spec, capacity, policy), spec.objective
  size, scrub_rows = min(replay_batch or spec.batch_size, capacity), scrub_memory(memory)
  pairs = np.argwhere(np.asarray(spec.classes_of_task)).astype(np.int32)  # [L, 2]: tasks and classes
  width = heads.width_of(model, spec, "hal")

  def init(key, learner):
    del key, learner
    anchors = jnp.zeros((len(pairs), *shown.shape), jnp.float32)
    rows = start(memory, spec, example_row(spec))
    return Anchored(rows, anchors, jnp.zeros(len(pairs), bool), jnp.zeros(width, jnp.float32))

  def said(params, model_state, anchors, key):
    """Outputs on all anchors, in eval mode."""
    told = {"task": model.task_for(jnp.asarray(pairs[:, 0])), "mask": None}
    x = as_stored(anchors, spec.scale)
    return model.apply(params, model_state, x, train=False, key=key, **told)[0]

  def start_task(key, learner, task):
    del key, task
    state = learner.method_state
    return learner._replace(method_state=state._replace(mean=jnp.zeros_like(state.mean)))

  def prepare(key, learner, batch):
    state = learner.method_state
    replay = insert_pending(key, memory, state.replay)
    rows, weight = memory.sample(fold(key, "sample"), replay.memory, size)
    batch = append(batch, drawn(spec, rows, weight, batch.visit))
    return learner._replace(method_state=state._replace(replay=replay)), batch

  def loss_of(key, params, model_state, batch):
    told = {"task": model.task_for(batch.task), "mask": (batch.weight > 0).astype(jnp.float32)}
    apply = lambda key, params, batch: model.apply(params, model_state, batch.x, train=True, key=key, **told)
    each, inside, _, moved = learned.loss(key, apply, params, batch)
    return reduced(each, inside, batch), moved

  def term(key, params, learner, batch, outputs):
    del outputs
    state, now = learner.method_state, learner.params
    grads = jax.grad(lambda p: loss_of(key, p, learner.model_state, batch)[0])(now)
    moved = jax.tree.map(lambda p, g: (p - rate * g).astype(p.dtype), now, grads)
    here, target = (said(p, learner.model_state, state.anchors, key).logits for p in (params, moved))
    gap = jnp.sum(jnp.square(here.astype(jnp.float32) - jax.lax.stop_gradient(target).astype(jnp.float32)), axis=-1)
    whole = jnp.sum(jnp.where(state.there, gap, 0.0))
    if reduction == "mean":
      whole = whole / jnp.maximum(jnp.sum(state.there, dtype=jnp.float32) * here.shape[-1], 1.0)
    return strength * whole

  def after_step(key, learner, info):
    del key
    state, own = learner.method_state, slice(0, spec.batch_size)
    weight = info.batch.weight[own, None]
    f = jnp.sum(jnp.where(weight > 0, heads.flat(info.outputs.features[own]), 0.0), axis=0)
    f = f / jnp.maximum(jnp.sum(weight > 0, dtype=jnp.float32), 1.0)
    mean = jnp.where((weight > 0).any(), decay * state.mean + (1 - decay) * f, state.mean)
    replay = state.replay._replace(pending=rows_of(spec, info.batch), weight=offered(spec, info.batch, insert))
    return learner._replace(method_state=state._replace(replay=replay, mean=mean))

  def end_task(key, learner, task):
    state, visit = learner.method_state, task.visit
    unlearned = finetuning.on_stored(
      fold(key, "unlearned"), learner, spec, memory, state.replay.memory, visit, loss_of,
      passes=1, rate=rate, trains=lambda name: True, size=spec.batch_size, momentum=0.0,
    )  # fmt: skip
    tasks, classes = (jnp.asarray(a) for a in pairs.T)
    ones, nobody = jnp.ones(len(pairs), jnp.float32), jnp.full(len(pairs), -1, jnp.int32)
    mask = spec.class_mask(tasks, visit.trained)

    def height(anchors):
      rows = Batch(as_stored(anchors, spec.scale), classes, ones, nobody, tasks, mask)
      now, then = (said(l.params, l.model_state, anchors, key) for l in (learner, unlearned))
      rise = of_rows(*learned.each(now.logits, rows)) - of_rows(*learned.each(then.logits, rows))
      away = jnp.sum(jnp.square(heads.flat(now.features) - state.mean[None]), axis=-1)
      return jnp.sum(rise + closeness * away)

    mine = tasks == visit.task
    begin = jax.random.normal(fold(key, "anchors"), (spec.num_classes, *shown.shape), jnp.float32)[classes]
    made = jax.lax.fori_loop(0, anchor_steps, lambda _, e: e - anchor_rate * jax.grad(height)(e), begin)
    along = mine.reshape(-1, *(1,) * (made.ndim - 1))
    anchors = jnp.where(along, made, state.anchors)
    return learner._replace(method_state=state._replace(anchors=anchors, there=state.there | mine))

  def scrub(learner, request):
    state = learner.method_state
    replay = scrub_rows(learner._replace(method_state=state.replay), request).method_state
    gone = request.classes[jnp.asarray(pairs[:, 1])]
    anchors = jnp.where(gone.reshape(-1, *(1,) * (state.anchors.ndim - 1)), 0.0, state.anchors)
    return learner._replace(method_state=Anchored(replay, anchors, state.there & ~gone, state.mean))

  return Method(
    init=init,
    start_task=start_task,
    prepare=prepare,
    terms={"anchors": term},
    after_step=after_step,
    end_task=end_task,
    scrub=scrub,
  )


register(
  "hal",
  Entry(
    hal,
    {
      "strength": Option(0.1, 0),
      "rate": Option(0.1, 0),
      "decay": Option(0.5, 0, 1),
      "closeness": Option(0.1, 0),
      "anchor_rate": Option(0.1, 0),
      "anchor_steps": Option(100, 0),
      **BUFFER,
      "policy": BUFFER["policy"]._replace(default="ring"),
      "reduction": Option("sum", choices=("sum", "mean")),
    },
    Access(stores_data=True, task_boundaries=True, needs=("classes", "each", "plain_inputs")),
    "Chaudhry et al. 2021",
  ),
)
