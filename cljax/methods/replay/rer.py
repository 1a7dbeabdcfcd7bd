"""RER: a small network weighs each new row and the stored row beside it, and learns from what a weighted step does to
stored rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import stored
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  Replay,
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
from cljax.objectives.objective import of_rows


class Relational(NamedTuple):
  """The memory of :func:`rer`, the network that weighs rows and its optimizer, and how far the task is."""

  replay: Replay
  net: Any
  moments: Any
  rows: Any  # int32: of the current task
  shown: Any  # int32: rows of it that were trained on, pass after pass
  steps: Any  # int32: made in it


def weighing_net(key, hidden: int):
  """The parameters of :func:`weigh`: kernels and biases uniform within ``1 / sqrt(inputs)``."""

  def layer(name, inner, outer):
    both = jax.random.uniform(fold(key, name), (inner + 1, outer), jnp.float32, -(inner**-0.5), inner**-0.5)
    return {"kernel": both[:-1], "bias": both[-1]}

  return {"losses": layer("losses", 2, hidden), "norms": layer("norms", 2, hidden), "out": layer("out", hidden, 2)}


def weigh(net, each, norm):
  """``sigmoid(W (relu(A l + a) + relu(C v + c)) + b)``, ``[n, 2]``, of pairs of losses l and of norms v ``[n, 2]``."""
  layer = lambda name, x: x @ net[name]["kernel"] + net[name]["bias"][None]
  inner = jax.nn.relu(layer("losses", each)) + jax.nn.relu(layer("norms", norm))
  return jax.nn.sigmoid(layer("out", inner))


def judged(spec: Spec, prediction, batch):
  """``(loss [B], norm [B])`` of each row: the objective's, and the length of its prediction; 0 of absent rows."""
  there = batch.weight > 0
  flat = [a.reshape(a.shape[0], -1).astype(jnp.float32) for a in jax.tree.leaves(prediction)]
  norm = jnp.sqrt(sum(jnp.sum(jnp.square(a), axis=-1) for a in flat))
  each = of_rows(*spec.objective.each(prediction, batch))
  return jnp.where(there, each, 0.0), jnp.where(there, norm, 0.0)


def relation(net, new, old, weight_new, weight_old, beta, span):
  """``(w [B], v [n])`` of new rows and of the stored ones beside the first n: ``span sigma`` and ``beta span sigma``.

  new and old: :func:`judged`, through which no derivative goes. A row without one beside it keeps 1, or beta.
  """
  size = weight_old.shape[0]
  pairs = [jax.lax.stop_gradient(jnp.stack([a[:size], b], axis=-1)) for a, b in zip(new, old, strict=True)]
  paired = (weight_new[:size] > 0) & (weight_old > 0)
  w = jnp.where(paired[:, None], span * weigh(net, *pairs), 1.0)
  return jnp.append(w[:, 0], jnp.ones(weight_new.shape[0] - size)), beta * w[:, 1]


def net_slope(model, spec: Spec, learner, net, own, pairs, others, rate, beta, span, key):
  """The derivative with respect to ``net`` of the mean loss of the rows ``others`` behind one step of plain SGD at
  ``rate`` on the weighted losses of the rows ``own`` and, beside them, ``pairs``."""
  params, state, count = learner.params, learner.model_state, own.weight.shape[0]
  batch = append(own, pairs)
  batch = batch._replace(x=spec.view(batch.x, batch.task))

  def weighted(params, net):
    told = {"task": model.task_for(batch.task), "mask": (batch.weight > 0).astype(jnp.float32)}
    out, _ = model.apply(params, state, batch.x, train=True, key=fold(key, "virtual"), **told)
    each, norm = judged(spec, out.logits, batch)
    new, old = (each[:count], norm[:count]), (each[count:], norm[count:])
    w, v = relation(net, new, old, own.weight, pairs.weight, beta, span)
    return losses.reduce(w * new[0], own.weight) + losses.reduce(v * old[0], pairs.weight)

  def behind(net):
    grads = jax.grad(weighted)(params, net)
    moved = jax.tree.map(lambda p, g: (p - rate * g).astype(p.dtype), params, grads)
    return stored.train_loss(model, spec, moved, state, others, fold(key, "behind"))

  return jax.grad(behind)(net)


def rer(
  model, spec: Spec, *, beta, span, virtual_rate, meta_rate, meta_decay, capacity: int, policy: str = "reservoir",
  insert: str = "once", hidden: int = 16, interval: int = 1, warm_passes: int = 1,
) -> Method:  # fmt: skip
  """RER: ``mean_i w_i CE(new_i) + beta mean_i v_i CE(stored_i)``, as many stored rows as new ones, w and v by a network
  of each pair's losses and logits' norms (:func:`weigh`, ``hidden`` units).

  From the second task on, each ``interval`` steps, the network takes a step of Adam (``meta_rate``, L2 ``meta_decay``)
  down the mean loss that stored rows have behind one weighted step of plain SGD at ``virtual_rate``, that of the run's:
  second derivatives of the model, in the same program. Its weights count once ``warm_passes`` passes over the task were
  made; till then, and in the first task, they are 1. ``w = span sigma``: with ``span`` 2 an undecided network weighs
  as before; 1 is the released form, whose losses are halved where weights begin to count. ``meta_decay`` as
  torch's Adam has it. ``interval`` is the paper's for below 20 epochs, a tenth of them; its ``warm_passes`` are half of
  them and one.

  Deviations: rows in the network's step are without the run's augmentation; new and stored rows go through the model
  together; the form with stored logits (RDER) is left out. After a request the network, which learned of losses of
  what is gone, stays, as parameters do; its moments begin anew. Spec A4; Wang et al., 2024.
  """
  memory, count = make_memory(spec, capacity, policy), spec.batch_size
  size, scrub_rows = min(count, capacity), scrub_memory(memory)
  tx = optax.chain(optax.add_decayed_weights(meta_decay), optax.scale_by_adam(), optax.scale(-meta_rate))

  def prepare(key, learner, batch):
    state = learner.method_state
    replay = insert_pending(key, memory, state.replay)

    def take(name):
      rows, weight = memory.sample(fold(key, name), replay.memory, size)
      return drawn(spec, rows, weight, batch.visit)

    own, some, pairs, others = stored.own_rows(spec, batch), take("sample"), take("pairs"), take("others")

    def trained(net, moments):
      slope = net_slope(model, spec, learner, net, own, pairs, others, virtual_rate, beta, span, fold(key, "net"))
      with jax.numpy_dtype_promotion("standard"):  # Adam raises a float to its int count
        updates, moments = tx.update(slope, moments, net)
      return optax.apply_updates(net, updates), moments

    due = (batch.visit.others > 0) & (state.steps % interval == interval - 1) & (pairs.weight > 0).any()
    due = due & (own.weight > 0).any()
    net, moments = jax.lax.cond(due, trained, lambda *kept: kept, state.net, state.moments)
    counts = (batch.visit.others > 0) & (state.shown >= warm_passes * state.rows)
    batch = batch._replace(extra={**batch.extra, "relation": (some, places(batch, size), counts)})
    state = state._replace(replay=replay, net=net, moments=moments, steps=state.steps + 1)
    state = state._replace(shown=state.shown + (own.weight > 0).sum(dtype=jnp.int32))
    return learner._replace(method_state=state), append(batch, some, scale=beta)

  def term(key, params, learner, batch, outputs):
    """What weights other than 1 and beta add to the loss."""
    del key, params
    some, at, counts = batch.extra["relation"]
    own = stored.own_rows(spec, batch)
    new = judged(spec, at_places(outputs.logits, jnp.arange(count, dtype=jnp.int32)), own)
    old = judged(spec, at_places(outputs.logits, at), some)
    w, v = relation(learner.method_state.net, new, old, own.weight, some.weight, beta, span)
    w, v = jax.lax.stop_gradient((w - 1.0, v - beta))
    more = losses.reduce(w * new[0], own.weight) + losses.reduce(v * old[0], some.weight)
    return jnp.where(counts, more, 0.0)

  def after_step(key, learner, info):
    del key
    state, weight = learner.method_state, offered(spec, info.batch, insert)
    replay = state.replay._replace(pending=rows_of(spec, info.batch), weight=weight)
    return learner._replace(method_state=state._replace(replay=replay))

  def start_task(key, learner, task):
    del key
    zero = jnp.zeros((), jnp.int32)
    state = learner.method_state._replace(rows=task.count.astype(jnp.int32), shown=zero, steps=zero)
    return learner._replace(method_state=state)

  def scrub(learner, request):
    state = learner.method_state
    replay = scrub_rows(learner._replace(method_state=state.replay), request).method_state
    return learner._replace(method_state=state._replace(replay=replay, moments=tx.init(state.net)))

  def init(key, learner):
    del learner
    net, zero = weighing_net(fold(key, "net"), hidden), jnp.zeros((), jnp.int32)
    return Relational(start(memory, spec, example_row(spec)), net, tx.init(net), zero, zero, zero)

  return Method(
    init=init,
    start_task=start_task,
    prepare=prepare,
    terms={"relation": term},
    after_step=after_step,
    scrub=scrub,
  )


register(
  "rer",
  Entry(
    rer,
    {
      "beta": Option(1.0, 0),
      "span": Option(2.0, 0, above=True),
      "virtual_rate": Option(0.05, 0),
      "meta_rate": Option(0.001, 0),
      "meta_decay": Option(0.0001, 0),
      "hidden": Option(16, 1),
      "interval": Option(1, 1),
      "warm_passes": Option(1, 0),
      **{k: v for k, v in BUFFER.items() if k != "replay_batch"},
    },
    ACCESS._replace(task_boundaries=True, needs=("each", "plain_inputs")),
    "Wang et al. 2024",
  ),
)
