"""I-LoRA: replay of a low-rank adapter that learns fast, held to a slow average of itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import edits, losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Spec, UsageError
from cljax.methods.adapters.pairs import PAIRS
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import buffers
from cljax.models import tuning
from cljax.objectives.rows import grouped


class Slow(NamedTuple):
  """A memory of rows, and the slow copy of what is trained; ``stale`` from a deletion request to the next step."""

  replay: Any
  params: Any
  stale: Any  # bool


def held_up(fast, slow):
  """``[B]``: the mean over a layer's numbers of ``relu(slow - fast)^2``, and of that over the layers; tuples of
  ``[B, ...]``."""
  gap = lambda h, s: jnp.square(jax.nn.relu(s.astype(jnp.float32) - h.astype(jnp.float32)))
  each = [jnp.mean(gap(h, s).reshape(h.shape[0], -1), axis=-1) for h, s in zip(fast, slow, strict=True)]
  return sum(each) / len(each)


def i_lora(
  model, spec: Spec, *, strength, decay, trained: str, rank: int = 8, layers: str = "", answers: str = "slow",
  capacity: int, policy: str = "reservoir", replay_batch: int = 0, insert: str = "once",
) -> Method:  # fmt: skip
  """I-LoRA: ``(L(current) + L(memory)) / 2 + strength mean relu(h_slow - h)^2`` of a network under low-rank adapters.

  h are the hidden activations of the memory's rows, and h_slow those under a slow copy of what is trained, in eval
  mode: a unit is drawn up to what it was, never down. Both parts begin with the second task; the first learns by its
  own rows, which the memory takes. After step s (from 0) ``slow <- a slow + (1 - a) fast``, ``a = min(1 - 1/(s + 1),
  decay)``. Kernels are ``W + A B`` of :func:`cljax.models.tuning.lora`, W frozen; the leaves that ``trained`` finds
  (the classifier) are trained in full and averaged too. ``answers``: the slow copy, or the 'fast' one, which the
  released code saves. The default decay is the released one, at which the copy is slow in name alone; the paper's
  numbers were not read (UNVERIFIED), nor which of the two answers.

  Deviations: the released code averages the fast adapter with itself, for the names of the slow one's leaves are not
  among those it looks for, so that there the slow one stays zero; the mean is over a layer's numbers and then over
  layers, the same where they are of one width. BatchNorm's statistics are the learner's in both. After a request the
  slow copy knows what is to be forgotten: the edited parameters take its place. Raises UsageError for patterns that
  find nothing and a model without hidden activations. Spec B4; Ren et al., "Analyzing and reducing catastrophic
  forgetting in parameter efficient tuning", 2024.
  """
  network = tuning.lora(model, rank, layers=layers, trained=trained, label="method.")
  memory = buffers.make_memory(spec, capacity, policy)
  size, scrub_rows = min(replay_batch or spec.batch_size, capacity), buffers.scrub_memory(memory)
  _check_hidden(network, spec)

  def of_replay(learner):
    return learner._replace(method_state=learner.method_state.replay)

  def slow_params(learner):
    state = learner.method_state
    return jax.tree.map(lambda now, mean: jnp.where(state.stale, now, mean), learner.params, state.params)

  def prepare(key, learner, batch):
    state = learner.method_state
    replay = buffers.insert_pending(key, memory, state.replay)
    rows, weight = memory.sample(tree.fold(key, "sample"), replay.memory, size)
    weight = jnp.where(batch.visit.others > 0, weight, jnp.zeros_like(weight))
    half = jnp.where((weight > 0).any(), 0.5, 0.0).astype(jnp.float32)
    batch = grouped(batch)
    batch = batch._replace(
      scale=batch.scale * (1.0 - half), extra={**batch.extra, "places": buffers.places(batch, size)}
    )
    batch = buffers.append(batch, buffers.drawn(spec, rows, weight, batch.visit), scale=half)
    return learner._replace(method_state=state._replace(replay=replay)), batch

  def term(key, params, learner, batch, outputs):
    del params
    at = batch.extra["places"]
    cut = lambda a: jax.lax.dynamic_slice_in_dim(a, at[0], size)
    x, weight, task = jax.tree.map(cut, (batch.x, batch.weight, batch.task))
    told = {"task": network.task_for(task), "mask": None}
    out, _ = network.apply(slow_params(learner), learner.model_state, x, train=False, key=key, **told)
    slow = jax.lax.stop_gradient(out.hidden)
    return strength * losses.reduce(held_up(buffers.at_places(outputs.hidden, at), slow), weight)

  def after_step(key, learner, info):
    del key
    state = learner.method_state
    a = jnp.minimum(1.0 - 1.0 / learner.step.astype(jnp.float32), decay)  # the step is counted already
    replay = state.replay._replace(
      pending=buffers.rows_of(spec, info.batch), weight=buffers.offered(spec, info.batch, insert)
    )
    return learner._replace(
      method_state=Slow(replay, edits.ema(slow_params(learner), learner.params, a), jnp.zeros((), bool))
    )

  def scrub(learner, request):
    replay = scrub_rows(of_replay(learner), request).method_state
    return learner._replace(method_state=learner.method_state._replace(replay=replay, stale=jnp.ones((), bool)))

  def predict(key, learner, x, task):
    params = slow_params(learner) if answers == "slow" else learner.params
    told = {"task": network.task_for(task), "mask": None}
    return network.apply(params, learner.model_state, x, train=False, key=key, **told)[0].logits

  def init(key, learner):
    del key
    replay = buffers.start(memory, spec, buffers.example_row(spec))
    return Slow(replay, tree.copy(learner.params), jnp.zeros((), bool))

  return Method(
    network, init=init, prepare=prepare, terms={"consistency": term}, after_step=after_step, scrub=scrub,
    predict=predict,
  )  # fmt: skip


def _check_hidden(network, spec: Spec) -> None:
  row = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), spec.shown)
  told = {"train": False, "key": jax.random.key(0), "mask": None, "task": network.task_for(jnp.zeros(1, jnp.int32))}
  run = lambda params, state, x: network.apply(params, state, x, **told)[0].hidden
  if not jax.eval_shape(run, *jax.eval_shape(network.init, jax.random.key(0)), row):
    raise UsageError("method.name: 'i_lora' needs a model that returns hidden activations (Outputs.hidden is empty)")


register(
  "i_lora",
  Entry(
    i_lora,
    {
      "strength": Option(1.0, 0),
      "decay": Option(0.25, 0, 1),
      "answers": Option("slow", choices=("slow", "fast")),
      **PAIRS,
      **buffers.BUFFER,
      "capacity": Option(500, 1),
    },
    buffers.ACCESS._replace(needs=("plain_inputs",)),
    "Ren et al. 2024",
  ),
)
