"""PCR: the contrast of rows with the proxies of the classes that are in the batch, in place of the softmax over all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Model, Spec
from cljax.methods import views as second
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  Replay,
  append,
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
from cljax.methods.replay.er_ace import labels_of
from cljax.models import heads
from cljax.objectives.rows import of_terms_alone


class Proxies(NamedTuple):
  """The memory of :func:`pcr`, and which labels its rows have had."""

  replay: Replay
  seen: Any  # [C] bool


class ProxyReplay(NamedTuple):
  """What :func:`proxy_replay` is put together from: its model, its hooks, and ``loss(key, params, learner, batch,
  outputs)``."""

  network: Model
  method: Method
  loss: Callable


def counts(y, weight, num_classes: int):
  """``[C]`` float32: how many rows of positive weight each label has."""
  return jnp.sum(jax.nn.one_hot(y, num_classes) * (weight > 0).astype(jnp.float32)[:, None], axis=0)


def proxy_contrast(logits, y, weight, class_mask=None):
  """``log sum_c n_c exp(z_c) - z_y`` of each row, ``[B]``; n_c the rows of positive weight of class c.

  logits ``[B, C]``: cosines of features and proxies over a temperature. This is the contrast of each row with the
  proxies of all rows of the batch, its own among them, the mean over those of its label: a class is a negative as often
  as it has rows, and one without rows takes no part. class_mask ``[B, C]``: the classes that do for a row.
  """
  count = counts(y, weight, logits.shape[-1])
  there = jnp.broadcast_to(count > 0, logits.shape)
  there = there if class_mask is None else there & class_mask
  often = jnp.log(jnp.maximum(count, 1.0))
  log_p = losses.masked_log_softmax(logits + often[None], there)
  return often[y] - jnp.take_along_axis(log_p, y[:, None], axis=-1)[:, 0]


def proxy_replay(
  model, spec: Spec, owner: str, temperature, capacity: int, policy: str, replay_batch: int, insert: str, views: bool,
  how, row=None, kept: Callable = lambda info: {},
) -> ProxyReplay:  # fmt: skip
  """:func:`pcr` without its terms. ``row`` and ``kept(info)``: what is stored beside each row, an example and those of
  a step; ``extra["proxies"]`` of a batch has the rows drawn, as they are stored and as a batch, and their places."""
  if views:
    second.refuse_other_inputs(spec, owner, ", or method.views=False")
  network = heads.cosine_classifier(model, spec, owner, scale=1.0 / temperature, learned=False)
  memory, classes = make_memory(spec, capacity, policy), spec.num_classes
  size, scrub_rows = min(replay_batch or spec.batch_size, capacity), scrub_memory(memory)

  def prepare(key, learner, batch):
    state, own = learner.method_state, slice(0, spec.batch_size)
    seen = state.seen | labels_of(batch.y[own], batch.weight[own], classes)
    replay = insert_pending(key, memory, state.replay)
    rows, weight = memory.sample(fold(key, "sample"), replay.memory, size)
    some = drawn(spec, rows, weight, batch.visit)
    batch = batch._replace(extra={**batch.extra, "proxies": (rows, some, places(batch, size))})
    return learner._replace(method_state=state._replace(replay=replay, seen=seen)), of_terms_alone(append(batch, some))

  def loss(key, params, learner, batch, outputs):
    logits, parts = outputs.logits, (batch.y, batch.weight, batch.class_mask)
    if views:
      other = second.second_pass(key, network, spec, params, learner, batch, **how)
      logits = jnp.concatenate([logits, other.logits])
      parts = jax.tree.map(lambda a: jnp.concatenate([a, a]), parts)
    return losses.reduce(proxy_contrast(logits, *parts), parts[1])

  def after_step(key, learner, info):
    del key
    state, weight = learner.method_state, offered(spec, info.batch, insert)
    replay = state.replay._replace(pending=rows_of(spec, info.batch, **kept(info)), weight=weight)
    return learner._replace(method_state=state._replace(replay=replay))

  def predict(key, learner, x, task):
    told, seen = {"task": network.task_for(task), "mask": None}, learner.method_state.seen
    out, _ = network.apply(learner.params, learner.model_state, x, train=False, key=key, **told)
    return jnp.where((seen | ~seen.any())[None], out.logits, -jnp.inf)

  def scrub(learner, request):
    state = learner.method_state
    replay = scrub_rows(learner._replace(method_state=state.replay), request).method_state
    return learner._replace(method_state=state._replace(replay=replay, seen=state.seen & ~request.classes))

  def init(key, learner):
    del key, learner
    return Proxies(start(memory, spec, example_row(spec, **(row or {}))), jnp.zeros(classes, bool))

  hooks = Method(network, init, prepare=prepare, after_step=after_step, predict=predict, scrub=scrub)
  return ProxyReplay(network, hooks, loss)


def pcr(
  model, spec: Spec, *, temperature, least_area, jitter, grey, capacity: int, policy: str = "reservoir",
  replay_batch: int = 0, insert: str = "once", views: bool = True, flip: bool = True,
) -> Method:  # fmt: skip
  """PCR: ``mean over both views of rows [current; memory] of log sum_c n_c exp(z_c) - z_y``, :func:`proxy_contrast`.

  ``z_c = cos(f(x), w_c) / temperature``; n_c counts the views of class c, so that proxies of classes that the step does
  not show stand still. Second views are those of :func:`cljax.methods.views.second_view`; ``views`` False does
  without, for inputs of any form. Answers: z, -inf for labels that no row has had yet; a request that takes a class
  whole makes it one of these again. While nothing is stored the rows of the step are alone: the released code
  multiplies that loss by 0, and drops the rows of a last batch that is not full.

  Second views go through the network in a pass of their own, of which BatchNorm's running statistics count nothing.
  Deviations: values of second views are not cut to [0, 1], their hue is turned in YIQ. Raises UsageError for inputs
  that are no pictures ``[H, W, C]`` where there are views, and for a model without features. Spec A5; Lin et al., 2023.
  """
  how = {"least_area": least_area, "jitter": jitter, "grey": grey, "flip": flip}
  made = proxy_replay(model, spec, "pcr", temperature, capacity, policy, replay_batch, insert, views, how)
  return made.method._replace(terms={"pcr": made.loss})


register(
  "pcr",
  Entry(
    pcr,
    {"temperature": Option(0.09, 0, above=True), **second.VIEWS, **BUFFER},
    ACCESS._replace(needs=("classes", "plain_inputs")),
    "Lin et al. 2023",
  ),
)
