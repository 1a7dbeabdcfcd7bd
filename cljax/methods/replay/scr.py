"""SCR: supervised contrast of stored and new rows, and the nearest mean of stored rows as the answer."""

from __future__ import annotations

import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods import views
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay.buffers import (
  ACCESS,
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
from cljax.objectives.rows import of_terms_alone


def scr(
  model, spec: Spec, *, temperature, least_area, jitter, grey, capacity: int, policy: str = "reservoir",
  replay_batch: int = 100, flip: bool = True, width: int = 128, insert: str = "once",
) -> Method:  # fmt: skip
  """SCR: ``mean over both views of rows [memory; current] of SupCon(projected(f(x)))``; no cross-entropy.

  :func:`cljax.losses.supcon`: a row's positives are its second view and both views of other rows of its class. The
  first view is the row as the run shows it, the second one of :func:`cljax.methods.views.second_view`. Features
  go through a network of two layers to ``width`` numbers of norm 1, which is of training alone. While nothing is stored
  the loss is 0, and so is its gradient. Answers: ``-|f(x) - mu_c|^2`` of normalised features, mu_c the normalised mean
  of the stored rows of class c under the network of now, made anew at each call; a class of which none is stored is
  never answered, and the model's own outputs, which are not trained, are while nothing is stored.

  A step passes twice over the rows; the second pass, whose BatchNorm statistics are its own, is not counted in the
  running ones; means are of the network in eval mode. Deviations: no review pass behind a task; values of second views
  are not cut to [0, 1], and their hue is turned in YIQ. Raises UsageError for inputs that are no pictures ``[H, W, C]``
  and for a model without features. Spec A5; Mai et al., 2021.
  """
  views.refuse_other_inputs(spec, "scr")
  network, memory = heads.with_projection(model, spec, "scr", width), make_memory(spec, capacity, policy)
  size = min(replay_batch or spec.batch_size, capacity)

  def prepare(key, learner, batch):
    state = insert_pending(key, memory, learner.method_state)
    rows, weight = memory.sample(fold(key, "sample"), state.memory, size)
    batch = append(batch, drawn(spec, rows, weight, batch.visit))
    batch = batch._replace(extra={**batch.extra, "begun": (weight > 0).any()})
    return learner._replace(method_state=state), of_terms_alone(batch)

  def term(key, params, learner, batch, outputs):
    x = views.shown_again(key, spec, batch.x, least_area, jitter, grey, flip)
    other = views.outputs_again(key, network, params, learner.model_state, batch, x)
    first, second = (heads.projected(params["projection"], o.features) for o in (outputs, other))
    each = losses.supcon(first, second, batch.y, batch.weight, temperature)
    return jnp.where(batch.extra["begun"], losses.reduce(each, batch.weight), 0.0)

  def after_step(key, learner, info):
    del key
    weight = offered(spec, info.batch, insert)
    return learner._replace(
      method_state=learner.method_state._replace(pending=rows_of(spec, info.batch), weight=weight)
    )

  def predict(key, learner, x, task):
    return sets.nearest_mean(key, network, spec, memory, learner.method_state.memory, learner, x, task)

  return Method(
    model=network,
    init=lambda key, learner: start(memory, spec, example_row(spec)),
    prepare=prepare,
    terms={"scr": term},
    after_step=after_step,
    predict=predict,
    scrub=scrub_memory(memory),
  )


register(
  "scr",
  Entry(
    scr,
    {
      "temperature": Option(0.07, 1e-6),
      **views.VIEW,
      "width": Option(128, 1),
      **BUFFER,
      "replay_batch": Option(100, 0),
    },
    ACCESS._replace(needs=("classes", "plain_inputs")),
    "Mai et al. 2021",
  ),
)
