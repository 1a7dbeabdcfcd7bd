"""HPCR: PCR whose gradient rises and falls within a task, held to stored answers and to the likeness of stored rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.types import Spec
from cljax.methods import views as second
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  INSERT_OUTPUTS,
  Replay,
  at_places,
  predictions_of,
)
from cljax.methods.replay.pcr import counts, proxy_replay
from cljax.models import heads
from cljax.objectives.rows import along


class Holistic(NamedTuple):
  """:class:`cljax.methods.replay.pcr.Proxies`, and how many steps of its task were made."""

  replay: Replay
  seen: Any  # [C] bool
  at: Any  # int32


def wave(at, least, most, period: int):
  """``least + (most - least) (1 - cos(2 pi at / period)) / 2``: ``least`` at 0, ``most`` half a period on."""
  turn = jnp.cos(2 * jnp.pi * (at % period).astype(jnp.float32) / period)
  return least + (most - least) * 0.5 * (1.0 - turn)


def proxy_gap(logits, target, count):
  """``sum_c n_c (z_c - z'_c)^2 / sum_c n_c`` of each row, ``[B]``; count ``[C]``: rows of the step of each class."""
  return jnp.square(logits - target) @ count / jnp.maximum(jnp.sum(count), 1.0)


def structure(features, target, weight, temperature):
  """``-sum_{j != i} p'(j|i) log p(j|i)`` of each row, ``[B]``; p the softmax over the other rows of positive weight of
  their cosines with row i over the temperature, of ``features [B, D]``; p' the same of ``target``."""
  others = (weight > 0)[None] & ~jnp.eye(weight.shape[0], dtype=bool)

  def log_p(f):
    f = heads.unit(f)
    return losses.masked_log_softmax(f @ f.T / temperature, others)

  return -jnp.sum(jnp.where(others, jnp.exp(log_p(target)), 0.0) * log_p(features), axis=-1)


def hpcr(
  model, spec: Spec, *, alpha, beta, least_scale, most_scale, temperature, least_area, jitter, grey, capacity: int,
  policy: str = "reservoir", replay_batch: int = 0, insert: str = "every_pass", views: bool = True, flip: bool = True,
  period: int = 500,
) -> Method:  # fmt: skip
  """HPCR: ``wave(i) PCR + alpha mean_B proxy_gap(z, z') + beta mean_B structure(f, f')``, the last two from the second
  task on.

  PCR is the loss of :func:`cljax.methods.replay.pcr`. Steps i of the task are counted from 0; :func:`wave` lies between
  ``least_scale`` (0.09 / 0.16) and ``most_scale`` (0.09 / 0.05), so that the temperature in PCR, 0.09, is not that of
  its gradient. z' ``[C]`` and f' ``[D]`` are the logits and features of each stored row as it was when it came, never
  refreshed: ``(C + D)`` numbers beside each. :func:`proxy_gap` weighs classes by the rows of the step,
  :func:`structure` has each row's likeness to the other replayed ones. ``alpha = beta = 0`` with both scales 1 is
  ``pcr``. The paper's ``alpha`` is 0.01 for CIFAR-10.

  Deviations: replayed rows are held in the view that was stored; released code holds second views to it as well, which
  it never was of. Over several epochs the count of steps goes on, and stored outputs are of each pass (``insert``). A
  request erases rows with what is stored of them; that of other rows was said by a network that knew these. Else as for
  ``pcr``, with what it raises. Spec A6; Lin et al., 2025.
  """
  how = {"least_area": least_area, "jitter": jitter, "grey": grey, "flip": flip}

  def kept(info):
    own = info.batch.weight[: spec.batch_size]
    f = heads.unit(heads.flat(info.outputs.features[: spec.batch_size]))
    return {"logits": predictions_of(spec, info), "features": jnp.where(along(own > 0, f), f, 0.0)}

  width = heads.width_of(model, spec, "hpcr")
  row = {"logits": jnp.zeros(spec.num_classes, jnp.float32), "features": jnp.zeros(width, jnp.float32)}
  made = proxy_replay(model, spec, "hpcr", temperature, capacity, policy, replay_batch, insert, views, how, row, kept)
  base = made.method

  def contrast(key, params, learner, batch, outputs):
    loss = made.loss(key, params, learner, batch, outputs)
    return wave(learner.method_state.at, least_scale, most_scale, period) * loss

  def held(key, params, learner, batch, outputs):
    del key, params, learner
    rows, some, at = batch.extra["proxies"]
    gap = proxy_gap(at_places(outputs.logits, at), rows["logits"], counts(batch.y, batch.weight, spec.num_classes))
    f = heads.flat(at_places(outputs.features, at))
    likeness = structure(f, rows["features"], some.weight, temperature)
    each = alpha * gap + beta * likeness
    return jnp.where(batch.visit.others > 0, losses.reduce(each, some.weight), 0.0)

  def init(key, learner):
    begun = base.init(key, learner)
    return Holistic(begun.replay, begun.seen, jnp.int32(0))

  def start_task(key, learner, task):
    del key, task
    return learner._replace(method_state=learner.method_state._replace(at=jnp.int32(0)))

  def after_step(key, learner, info):
    learner = base.after_step(key, learner, info)
    return learner._replace(method_state=learner.method_state._replace(at=learner.method_state.at + 1))

  return base._replace(
    init=init,
    start_task=start_task,
    terms={"hpcr": contrast, "held": held},
    after_step=after_step,
  )


register(
  "hpcr",
  Entry(
    hpcr,
    {
      "alpha": Option(0.1, 0),
      "beta": Option(0.5, 0),
      "least_scale": Option(0.5625, 0),
      "most_scale": Option(1.8, 0),
      "period": Option(500, 1),
      "temperature": Option(0.09, 0, above=True),
      **second.VIEWS,
      **BUFFER,
      **INSERT_OUTPUTS,
    },
    ACCESS._replace(task_boundaries=True, needs=("classes", "plain_inputs")),
    "Lin et al. 2025",
  ),
)
