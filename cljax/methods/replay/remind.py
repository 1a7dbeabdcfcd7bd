"""REMIND: lower layers that stand after the first task, and replay of codes of what they give."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax import memory as memories
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Batch, Model, Spec
from cljax.estimators import quantisers
from cljax.methods import views
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import drawn, grouped, insert_pending, offered, scrub_memory, start
from cljax.methods.replay.exemplars import in_blocks
from cljax.models import splitting

FIRST = ("train", "frozen")


class Quantised(NamedTuple):
  """The model state of a network whose upper part learns from codes."""

  network: Any
  centres: Any  # [S, K, d] of the parts of what the lower layers give
  fitted: Any  # bool: whether there are centres yet


def quantised_network(model, spec: Spec, cut: splitting.Split, parts: int, centroids: int, frozen: bool) -> Model:
  """The network that answers by ``upper(decode(encode(lower(x))))`` once there are centres; before, plainly.

  ``Outputs.hidden`` are the codes of the rows, uint8 ``[B, ..., S]``. ``frozen``: the lower part stands before, too.
  """
  *places, width = cut.value.shape
  count, size = quantisers.parts_of(width, parts)

  def init(key):
    params, state = model.init(key)
    return params, Quantised(state, jnp.zeros((count, centroids, size), jnp.float32), jnp.asarray(False))

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    told = {"train": train, "key": key, "task": task, "mask": mask}
    network = model_state.network
    value = lambda: jax.lax.stop_gradient(cut.lower(params, network, x, key, task))

    def by_codes():
      codes = quantisers.encoded(model_state.centres, value())
      shown = quantisers.decoded(model_state.centres, codes, width).astype(cut.value.dtype)
      return (*cut.upper(params, network, shown, **told), codes)

    def plainly():
      out, moved = cut.upper(params, network, value(), **told) if frozen else model.apply(params, network, x, **told)
      return out._replace(hidden=()), moved, jnp.zeros((out.logits.shape[0], *places, count), jnp.uint8)

    out, moved, codes = jax.lax.cond(model_state.fitted, by_codes, plainly)
    return out._replace(hidden=(codes,)), model_state._replace(network=moved)

  return Model(init, apply, by_task=model.by_task, check_rows=model.check_rows)


def mixed_loss(upper, key, a: Batch, b: Batch, centres, width: int, strength, least):
  """``(sum_i [m C(z_i, y_a) + (1 - m) C(z_i, y_b)], count)``: z the logits of ``m v_a + (1 - m) v_b``, m ~ Beta(s, s)
  one for the step; v the decoded codes, of maps ``[H, W, D]`` a part of at least ``least`` of the area
  (:func:`cljax.methods.views.cut_out`). ``strength`` None, and where there is no row b: of a alone."""

  def shown(name, rows):
    value = quantisers.decoded(centres, rows.x, width)
    if value.ndim != 4:
      return value
    keys = jax.random.split(fold(key, name), value.shape[0])
    return jax.vmap(lambda k, v: views.cut_out(k, v, least))(keys, value)

  value, there = shown("a", a), a.weight > 0
  cross = lambda logits, rows: losses.cross_entropy(logits, rows.y, rows.class_mask)
  if strength is None:
    each = cross(upper(value, a), a)
  else:
    share = jnp.where(b.weight > 0, jax.random.beta(fold(key, "share"), strength, strength), 1.0)
    wide = share.reshape(-1, *(1,) * (value.ndim - 1))
    logits = upper(wide * value + (1.0 - wide) * shown("b", b), a)
    each = share * cross(logits, a) + (1.0 - share) * jnp.where(share < 1.0, cross(logits, b), 0.0)
  return jnp.sum(jnp.where(there, each, 0.0)), jnp.sum(there, dtype=jnp.float32)


def remind(
  model, spec: Spec, *, strength, least_area, capacity: int, replay_batch: int = 50, parts: int = 32,
  centroids: int = 256, mixup: bool = True, layer: str = "auto", first_task: str = "train", insert: str = "once",
) -> Method:  # fmt: skip
  """REMIND: ``mean C(F(q(G(x))), y)`` over the rows of the step and ``replay_batch`` mixed pairs of stored ones.

  G: what comes before ``layer`` (:func:`cljax.models.splitting.split`), F the rest. The first task is learned plainly,
  or with ``first_task`` 'frozen' by F alone; when it ends G stands for good, ``parts`` x ``centroids`` centres are
  fitted to what it gives of the task's rows, and these are stored. q: product quantisation and back, of new rows and
  test rows too. Stored: codes, a byte for each part of each place of a map, ids, tasks and labels; at most ``capacity``
  rows, and beyond it a random one of the largest class goes. Pairs are 2 ``replay_batch`` distinct stored rows, mixed
  as :func:`mixed_loss` says with Beta(``strength``, ``strength``), cut to ``least_area`` of their maps, where they have
  maps; without ``mixup`` as many rows alone.

  Deviations: the run's learning rate in place of one that halves every 100 rows of a class, and steps of more than one
  row; codes are of rows as the step saw them, augmented or not; centres by Lloyd's algorithm on at most 256 vectors
  each, where faiss also begins with a random draw; replayed rows go through F in a pass of their own, of which
  BatchNorm's running statistics count nothing. A request's rows leave the memory; centres, means of many rows, stay
  (retraining clears them), and codes stay those of G as it was before an edit that moves it. Raises UsageError where
  the network can not be cut, and as ``centroids`` are above 256, for a code is a byte. Spec A8; Hayes et al., 2020.
  """
  cut = splitting.split(model, spec, layer, "remind")
  *places, width = cut.value.shape
  network = quantised_network(model, spec, cut, parts, centroids, first_task == "frozen")
  memory, count = memories.greedy_balanced(capacity, spec.num_classes), quantisers.parts_of(width, parts)[0]
  size = min(replay_batch, max(capacity // 2, 1)) if mixup else min(replay_batch, capacity)
  draws = min(2 * size if mixup else size, capacity)
  integer = jnp.zeros((), jnp.int32)
  row = {"x": jnp.zeros((*places, count), jnp.uint8), "y": integer, "id": integer, "task": integer}

  def prepare(key, learner, batch):
    state = insert_pending(key, memory, learner.method_state)
    rows, weight = memory.sample(fold(key, "sample"), state.memory, draws)
    some = drawn(spec, rows, weight, batch.visit)
    half = lambda of: jax.tree.map(lambda v: v[of], some)
    a, b = half(slice(0, size)), half(slice(draws - size, draws))
    new, old = jnp.sum(batch.weight > 0, dtype=jnp.float32), jnp.sum(a.weight > 0, dtype=jnp.float32)
    batch = grouped(batch)
    batch = batch._replace(scale=batch.scale * new / jnp.maximum(new + old, 1.0))
    return learner._replace(method_state=state), batch._replace(extra={**batch.extra, "codes": (a, b)})

  def term(key, params, learner, batch, outputs):
    del outputs
    (a, b), state = batch.extra["codes"], learner.model_state

    def upper(value, rows):
      told = {"task": rows.task if model.by_task else None, "mask": (rows.weight > 0).astype(jnp.float32)}
      value = value.astype(cut.value.dtype)
      return cut.upper(params, state.network, value, train=True, key=fold(key, "model"), **told)[0].logits

    total, old = mixed_loss(upper, key, a, b, state.centres, width, strength if mixup else None, least_area)
    return total / jnp.maximum(jnp.sum(batch.weight > 0, dtype=jnp.float32) + old, 1.0)

  def after_step(key, learner, info):
    del key
    state, own = learner.method_state, slice(0, spec.batch_size)
    rows = {"x": info.outputs.hidden[0], "y": info.batch.y, "id": info.batch.id, "task": info.batch.task}
    weight = jnp.where(learner.model_state.fitted, offered(spec, info.batch, insert), 0.0)
    pending = jax.tree.map(lambda v: v[own], rows)
    return learner._replace(method_state=state._replace(pending=pending, weight=weight))

  def end_task(key, learner, task):
    def begun(learner):
      model_state, capacity_of_task = learner.model_state, task.rows.capacity
      params, inner = learner.params, model_state.network
      value = lambda start, block: _value(cut, params, inner, task.rows.batch(start, block), learner.key)
      found = in_blocks(value, capacity_of_task)
      rows = task.rows.batch(0, capacity_of_task)
      vectors = found.reshape(-1, width)
      weight = jnp.repeat(rows.weight, vectors.shape[0] // capacity_of_task)
      centres = quantisers.fitted(fold(key, "centres"), vectors, weight, parts, centroids)
      codes = quantisers.encoded(centres, found)
      stored = {"x": codes, "y": rows.y, "id": rows.id, "task": rows.task}
      filled = memory.add(fold(key, "base"), learner.method_state.memory, stored, rows.weight)
      return learner._replace(
        model_state=model_state._replace(centres=centres, fitted=rows.weight.sum() > 0),
        method_state=learner.method_state._replace(memory=filled),
      )

    learner = jax.lax.cond(learner.model_state.fitted, lambda learner: learner, begun, learner)
    return learner._replace(opt_state=splitting.held_from_now(learner.opt_state))

  return Method(
    model=network,
    init=lambda key, learner: start(memory, spec, row),
    prepare=prepare,
    terms={"codes": term},
    finalize=splitting.hold(cut.below, first_task == "frozen"),
    after_step=after_step,
    end_task=end_task,
    scrub=scrub_memory(memory),
  )


def _value(cut: splitting.Split, params, model_state, rows: Batch, key):
  return cut.lower(params, model_state, rows.x, key, rows.task)


register(
  "remind",
  Entry(
    remind,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(50, 1),
      "parts": Option(32, 1),
      "centroids": Option(256, 1, quantisers.MOST),
      "mixup": Option(True),
      "strength": Option(0.2, 0, above=True, needs={"mixup": (True,)}),
      "least_area": Option(2 / 7, 0, 1),
      "layer": Option("auto"),
      "first_task": Option("train", choices=FIRST),
      "insert": Option("once", choices=("once", "every_pass")),
    },
    Access(row_ids=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Hayes et al. 2020",
  ),
)
