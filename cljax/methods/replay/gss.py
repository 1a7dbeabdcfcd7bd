"""GSS-greedy: what is kept are rows whose gradients point elsewhere than those of the rows that are kept already."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import memory as memories
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods import heads
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  append,
  drawn,
  example_row,
  offered,
  rows_of,
  scrub_memory,
  start,
)
from cljax.objectives.objective import reduced

FIRST = 0.1  # the score of rows that come when nothing is stored
LEAVES = ("all", "classifier")


def alikeness(model, spec: Spec, learner, own, pieces, names, key):
  """``(each [B], whole)``: the largest cosine of a row's gradient, and of all rows' together, with the gradients of the
  mean losses on ``pieces`` (a batch with a leading axis), in eval mode, of the parameters ``names``; FIRST where no
  piece has a row."""
  kept = {n: a for n, a in tree.by_path(learner.params).items() if n in names}

  def gradient(batch):
    """Its leaves in float32, and its norm."""
    x = spec.view(batch.x, batch.task)
    told = {"task": model.task_for(batch.task), "mask": None}

    def loss(part):
      params = tree.edit_leaves(learner.params, part)
      out, _ = model.apply(params, learner.model_state, x, train=False, key=key, **told)
      shown = batch._replace(x=x)
      each, inside = spec.objective.each(out.logits, shown)
      return reduced(each, inside, shown)

    grads = jax.tree.map(lambda g: g.astype(jnp.float32), jax.grad(loss)(kept))
    return grads, jnp.sqrt(tree.total(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))

  others, norms = jax.lax.map(gradient, pieces)
  there = (pieces.weight > 0).any(-1)

  def largest(batch):
    mine, norm = gradient(batch)
    dots = tree.total(
      jnp.sum(a * b[None], axis=tuple(range(1, a.ndim)))
      for a, b in zip(jax.tree.leaves(others), jax.tree.leaves(mine), strict=True)
    )
    cosine = dots / jnp.maximum(norms * norm, 1e-30)
    return jnp.where(there.any(), jnp.max(jnp.where(there, cosine, -jnp.inf)), FIRST)

  return jax.lax.map(largest, jax.tree.map(lambda a: a[:, None], own)), largest(own)


def gss(
  model, spec: Spec, *, beta, threshold, capacity: int, replay_batch: int = 0, memory_strength: int = 10,
  leaves: str = "all", insert: str = "once",
) -> Method:  # fmt: skip
  """GSS-greedy: ``mean CE(current) + beta mean CE(memory)``; the memory is :func:`cljax.memory.diverse`.

  A row's score is ``max_k cos(g, G_k)``, G_k the gradients of at most ``memory_strength`` batches (of ``replay_batch``
  rows; 0: as many as a batch has), disjoint pieces of one shuffle of the memory, at the parameters behind the row's
  step. A full memory is open to a batch whose own gradient, of all its rows, has a score below ``threshold``.
  ``leaves`` 'classifier': the gradients of the last layer alone, where those of all are too many: ``memory_strength``
  times their number is held, and each row of a step that is offered is one backward pass more, one after another.

  Deviations: current and replayed rows make one step, where the released code makes two of plain SGD, and runs several
  a batch; replayed rows are drawn uniformly, not in the order of one shuffle; gradients are in eval mode. Spec A6;
  Aljundi et al., 2019.
  """
  memory = memories.diverse(capacity)
  size = min(replay_batch or spec.batch_size, capacity)
  number = min(memory_strength, -(-capacity // size))
  all_names = frozenset(tree.paths(jax.eval_shape(model.init, jax.random.key(0))[0]))
  names = all_names if leaves == "all" else heads.classifier(model, spec)

  def inserted(key, learner, visit):
    """The memory with the pending rows that may enter it."""
    state = learner.method_state

    def add(state):
      some, there = memory.sample(fold(key, "gradients"), state.memory, number * size)
      pieces = drawn(spec, some, there, visit)
      pieces = jax.tree.map(lambda a: a.reshape(number, size, *a.shape[1:]), pieces)
      own = drawn(spec, state.pending, state.weight, visit)
      each, whole = alikeness(model, spec, learner, own, pieces, names, fold(key, "rows"))
      return memory.add(fold(key, "add"), state.memory, state.pending, each, state.weight, whole < threshold)

    filled = jax.lax.cond((state.weight > 0).any(), add, lambda state: state.memory, state)
    return state._replace(memory=filled, weight=jnp.zeros_like(state.weight))

  def prepare(key, learner, batch):
    state = inserted(key, learner, batch.visit)
    rows, weight = memory.sample(fold(key, "sample"), state.memory, size)
    batch = append(batch, drawn(spec, rows, weight, batch.visit), scale=beta)
    return learner._replace(method_state=state), batch

  def after_step(key, learner, info):
    del key
    weight = offered(spec, info.batch, insert)
    return learner._replace(
      method_state=learner.method_state._replace(pending=rows_of(spec, info.batch), weight=weight)
    )

  return Method(
    init=lambda key, learner: start(memory, spec, example_row(spec)),
    prepare=prepare,
    after_step=after_step,
    scrub=scrub_memory(memory),
  )


register(
  "gss",
  Entry(
    gss,
    {
      "beta": Option(1.0, 0),
      "threshold": Option(0.0),
      "memory_strength": Option(10, 1),
      "leaves": Option(LEAVES[0], choices=LEAVES),
      **{k: v for k, v in BUFFER.items() if k != "policy"},
    },
    ACCESS._replace(needs=("each", "plain_inputs")),
    "Aljundi et al. 2019",
  ),
)
